import numpy as np
import pytest

from fashion_dml.evaluation.metrics import measure
from fashion_dml.evaluation.protocol import Items, LeftOut, Measured, Vertical, evaluate, searched
from fashion_dml.storage import UserError

from .conftest import NAMES, make_verticals


def test_separate_is_each_vertical_by_itself():
    verticals = make_verticals(1.2)
    found = evaluate(verticals, "separate")
    assert isinstance(found, Measured)
    for v in verticals:
        own = measure(v.queries.vectors, v.queries.labels, v.queries.vectors, v.queries.labels, exclude=np.arange(36))
        np.testing.assert_array_equal(found.by_vertical[v.name].first_rank, own.first_rank)
    assert found.names == NAMES
    assert found.verticals.tolist() == [n for n in NAMES for _ in range(36)]
    assert len(found.queries) == len(found.query_ids) == 108


def test_merged_is_all_in_one_index():
    verticals = make_verticals(1.2)
    found = evaluate(verticals, "merged")
    assert isinstance(found, Measured)
    vectors = np.concatenate([v.queries.vectors for v in verticals])
    labels = np.concatenate([v.queries.labels for v in verticals])
    whole = measure(vectors, labels, vectors, labels, exclude=np.arange(108))
    np.testing.assert_array_equal(found.queries.first_rank, whole.first_rank)


def test_merging_can_only_lower_a_rank():
    verticals = make_verticals(1.5)
    separate, merged = (evaluate(verticals, p) for p in ("separate", "merged"))
    assert (merged.queries.first_rank >= separate.queries.first_rank).all()


def test_specialists_of_different_dimensions_have_no_merged_index():
    verticals = make_verticals(1.0, dims=(8, 8, 12))
    assert isinstance(evaluate(verticals, "separate"), Measured)
    found = evaluate(verticals, "merged")
    assert isinstance(found, LeftOut)
    assert "dresses 8, shoes 8, bags 12" in found.reason


def test_macro_weighs_verticals_and_micro_queries():
    a, b, _ = make_verticals(0.01)
    few = Items(b.queries.vectors[:3], b.queries.labels[:3], b.queries.image_ids[:3])
    bad = Vertical("shoes", Items(few.vectors, np.array([1, 1, 2]) + 5000, few.image_ids), few)
    found = evaluate([a, bad], "separate")
    assert found.by_vertical["shoes"].unscored == 3
    assert found.macro()["R@1"] == found.by_vertical["dresses"].summary()["R@1"] == 1
    assert found.queries.unscored == 3


def test_query_gallery_protocol_masks_nothing():
    a, b, _ = make_verticals(0.5)
    verticals = [Vertical("dresses", a.queries, a.queries), b]
    index, own = searched(verticals, verticals[0], "merged")
    assert own is None
    assert len(index.labels) == 72
    _, rows = searched(verticals, b, "merged")
    np.testing.assert_array_equal(rows, np.arange(36, 72))
    assert evaluate(verticals, "separate").by_vertical["dresses"].summary()["R@1"] == 1


@pytest.mark.parametrize("protocol", ["separate", "merged"])
def test_product_level(protocol):
    found = evaluate(make_verticals(0.5), protocol, level="product")
    assert found.level == "product"
    assert (found.queries.relevant == 1).all()


def test_a_product_in_two_verticals_is_a_right_answer_in_both():
    a, _, _ = make_verticals(1.0)
    twin = Vertical("twin", a.queries)
    separate, merged = (evaluate([a, twin], p) for p in ("separate", "merged"))
    alone = evaluate([a], "separate")
    assert separate.by_vertical["dresses"].summary() == alone.by_vertical["dresses"].summary()
    assert merged.by_vertical["dresses"].relevant.tolist() == (2 * alone.by_vertical["dresses"].relevant + 1).tolist()


def test_bad_input_is_refused():
    a, b, _ = make_verticals(1.0)
    with pytest.raises(UserError, match="no vertical"):
        evaluate([], "separate")
    with pytest.raises(UserError, match="'dresses' is given 2 times"):
        evaluate([a, a], "separate")
    with pytest.raises(UserError, match="'shared'; choose separate or merged"):
        evaluate([a, b], "shared")
    none = Items(np.empty((0, 16), np.float32), np.empty(0, np.int64), np.empty(0, str))
    with pytest.raises(UserError, match="'empty' has no query image"):
        evaluate([Vertical("empty", none)], "separate")
    with pytest.raises(UserError, match="36 vectors, 2 labels"):
        Items(a.queries.vectors, np.array([1, 2]), a.queries.image_ids)
