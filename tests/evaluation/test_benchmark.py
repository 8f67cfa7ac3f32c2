"""The benchmark of the metrics at a size of seconds: its rows, and the equality with pytorch-metric-learning that it asserts."""

import numpy as np
import pytest

from fashion_dml.config import Evaluate
from fashion_dml.storage import UserError
from jobs.benchmarks import evaluate as benchmark
from jobs.evaluate import refinements

SMALL = benchmark.Sizes(items=4500, max_bin=1500, full_map=600, repeats=1)


def test_rows_and_equal_values():
    rows, details = benchmark.run("", SMALL)
    assert {r.name: r.goal for r in rows if r.goal is not None} == {
        "time_over_gemm": 1.2,
        "time_over_pml_max_bin": 0.7,
        "time_over_pml_full_map": 0.2,
        "extra_memory_mb": 500,
    }
    assert all(r.value > 0 and r.better == "lower" for r in rows)
    assert details["pml_full_map"]["values"]["ours"]["mAP"] == pytest.approx(
        details["pml_full_map"]["values"]["custom"]["mean_average_precision"], abs=1e-6
    )


def test_other_values_are_an_error(monkeypatch):
    ours = benchmark.measure
    monkeypatch.setattr(benchmark, "measure", lambda v, labels, g, _, **more: ours(v, labels, g, np.roll(labels, 1), **more))
    with pytest.raises(UserError, match="pytorch-metric-learning's"):
        benchmark.over_calculator(SMALL, True)


def test_near_ties_are_found():
    vectors, labels = benchmark.without_near_ties(600, 1.5)
    right = int(np.flatnonzero(labels == labels[0])[1])
    wrong = int(np.flatnonzero(labels != labels[0])[0])
    vectors[wrong] = vectors[right]
    assert 0 in benchmark.near_ties(vectors, labels)


def test_the_job_measures_each_option_alone_and_both_together():
    assert [r.name for r in refinements(Evaluate())] == [""]
    both = refinements(Evaluate(query_expansion=5, rerank="k-reciprocal", rerank_top=50))
    assert [r.name for r in both] == ["", "alpha-QE 5", "k-reciprocal 50", "alpha-QE 5, k-reciprocal 50"]
