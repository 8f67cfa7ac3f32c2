"""The choice of an index: by measured recall, by memory, and always with its reasons."""

from __future__ import annotations

import numpy as np
import pytest

from fashion_dml.index.candidates import Candidates
from fashion_dml.index.choose import AT, Point, _narrowed, cheapest, choose, exact, resident_bytes, tune
from fashion_dml.index.fill import filled
from fashion_dml.index.manifest import Effort
from fashion_dml.index.store import Store
from fashion_dml.index.train import train
from fashion_dml.storage import UserError

PRODUCTS = np.arange(3000) // 2  # two images each


@pytest.fixture(scope="module")
def sample() -> np.ndarray:
    rng = np.random.default_rng(2)
    vectors = rng.standard_normal((80, 16))[rng.integers(0, 80, 3000)] + 0.5 * rng.standard_normal((3000, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def test_every_kind_is_measured_and_the_choice_fits(sample: np.ndarray):
    choice = choose(sample, PRODUCTS, store="fp16", rows=100_000, memory_bytes=1 << 30, recall=0.9)
    assert {p.kind for p in choice.points} == {"flat", "ivf", "ivf_pq", "hnsw"}
    assert len(choice.reasons) == 4
    assert any(p.kind == choice.kind and p.recall >= 0.9 for p in choice.points)
    assert choice.as_json()["kind"] == choice.kind


def test_memory_rules_kinds_out(sample: np.ndarray):
    rows = 1_000_000
    limit = int(resident_bytes("ivf_pq", "fp32", 16, 16) * rows) + 1
    choice = choose(sample, PRODUCTS, store="fp32", rows=rows, memory_bytes=limit, recall=0.5)
    assert choice.kind == "ivf_pq"
    assert sum("more than the" in reason for reason in choice.reasons) == 3
    with pytest.raises(UserError, match=r"No index fits.*index\.memory_bytes or index\.shards"):
        choose(sample, PRODUCTS, store="fp32", rows=rows, memory_bytes=limit // 2, recall=0.5)


def test_a_recall_out_of_reach_leaves_the_exact_kind(sample: np.ndarray):
    choice = choose(sample, PRODUCTS, store="fp32", rows=3000, memory_bytes=1 << 30, recall=1.0, kinds=("flat", "ivf_pq"))
    reached = [p for p in choice.points if p.recall >= 1.0]
    assert {choice.kind, "flat"} <= {p.kind for p in reached}


def test_few_items_need_no_choice():
    assert (
        choose(np.eye(8, dtype=np.float32), np.arange(8), store="fp32", rows=8, memory_bytes=1 << 20, recall=0.95).kind
        == "flat"
    )


def test_exact_is_brute_force_without_the_query_itself(sample: np.ndarray):
    store = Store(train("flat", "fp32", 16, len(sample), sample).store)
    store.index.add(sample)
    store = Store(store.index)
    rows = np.arange(0, 3000, 97)
    found = exact(store, sample[rows], rows[:, None])
    for query, row in enumerate(rows):
        scores = sample @ sample[row]
        scores[row] = -np.inf
        assert set(found[query]) == set(np.argsort(-scores)[:AT])


def test_tune_finds_the_least_effort(sample: np.ndarray):
    trained = train("ivf", "fp32", 16, len(sample), sample)
    trained.store.add(sample)
    filled(trained.candidates, sample)
    store = Store(trained.store)
    effort, recall, points = tune(store, Candidates("ivf", trained.candidates, store), 0.9, PRODUCTS)
    assert recall >= 0.9
    assert [p.effort.probes for p in points] == sorted(p.effort.probes for p in points)
    assert effort in [p.effort for p in points]


def test_a_product_is_not_found_by_itself(sample: np.ndarray):
    """Twins make the search of one by the other easy; neither choice nor effort may count on them."""
    twins = np.repeat(sample[:1500], 2, axis=0)
    trained = train("ivf", "fp32", 16, len(twins), twins)
    trained.store.add(twins)
    filled(trained.candidates, twins)
    store = Store(trained.store)
    found = exact(store, twins[:10], np.stack([np.arange(0, 10), np.arange(0, 10) ^ 1], axis=1))
    assert not any(set(rows) & {i, i ^ 1} for i, rows in enumerate(found.tolist()))
    alone, together = (
        tune(store, Candidates("ivf", trained.candidates, store), 0.9, numbers)[2] for numbers in (np.arange(3000), PRODUCTS)
    )
    assert together[0].recall < alone[0].recall  # one cell holds the twin
    few = choose(
        np.tile(sample[:20], (50, 1)), np.tile(np.arange(20), 50), store="fp32", rows=10**6, memory_bytes=1 << 30, recall=0.9
    )
    assert few.kind == "flat"


def test_the_step_below_an_effort_is_halved_until_the_least_that_is_enough():
    def measured(effort: Effort) -> Point:
        return Point("ivf", effort, effort.probes / 100, 1.0)

    points = [measured(Effort(probes, 18)) for probes in (40, 64, 128)] + [measured(Effort(100, 50))]
    tried = [p.effort.probes for p in _narrowed(points, points[2], 0.8, measured)]
    assert tried == [96, 80, 72]
    assert [p.effort.probes for p in _narrowed(points[:1], points[0], 0.3, measured)] == []  # none below


def test_cheapest():
    points = [
        Point("ivf", Effort(1, 18), 0.5, 1.0),
        Point("ivf", Effort(2, 18), 0.9, 2.0),
        Point("ivf", Effort(4, 18), 0.95, 3.0),
    ]
    assert cheapest(points, 0.85).effort == Effort(2, 18)
    assert cheapest(points, 0.99).effort == Effort(4, 18)  # the most there is
