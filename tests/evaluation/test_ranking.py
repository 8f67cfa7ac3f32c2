"""The fast paths against each other and against the double loop: every query through `dense`, `screen` and `measure`."""

import threading

import numpy as np
import pytest
import torch

from fashion_dml.evaluation.columns import FAR, Columns
from fashion_dml.evaluation.dense import MANY, Dense, not_below
from fashion_dml.evaluation.metrics import measure
from fashion_dml.evaluation.neighbours import TIE, normalised
from fashion_dml.evaluation.screen import Screen, worthwhile

from .reference import ranks_of_relevant, values_of

RECALL_AT = (1, 5, 20)


def problem(seed: int, items: int = 4500, noise: float = 1.5, products: int = 1200, dim: int = 32):
    """Clusters with duplicates and with vectors that nothing resembles; labels above 2^24 that float32 would merge."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, products, items)
    vectors = rng.normal(size=(products, dim))[labels] + noise * rng.normal(size=(items, dim))
    vectors[items // 2 : items // 2 + 200] = vectors[:200]  # the same picture under other labels
    vectors[-3:] = 0
    return normalised(vectors.astype(np.float32)), labels + 2**40


def through(engine, vectors, labels, rows, *more):
    """What an engine finds for some queries that search among all images."""
    columns = engine.columns
    hidden = columns.place[rows]
    return engine.ranks(torch.from_numpy(vectors[rows]), columns.find(labels[rows]), hidden, *more)


@pytest.mark.parametrize("halves", [True, False])
@pytest.mark.parametrize("noise", [0.3, 1.5, 6.0])
def test_screen_gives_the_ranks_of_dense_and_of_the_definition(monkeypatch, halves, noise):
    monkeypatch.setattr("fashion_dml.evaluation.screen.has_bfloat16", lambda: halves)
    vectors, labels = problem(3, noise=noise)
    columns = Columns.of(vectors, labels, "cpu")
    rows = np.random.default_rng(0).integers(0, len(labels), 64)
    exact, count = through(Dense(columns, "image", 1 << 24), vectors, labels, rows)
    ranks, relevant, right = through(Screen(columns, 1 << 24), vectors, labels, rows, None)
    np.testing.assert_array_equal(relevant, count)
    np.testing.assert_array_equal(ranks[right], exact[right])
    if noise < 1:
        assert right.mean() > 0.5
    for q in range(0, 64, 8):
        expected = ranks_of_relevant(vectors[rows[q]], labels[rows[q]], vectors, labels, rows[q])
        assert exact[q][exact[q] < FAR].tolist() == expected

    deepest = np.maximum(columns.counts[columns.find(labels[rows])], 20)
    ranks, _, right = through(Screen(columns, 1 << 24), vectors, labels, rows, deepest)
    assert right.mean() > 0.9
    near = exact <= deepest[:, None]
    np.testing.assert_array_equal(ranks[right][near[right]], exact[right][near[right]])
    assert (ranks[right][~near[right]] > np.broadcast_to(deepest[:, None], near.shape)[right][~near[right]]).all()


@pytest.mark.parametrize("kind", ["normal", "heavy", "sparse", "extreme"])
@pytest.mark.parametrize("dim", [2, 128, 1024])
def test_the_bound_holds(kind, dim):
    rng = np.random.default_rng(dim)
    raw = {
        "normal": lambda n: rng.normal(size=(n, dim)),
        "heavy": lambda n: rng.standard_cauchy(size=(n, dim)),
        "sparse": lambda n: rng.normal(size=(n, dim)) * (rng.random((n, dim)) < 0.1),
        # Halfway between two bfloat16 numbers, all rounded the same way.
        "extreme": lambda n: np.full((n, dim), 1 + 2.0**-9 + 2.0**-12) * np.where(rng.random((n, 1)) < 0.5, 1, -1),
    }[kind]
    queries, gallery = (normalised(raw(n).astype(np.float32)) for n in (60, 2000))
    columns = Columns.of(gallery, np.arange(2000), "cpu")
    screen = Screen(columns, 1 << 24)
    given = torch.from_numpy(queries)
    rough = given.to(screen.type)
    error = (rough @ screen.rough.T).double() - given.double() @ columns.vectors.double().T
    assert (error.abs().amax(dim=1) <= screen.bound(given, rough)).all()


@pytest.mark.parametrize("whole_list", [True, False])
@pytest.mark.parametrize("own", [True, False])
def test_measure_through_the_screen_equals_the_definition(whole_list, own):
    vectors, labels = problem(5)
    assert worthwhile(Columns.of(vectors, labels, "cpu"), 20)
    rng = np.random.default_rng(1)
    rows = rng.integers(0, len(labels), 40)
    queries, query_labels = vectors[rows], labels[rows]
    # Some are hidden from themselves, some hide an image of another product, some nothing.
    exclude = rows if own else np.where(rng.random(40) < 0.5, rng.integers(0, len(labels), 40), -1)
    if not own:
        query_labels = np.where(rng.random(40) < 0.3, 2**40 - 1, query_labels)  # a product that the gallery lacks
    found = measure(queries, query_labels, vectors, labels, exclude=exclude, recall_at=RECALL_AT, whole_list=whole_list)
    for q in range(40):
        ranks = ranks_of_relevant(queries[q], query_labels[q], vectors, labels, exclude[q])
        expected = values_of(ranks, RECALL_AT)
        assert found.relevant[q] == len(ranks)
        assert {n: v[q] for n, v in found.values.items()} == pytest.approx({n: expected[n] for n in found.values}, nan_ok=True)
        if ranks:
            assert found.first_rank[q] == (ranks[0] if whole_list else min(ranks[0], max(20, len(ranks)) + 1))
    assert ("mAP" in found.values) == whole_list


def test_many_relevant_items_are_counted_by_sorting():
    vectors, labels = problem(7, items=400, products=6, dim=8)
    columns = Columns.of(vectors, labels, "cpu")
    assert columns.counts.max() > MANY
    ranks, _ = through(Dense(columns, "image", 1 << 24), vectors, labels, np.arange(0, 120, 10))
    for q, row in enumerate(range(0, 120, 10)):
        expected = ranks_of_relevant(vectors[row], labels[row], vectors, labels, row)
        assert ranks[q][ranks[q] < FAR].tolist() == expected


def test_counts_do_not_overflow():
    scores = torch.ones(3, 1024 * 300)
    marks = torch.empty(3, 1024 * 300, dtype=torch.bool)
    assert not_below(scores, torch.tensor([[1.0], [2.0], [-torch.inf]]), marks).tolist() == [307200, 0, 307200]


@pytest.mark.parametrize("level", ["image", "product"])
def test_collapsed_embedding_scores_nothing_through_the_screen(level):
    point = normalised(np.random.default_rng(0).normal(size=(1, 64)).astype(np.float32))
    vectors, labels = np.repeat(point, 4800, axis=0), np.repeat(np.arange(1600), 3)
    found = measure(vectors, labels, vectors, labels, exclude=np.arange(4800), level=level, whole_list=False).summary()
    assert found["R@20"] == found["MAP@R"] == found["R-Precision"] == 0


def test_near_ties_break_pessimistically_in_the_screen():
    """A wrong item that is worse by less than TIE ranks before the right one; by more than 2 TIE after it."""
    rng = np.random.default_rng(2)
    gallery = normalised(rng.normal(size=(5000, 4)).astype(np.float32))
    gallery = gallery[gallery[:, 0] < 0.9]
    for gap, rank in ((0.0, 2), (TIE / 4, 2), (4 * TIE, 1)):
        right, wrong = ([c, np.sqrt(1 - c * c), 0, 0] for c in (0.95, 0.95 - gap))
        items = np.concatenate([gallery, np.array([right, wrong], np.float32)])
        labels = np.arange(len(items)) + 2**25
        query = np.array([[1, 0, 0, 0]], np.float32)
        assert worthwhile(Columns.of(items, labels, "cpu"), 1)
        for whole_list in (True, False):
            found = measure(query, labels[-2:-1], items, labels, recall_at=(1,), whole_list=whole_list)
            assert found.first_rank.tolist() == [rank]


def test_threads_are_left_as_they_were():
    vectors, labels = problem(11)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with torch.inference_mode():  # as validation runs it
            measure(vectors, labels, vectors, labels, exclude=np.arange(len(labels)), memory_bytes=1 << 22)
        seen = []
        thread = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert (torch.get_num_threads(), seen) == (2, [2])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("memory", [1, 1 << 21, 1 << 25, 1 << 28])
def test_panels_stay_in_the_budget(memory):
    vectors, labels = problem(13)
    columns = Columns.of(vectors, labels, "cpu")
    for engine, width in ((Dense(columns, "image", memory, 2), 4), (Screen(columns, memory, 2), 2)):
        assert engine.rows == 1 or 2 * engine.rows * width * len(columns.vectors) <= memory
