import json

import numpy as np
import pytest

from fashion_dml.evaluation.metrics import metric_names
from fashion_dml.evaluation.protocol import Items, Measured, Vertical, evaluate
from fashion_dml.evaluation.report import build, describe
from fashion_dml.storage import UserError

from .conftest import MODELS, NAMES, make_verticals


def test_has_the_agreed_shape(evaluation):
    assert set(evaluation) == {"models", "dataset", "differences", "left_out"} | (
        {"kept"} if "specialists" in MODELS else set()
    )
    assert list(evaluation["models"]) == [*MODELS, "mixed"]
    for model, by in evaluation["models"].items():
        assert set(by) == ({"separate"} if model == "mixed" else {"separate", "merged"})
        for part in by.values():
            assert (part["queries"], part["unscored"], part["gallery"]) == (108, 0, "image")
            assert tuple(part["verticals"]) == NAMES
            for block in (part["overall"], part["macro"], *part["verticals"].values()):
                assert list(block) == metric_names((1, 5, 10, 20))
                for interval in block.values():
                    assert set(interval) == {"value", "low", "high"}
                    assert 0 <= interval["low"] <= interval["value"] <= interval["high"] <= 1
    assert [(one["model"], one["protocol"]) for one in evaluation["left_out"]] == [("mixed", "merged")]


def test_values_are_the_means(evaluation, results):
    for model, found in results.items():
        for measured in (f for f in found if isinstance(f, Measured)):
            part = evaluation["models"][model][measured.protocol]
            for name, value in measured.queries.summary().items():
                assert part["overall"][name]["value"] == pytest.approx(value)
            for name, value in measured.macro().items():
                assert part["macro"][name]["value"] == pytest.approx(value)


def test_what_the_unified_model_keeps(results):
    renamed = dict(zip(("specialists", "unified"), list(results.values())[:2], strict=True))
    found = build(renamed, {}, resamples=50)
    by = {m: found["models"][m]["separate"] for m in renamed}
    kept = found["kept"]
    assert kept["overall"]["queries"] == 108
    for part, ours, theirs in [(kept["overall"], *(by[m]["overall"] for m in ("unified", "specialists")))] + [
        (kept["verticals"][v], *(by[m]["verticals"][v] for m in ("unified", "specialists"))) for v in NAMES
    ]:
        assert part["value"] == pytest.approx(ours["R@1"]["value"] / theirs["R@1"]["value"])
        assert part["low"] <= part["value"] <= part["high"]
    assert "kept" not in build({"unified": renamed["unified"]}, {}, resamples=5)


def test_json_round_trip(evaluation):
    assert json.loads(json.dumps(evaluation, allow_nan=False)) == evaluation


def test_what_cannot_be_had_is_null():
    items = make_verticals(1.0)[0].queries
    lonely = Vertical("dresses", Items(items.vectors[:2], np.array([1, 2]), items.image_ids[:2]))
    found = build({"m": [evaluate([lonely], "separate")]}, {}, resamples=5)
    assert found["models"]["m"]["separate"]["unscored"] == 2
    assert found["models"]["m"]["separate"]["overall"]["R@1"] == {"value": None, "low": None, "high": None}
    assert found["models"]["m"]["separate"]["macro"]["R@1"]["value"] is None
    json.dumps(found, allow_nan=False)


def test_differences_are_later_minus_earlier(evaluation):
    models = evaluation["models"]
    pairs = {(d["protocol"], d["b"], d["a"]) for d in evaluation["differences"]}
    assert len(pairs) == 6 + 3
    for d in evaluation["differences"]:
        a, b = (models[d[side]][d["protocol"]]["overall"][d["metric"]]["value"] for side in "ab")
        assert d["value"] == pytest.approx(a - b)
        assert d["low"] <= d["value"] <= d["high"]
    assert ("separate", "specialists", "unified") in pairs


def test_the_same_model_twice_does_not_differ(results):
    found = build({"one": results["unified"], "two": results["unified"]}, {}, resamples=50)
    assert {(d["value"], d["low"], d["high"]) for d in found["differences"]} == {(0, 0, 0)}


def test_seeded_and_independent_of_other_models(evaluation, results):
    alone = build({"unified": results["unified"]}, {}, resamples=200, seed=3)
    assert alone["models"]["unified"] == evaluation["models"]["unified"]
    other = build({"unified": results["unified"]}, {}, resamples=200, seed=4)
    assert other["models"]["unified"] != alone["models"]["unified"]


def test_describe_counts():
    found = describe(make_verticals(1.0), name="synthetic")
    assert found["name"] == "synthetic"
    assert found["verticals"]["bags"] == {"queries": 36, "gallery": 36, "products": 12, "self_retrieval": True}


def test_bad_input_is_refused(results):
    with pytest.raises(UserError, match="no model"):
        build({}, {})
    few = evaluate(make_verticals(1.0, products=5), "separate")
    with pytest.raises(UserError, match="'few' and 'unified' were measured on different query images"):
        build({"unified": results["unified"], "few": [few]}, {}, resamples=5)


def test_attribute_values_are_means_of_their_queries(results):
    ids = results["unified"][0].query_ids
    signs = {i: np.array([1 if "dresses" in i else -1, 1 if i.endswith("_0.jpg") else 0, 0], np.int8) for i in ids}
    found = build(results, {}, resamples=20, attributes=(["kind=dress", "shot=0", "kind=none"], signs))
    part = found["models"]["unified"]["separate"]
    assert list(part["attributes"]) == ["kind=dress", "shot=0"]
    dresses = part["attributes"]["kind=dress"]
    assert (dresses["queries"], dresses["R@1"]) == (36, part["verticals"]["dresses"]["R@1"])
    first = [i.endswith("_0.jpg") for i in ids.tolist()]
    assert part["attributes"]["shot=0"]["mAP"]["value"] == pytest.approx(
        results["unified"][0].queries.values["mAP"][first].mean()
    )
