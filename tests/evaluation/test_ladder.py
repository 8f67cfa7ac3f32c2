"""An ablation's report: means over seeds, paired intervals, and what makes a claim hold."""

from __future__ import annotations

import numpy as np
import pytest

from fashion_dml.evaluation import html, ladder
from fashion_dml.evaluation.bootstrap import Interval
from fashion_dml.evaluation.protocol import Items, Measured, Vertical, evaluate

CLAIMS = [("less noise helps", "clear", "noisy", "R@1"), ("so does a name", "same", "clear", "R@1")]


def measured(noise: float, seed: int) -> Measured:
    """100 products of two images: the first around a centre, the second as far from it as `noise` says."""
    rng = np.random.default_rng(7)
    centres = rng.normal(size=(100, 16))
    noisy = np.random.default_rng(seed).normal(size=(100, 16))
    vectors = np.concatenate([centres, centres + noise * noisy]).astype(np.float32)
    labels = np.tile(np.arange(100), 2)
    items = Items(vectors, labels, np.array([f"i{i}" for i in range(200)], object))
    found = evaluate([Vertical("bags", items)], "merged", recall_at=(1, 10))
    assert isinstance(found, Measured)
    return found


@pytest.fixture(scope="module")
def report() -> dict:  # type: ignore[type-arg]
    runs = {
        (rung, seed): measured(noise, seed)
        for rung, noise in (("noisy", 1.2), ("clear", 0.6), ("same", 0.6))
        for seed in (0, 1)
    }
    return ladder.build(runs, CLAIMS, resamples=400, seed=0)


def test_a_rung_is_its_mean_over_seeds(report: dict) -> None:  # type: ignore[type-arg]
    assert [r["rung"] for r in report["rungs"]] == ["noisy", "clear", "same"]
    for rung in report["rungs"]:
        for metric in ("R@1", "R@10", "MAP@R", "mAP"):
            assert rung[metric]["value"] == pytest.approx(np.mean(rung[metric]["seeds"]))
            assert rung[metric]["low"] <= rung[metric]["value"] <= rung[metric]["high"]
    noise = {"noisy": 1.2, "clear": 0.6}
    for rung in report["rungs"][:2]:
        for seed, value in enumerate(rung["R@1"]["seeds"]):
            assert value == pytest.approx(measured(noise[rung["rung"]], seed).queries.summary()["R@1"])
    assert (report["queries"], report["seeds"]) == (200, [0, 1])


def test_a_claim_holds_where_the_paired_interval_is_above_zero(report: dict) -> None:  # type: ignore[type-arg]
    first, second = report["claims"]
    assert first["verdict"] == "holds"
    assert first["low"] > 0
    assert first["value"] == pytest.approx(np.mean(first["seeds"]))
    assert (second["verdict"], second["value"], second["low"], second["high"]) == ("undecided", 0, 0, 0)


@pytest.mark.parametrize(
    ("low", "high", "word"),
    [
        (0.01, 0.2, "holds"),
        (-0.2, -0.01, "does not hold"),
        (-0.1, 0.1, "undecided"),
        (0, 0.1, "undecided"),
        (-0.1, 0, "undecided"),
    ],
)
def test_verdicts(low: float, high: float, word: str) -> None:
    assert ladder.verdict(Interval((low + high) / 2, low, high)) == word


def test_the_page_and_the_docs_table_show_every_rung_and_claim(report: dict) -> None:  # type: ignore[type-arg]
    told = {**report, "verticals": ["bags"], "protocol": "merged", "split": "test", "steps": 3, "images": 192}
    page, text = html.render_ladder(told, title="Ablation: <b>"), ladder.markdown(report)
    assert "Ablation: &lt;b&gt;" in page
    assert "<svg" in page
    for shown in ("noisy", "clear", "less noise helps", "holds", "undecided"):
        assert shown in page
        assert shown in text
    assert "http" not in page.replace("http-equiv", "")
