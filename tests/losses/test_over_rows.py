"""Similarities in blocks of rows, and pairs as lists, against the whole matrix."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_helpers import vectors
from torch import Tensor

from fashion_dml.losses import rows
from fashion_dml.losses.pairs import find_pairs
from fashion_dml.losses.rows import over_rows


def cubes(s: Tensor, chosen: slice) -> tuple[tuple[Tensor, ...], Tensor]:
    """Sum of s^3, which no symmetry hides, weighed by the row; and how many are positive."""
    weight = torch.arange(chosen.start, chosen.stop, dtype=s.dtype)[:, None] + 1
    return ((weight * s**3).sum(), (s > 0).sum()), 3 * weight * s**2


@pytest.mark.parametrize("block", [1, 40, 1 << 18], ids=["a row", "some rows", "one block"])
@pytest.mark.parametrize("other", [False, True], ids=["itself", "a reference"])
def test_blocks_give_the_whole_matrix(other: bool, block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rows.BLOCK, "cpu", block)
    x, r = vectors(13, seed=1).requires_grad_(True), vectors(17, seed=2).requires_grad_(True)
    inputs = (x, r) if other else (x,)
    total, count = over_rows(cubes, *inputs)
    s = x @ (r if other else x).T
    expected = ((torch.arange(13)[:, None] + 1) * s**3).sum()
    assert int(count) == int((s > 0).sum())
    assert not count.requires_grad
    torch.testing.assert_close(total, expected, rtol=1e-12, atol=0)
    torch.testing.assert_close(
        torch.autograd.grad(2 * total, inputs), torch.autograd.grad(2 * expected, inputs), rtol=1e-12, atol=1e-12
    )


def test_only_what_needs_a_gradient_gets_one() -> None:
    x, r = vectors(5).requires_grad_(True), vectors(7, seed=1)
    total, _ = over_rows(cubes, x, r)
    (gradient,) = torch.autograd.grad(total, x)
    torch.testing.assert_close(gradient, torch.autograd.grad((torch.arange(1, 6)[:, None] * (x @ r.T) ** 3).sum(), x)[0])
    with torch.no_grad():
        assert not over_rows(cubes, x, r)[0].requires_grad


@settings(max_examples=100, deadline=None)
@given(labels=st.lists(st.integers(0, 5), min_size=1, max_size=20), more=st.lists(st.integers(0, 5), max_size=20))
def test_pairs_are_those_of_equal_labels(labels: list[int], more: list[int]) -> None:
    everything = labels + more
    pairs = find_pairs(torch.tensor(labels), torch.tensor(everything))
    wanted = [[j for j in range(len(everything)) if j != i and everything[j] == labels[i]] for i in range(len(labels))]
    for i, want in enumerate(wanted):
        assert sorted(pairs.positive[i][pairs.valid[i]].tolist()) == want
        assert set(pairs.group[i].tolist()) == {i, *want}
    assert pairs.width == max(map(len, wanted))
    positives = sum(map(len, wanted))
    assert [pairs.positives, pairs.negatives] == [positives, len(labels) * (len(everything) - 1) - positives]
