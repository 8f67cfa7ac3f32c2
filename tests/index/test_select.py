"""The best of scores that come in blocks: exactly those that sorting all of them gives."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import fashion_dml.index.select as select_module
from fashion_dml.index.select import Selection


def check(scores: np.ndarray, width: int, sizes: list[int], *, numbered: bool) -> None:
    """Offer the scores [n, Q] in blocks of these sizes, over and over, and compare with sorting."""
    n, queries = scores.shape
    names = np.random.default_rng(1).permutation(10 * n)[:n] if numbered else np.arange(n)
    selection, start, turn = Selection(queries, width), 0, 0
    while start < n:
        end = min(n, start + sizes[turn % len(sizes)])
        selection.offer(np.ascontiguousarray(scores[start:end]), names[start:end] if numbered else start)
        start, turn = end, turn + 1
    found, rows = selection.best()
    assert found.shape == rows.shape == (queries, min(width, n))
    of_name = dict(zip(names.tolist(), range(n), strict=True))
    for q in range(queries):
        assert np.array_equal(np.sort(found[q]), np.sort(scores[:, q])[::-1][:width][::-1])
        assert len(set(rows[q].tolist())) == len(rows[q])
        assert all(scores[of_name[int(r)], q] == s for r, s in zip(rows[q], found[q], strict=True))


@given(
    n=st.integers(1, 3000), queries=st.integers(1, 5), width=st.integers(1, 40), seed=st.integers(0, 999),
    sizes=st.lists(st.integers(1, 1500), min_size=1, max_size=4), levels=st.sampled_from([0, 1, 3, 50]),
    order=st.sampled_from(["drawn", "rising", "falling"]), numbered=st.booleans(),
)  # fmt: skip
def test_equals_sorting(n, queries, width, seed, sizes, levels, order, numbered):
    rng = np.random.default_rng(seed)
    scores = rng.standard_normal((n, queries)).astype(np.float32)
    if levels:
        scores = np.round(scores * levels) / np.float32(levels)  # many are equal
    if order != "drawn":
        scores = np.sort(scores, axis=0)[:: 1 if order == "rising" else -1]
    check(scores, width, sizes, numbered=numbered)


def test_more_are_wanted_than_a_block_has():
    rng = np.random.default_rng(0)
    check(rng.standard_normal((5000, 3)).astype(np.float32), 2000, [700], numbered=False)
    check(rng.standard_normal((100, 3)).astype(np.float32), 2000, [30], numbered=True)


def test_few_scores_are_held_however_they_come(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(select_module, "MOST_KEPT", 500)
    rising = np.sort(np.random.default_rng(0).standard_normal((40_000, 2)).astype(np.float32), axis=0)
    selection = Selection(2, 10)
    for start in range(0, len(rising), 400):
        selection.offer(rising[start : start + 400], start)
        assert sum(len(scores) for scores, _, _ in selection._kept) <= 500 + 2 * 400
    assert np.array_equal(np.sort(selection.best()[0], axis=1), rising[-10:].T)


def test_nothing_was_offered():
    scores, rows = Selection(3, 5).best()
    assert scores.shape == rows.shape == (3, 0)
