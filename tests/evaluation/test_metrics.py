import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dml.evaluation.metrics import join, measure, metric_names
from fashion_dml.evaluation.neighbours import TIE, normalised
from fashion_dml.storage import UserError

from .reference import ranks_of_relevant, values_of

RECALL_AT = (1, 2, 5)


def circle(*degrees: float) -> np.ndarray:
    """Unit vectors in the plane: their order by similarity to 0 degrees is by angle."""
    angle = np.radians(degrees)
    return np.stack([np.cos(angle), np.sin(angle)], axis=1).astype(np.float32)


def test_hand_computed_query():
    """Ranks 2, 3 and 6 of three relevant items in a gallery of six."""
    gallery = circle(10, 20, 30, 40, 50, 60)
    labels = np.array([9, 1, 1, 9, 9, 1])
    found = measure(circle(0), np.array([1]), gallery, labels, recall_at=RECALL_AT)
    assert found.relevant.tolist() == [3]
    assert found.first_rank.tolist() == [2]
    expected = {
        "R@1": 0,
        "R@2": 1,
        "R@5": 1,
        "mAP": (1 / 2 + 2 / 3 + 3 / 6) / 3,
        "MAP@R": (1 / 2 + 2 / 3) / 3,
        "R-Precision": 2 / 3,
        "P@1": 0,
        "MRR": 1 / 2,
    }
    assert found.summary() == pytest.approx(expected)
    assert list(found.values) == metric_names(RECALL_AT)


def test_product_level_ranks_products_by_their_best_image():
    """Products by best image: 9 (10 degrees), 1 (20 degrees), 8 (40 degrees)."""
    gallery, labels = circle(10, 20, 30, 40, 50, 60), np.array([9, 1, 9, 8, 1, 9])
    found = measure(circle(0), np.array([1]), gallery, labels, level="product", recall_at=RECALL_AT)
    assert found.relevant.tolist() == [1]
    assert found.summary() == pytest.approx(
        {**dict.fromkeys(("R@1", "P@1", "R-Precision", "MAP@R"), 0), **dict.fromkeys(("R@2", "R@5"), 1), "mAP": 0.5, "MRR": 0.5}
    )


def test_a_tied_wrong_item_ranks_before_the_right_one():
    gallery, labels = circle(10, 10, 30), np.array([1, 2, 1])
    found = measure(circle(0), np.array([1]), gallery, labels, recall_at=RECALL_AT)
    assert found.first_rank.tolist() == [2]
    assert found.values["mAP"][0] == pytest.approx((1 / 2 + 2 / 3) / 2)


@settings(max_examples=80, deadline=None)
@given(
    seed=st.integers(0, 2**32 - 1),
    queries=st.integers(1, 14),
    items=st.integers(1, 40),
    products=st.integers(1, 8),
    whole=st.booleans(),
    level=st.sampled_from(["image", "product"]),
    own=st.booleans(),
    memory=st.sampled_from([1, 1000, 1 << 20]),
)
def test_equals_brute_force(seed, queries, items, products, whole, level, own, memory):
    """Random sizes, labels that may be missing from the gallery, heavy ties, self-retrieval and query/gallery."""
    rng = np.random.default_rng(seed)
    draw = (lambda n: rng.integers(-1, 2, (n, 3))) if whole else (lambda n: rng.normal(size=(n, 8)))
    gallery, labels = draw(items).astype(np.float32), rng.integers(-products, products, items) * 2**40
    if own:
        vectors, query_labels, exclude = gallery, labels, np.arange(items)
    else:
        vectors, query_labels = draw(queries).astype(np.float32), rng.integers(-products, products, queries) * 2**40
        exclude = rng.integers(-1, items, queries)
    found = measure(
        vectors, query_labels, gallery, labels, exclude=exclude, level=level, recall_at=RECALL_AT, memory_bytes=memory
    )
    for q, vector in enumerate(normalised(vectors)):
        ranks = ranks_of_relevant(vector, query_labels[q], normalised(gallery), labels, exclude[q], level)
        expected = values_of(ranks, RECALL_AT)
        assert found.relevant[q] == len(ranks)
        assert found.first_rank[q] == (ranks[0] if ranks else 0)
        assert {n: v[q] for n, v in found.values.items()} == pytest.approx(expected, nan_ok=True)


def clusters_without_ties(own: bool):
    """Random clusters in which no right and wrong score of a query come within 2 x TIE, so that every order is clear."""
    for seed in range(50):
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 25, 150)
        centres = rng.normal(size=(25, 16))
        gallery = (centres[labels] + 1.5 * rng.normal(size=(150, 16))).astype(np.float32)
        query_labels = labels if own else rng.integers(0, 25, 80)
        queries = gallery if own else (centres[query_labels] + 1.5 * rng.normal(size=(80, 16))).astype(np.float32)
        scores = normalised(queries).astype(float) @ normalised(gallery).astype(float).T
        right = query_labels[:, None] == labels
        gaps = [np.abs(s[r][:, None] - s[~r]).min(initial=1) for s, r in zip(scores, right, strict=True)]
        if min(gaps) > 2 * TIE:
            return queries, query_labels, gallery, labels, np.arange(150) if own else None
    raise AssertionError("all 50 seeds have near-ties")


@pytest.mark.parametrize("own", [True, False])
def test_agrees_with_pytorch_metric_learning(own):
    import torch
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    queries, query_labels, gallery, labels, exclude = clusters_without_ties(own)
    names = {
        "precision_at_1": "P@1",
        "r_precision": "R-Precision",
        "mean_average_precision_at_r": "MAP@R",
        "mean_average_precision": "mAP",
        "mean_reciprocal_rank": "MRR",
    }
    calculator = AccuracyCalculator(include=tuple(names), k=None, knn_func=CustomKNN(CosineSimilarity(), batch_size=64))
    theirs = calculator.get_accuracy(
        torch.from_numpy(queries), torch.from_numpy(query_labels), torch.from_numpy(gallery), torch.from_numpy(labels), own
    )
    ours = measure(queries, query_labels, gallery, labels, exclude=exclude).summary()
    assert {name: ours[mine] for name, mine in names.items()} == pytest.approx(theirs, abs=1e-6)  # PML averages in float32


@pytest.mark.parametrize("dim", [2, 128, 2048])
@pytest.mark.parametrize("noise", [0.0, 1e-8])
@pytest.mark.parametrize("level", ["image", "product"])
def test_collapsed_embedding_scores_nothing(dim, noise, level):
    """Rows in product order, where every index-order tie break would give a perfect score."""
    rng = np.random.default_rng(dim)
    vectors = (normalised(rng.normal(size=(1, dim)).astype(np.float32)) + noise * rng.normal(size=(600, dim))).astype(
        np.float32
    )
    labels = np.repeat(np.arange(200), 3)
    summary = measure(vectors, labels, vectors, labels, exclude=np.arange(600), level=level, memory_bytes=100_000).summary()
    assert summary["R@1"] == summary["R@20"] == summary["P@1"] == summary["MAP@R"] == 0
    assert summary["MRR"] <= 1 / 200
    assert summary["mAP"] < 0.01


def test_block_size_does_not_change_the_result():
    rng = np.random.default_rng(5)
    labels = rng.integers(0, 90, 500)
    vectors = (rng.normal(size=(90, 64))[labels] + rng.normal(size=(500, 64))).astype(np.float32)
    first = measure(vectors, labels, vectors, labels, exclude=np.arange(500))
    for memory in (1, 30_000, 300_000):
        other = measure(vectors, labels, vectors, labels, exclude=np.arange(500), memory_bytes=memory)
        for name, values in first.values.items():
            np.testing.assert_array_equal(values, other.values[name])


def test_query_gallery_masks_no_diagonal_and_self_is_left_out_by_number():
    vectors, labels = circle(0, 40, 80), np.array([1, 2, 3])
    assert measure(vectors, labels, vectors, labels).summary()["R@1"] == 1
    alone = measure(vectors, labels, vectors, labels, exclude=np.arange(3))
    assert alone.unscored == 3
    assert np.isnan(alone.summary()["R@1"])
    # Self is the row named, not the first neighbour: row 1 is a copy of row 0.
    twins, same = circle(0, 0, 80), np.array([1, 1, 3])
    assert measure(twins, same, twins, same, exclude=np.arange(3)).first_rank.tolist() == [1, 1, 0]


def test_unscored_queries_are_counted_and_not_scored():
    found = measure(circle(0, 90), np.array([1, 7]), circle(5, 10), np.array([1, 1]))
    assert (len(found), found.unscored) == (2, 1)
    assert found.summary()["R@1"] == 1
    assert np.isnan(found.values["mAP"][1])
    empty = measure(circle(0), np.array([1]), np.empty((0, 2), np.float32), np.empty(0, np.int64))
    assert empty.unscored == 1


def test_the_length_of_vectors_does_not_matter():
    rng = np.random.default_rng(8)
    vectors, labels = rng.normal(size=(60, 8)).astype(np.float32), np.repeat(np.arange(20), 3)
    scaled = vectors * rng.uniform(0.01, 100, (60, 1)).astype(np.float32)
    one, other = (measure(v, labels, v, labels, exclude=np.arange(60)).summary() for v in (vectors, scaled))
    assert one == pytest.approx(other)


def test_select_and_join_keep_every_query():
    rng = np.random.default_rng(9)
    vectors, labels = rng.normal(size=(30, 4)).astype(np.float32), rng.integers(0, 8, 30)
    found = measure(vectors, labels, vectors, labels, exclude=np.arange(30))
    back = join([found.select(np.arange(30) < 12), found.select(np.arange(12, 30))])
    np.testing.assert_array_equal(back.first_rank, found.first_rank)
    assert back.summary() == found.summary()
    with pytest.raises(UserError, match="no retrievals"):
        join([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"query_labels": np.array([1.0, 2.0])}, "float64; give 2 integers"),
        ({"gallery_labels": np.array([1])}, r"shape \[1\]"),
        ({"level": "shop"}, "'shop'; choose image or product"),
        ({"recall_at": ()}, "at least one K"),
        ({"recall_at": (0, 1)}, "at least one K, each 1 or more"),
        ({"queries": np.full((2, 2), np.nan, np.float32)}, "NaN"),
    ],
)
def test_bad_input_is_refused(change, message):
    labels = np.array([1, 2])
    good = {"queries": circle(0, 5), "query_labels": labels, "gallery": circle(0, 5), "gallery_labels": labels}
    with pytest.raises(UserError, match=message):
        measure(**{**good, **change})
