"""The cascade against its definition: the pairs each level keeps, and loops over these."""

from __future__ import annotations

import math
from typing import Any, Literal

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from loss_helpers import (
    LABELS,
    assert_equal,
    assert_float32_under_autocast,
    assert_nan_shows,
    assert_silent,
    gradcheck,
    loss_of,
    vectors,
)
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.miners import HDCMiner
from torch import Tensor
from torch.nn import functional as F

from fashion_dml.losses.cascade import CascadeLoss, Ranked, kth_largest
from fashion_dml.storage import UserError

Ranking = Literal["own-rank", "nested", "all"]
Pairs = list[tuple[int, int]]
RANKINGS: tuple[Ranking, ...] = ("own-rank", "nested", "all")


def cascade(ranking: str = "own-rank", shares: tuple[float, ...] = (1, 0.5, 0.2), dim: int = 6) -> CascadeLoss:
    found = loss_of([0, 1], dim=dim, name="cascade", cascade={"ranking": ranking, "shares": shares})
    assert isinstance(found, CascadeLoss)
    return found


def all_pairs(labels: list[int]) -> tuple[Pairs, Pairs]:
    every = [(i, j) for i in range(len(labels)) for j in range(i + 1, len(labels))]
    return [(i, j) for i, j in every if labels[i] == labels[j]], [(i, j) for i, j in every if labels[i] != labels[j]]


def distances(z: Tensor) -> dict[tuple[int, int], Tensor]:
    return {(i, j): (z[i] - z[j]).square().sum() for i in range(len(z)) for j in range(len(z))}


def kept_by_definition(z: Tensor, positive: Pairs, negative: Pairs, share: float) -> tuple[Pairs, Pairs]:
    """Positives by falling, negatives by rising distance, the first ceil(share * n) of each."""
    d = distances(z)
    far = sorted(positive, key=lambda p: -d[p].item())[: math.ceil(share * len(positive))]
    near = sorted(negative, key=lambda p: d[p].item())[: math.ceil(share * len(negative))]
    return far, near


def parts_of(x: Tensor, levels: int) -> list[Tensor]:
    width = x.shape[1] // levels
    return [x[:, k * width : (k + 1) * width] * math.sqrt(levels) for k in range(levels)]


def unit_levels(raw: Tensor, levels: int) -> Tensor:
    """Each level at norm 1 / sqrt(levels), as the model's heads give them."""
    return torch.cat([F.normalize(z, dim=1) for z in raw.chunk(levels, 1)], 1) / math.sqrt(levels)


def loop(x: Tensor, labels: list[int], ranking: str, shares: tuple[float, ...]) -> Tensor:
    positive, negative = every = all_pairs(labels)
    losses = []
    for z, share in zip(parts_of(x, len(shares)), shares, strict=True):
        if ranking != "nested":
            positive, negative = every
        positive, negative = kept_by_definition(z, positive, negative, 1.0 if ranking == "all" else share)
        d = distances(z)
        terms = [d[p] for p in positive] + [10 * (1 - d[p]).clamp_min(0) for p in negative]
        losses.append(torch.stack(terms).sum() / sum(t.item() > 0 for t in terms))
    return torch.stack(losses).sum()


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("shares", [(1, 0.5, 0.2), (0.2,), (1.0,), (0.4, 0.3)])
@pytest.mark.parametrize("ranking", RANKINGS)
def test_equals_the_loop(ranking: str, shares: tuple[float, ...], labels: list[int]) -> None:
    loss, levels = cascade(ranking, shares), len(shares)
    raw = vectors(len(labels), seed=len(shares))

    def ours(x: Tensor) -> Tensor:
        return loss(unit_levels(x, levels), torch.tensor(labels))["loss"]

    assert_equal(ours, lambda x: loop(unit_levels(x, levels), labels, ranking, shares), raw)
    assert gradcheck(ours, raw)


@settings(max_examples=60, deadline=None)
@given(
    labels=st.lists(st.integers(0, 5), min_size=2, max_size=24),
    seed=st.integers(0, 999),
    ranking=st.sampled_from(RANKINGS),
    shares=st.lists(st.floats(0.05, 1), min_size=1, max_size=3),
)
def test_kept_sets_equal_the_definition(labels: list[int], seed: int, ranking: str, shares: list[float]) -> None:
    loss = cascade(ranking, tuple(shares), dim=4 * len(shares))
    x = unit_levels(vectors(len(labels), 4 * len(shares), seed), len(shares))
    every = all_pairs(labels)
    ranked, (positive, negative) = Ranked.all_pairs(torch.tensor(labels)), every
    for z, share in zip(parts_of(x, len(shares)), shares, strict=True):
        if ranking != "nested":
            ranked, (positive, negative) = Ranked.all_pairs(torch.tensor(labels)), every
        part = 1.0 if ranking == "all" else share
        positive, negative = kept_by_definition(z, positive, negative, part)
        _, _, ranked = loss.level(z, ranked, part)
        assert sorted(zip(ranked.first.tolist(), ranked.second.tolist(), strict=True)) == sorted(positive)
        assert [tuple(p) for p in (~ranked.excluded).nonzero().tolist()] == sorted(negative)
        assert ranked.negatives == len(negative)


def test_a_level_keeps_what_the_miner_of_pytorch_metric_learning_keeps() -> None:
    """That one counts (i, j) and (j, i), so shares are chosen that keep both."""
    labels, share = LABELS["even"], 0.5
    z = F.normalize(vectors(12, seed=3), dim=1)
    a1, p, a2, n = HDCMiner(share, distance=LpDistance(power=2))(z, torch.tensor(labels))
    _, _, kept = cascade(shares=(share,)).level(z, Ranked.all_pairs(torch.tensor(labels)), share)
    ours = {*zip(kept.first.tolist(), kept.second.tolist(), strict=True)}
    assert {(i, j) for i, j in zip(a1.tolist(), p.tolist(), strict=True) if i < j} == ours
    assert {(i, j) for i, j in zip(a2.tolist(), n.tolist(), strict=True) if i < j} == {
        tuple(pair) for pair in (~kept.excluded).nonzero().tolist()
    }


def test_nested_levels_keep_ever_fewer_of_the_same_pairs() -> None:
    labels = torch.arange(40) // 4
    loss, ranked, before = cascade("nested"), Ranked.all_pairs(labels), None
    for z, share in zip(parts_of(unit_levels(vectors(40), 3), 3), (1, 0.5, 0.2), strict=True):
        _, _, ranked = loss.level(z, ranked, share)
        pairs = {*zip(ranked.first.tolist(), ranked.second.tolist(), strict=True)}
        assert before is None or pairs < before
        before = pairs
    assert (len(before or ()), ranked.negatives) == (6, 72)  # 60 and 720 pairs: half, and a fifth of these


def test_equally_hard_pairs_stay_together() -> None:
    """So the kept set doesn't depend on the order of the batch: here every pair is as hard as any other."""
    labels = torch.tensor([0, 0, 1, 1])
    z = F.normalize(torch.ones(4, 6), dim=1).double()
    _, _, kept = cascade(shares=(0.2,)).level(z, Ranked.all_pairs(labels), 0.2)
    assert (len(kept.first), kept.negatives) == (2, 4)


def test_order_of_the_batch_does_not_matter() -> None:
    labels = torch.tensor(LABELS["mixed with a single"])
    x, order = unit_levels(vectors(12), 3), torch.randperm(12, generator=torch.Generator().manual_seed(0))
    for ranking in RANKINGS:
        loss = cascade(ranking)
        torch.testing.assert_close(loss(x[order], labels[order])["loss"], loss(x, labels)["loss"])


def test_levels_are_reported() -> None:
    parts = cascade()(unit_levels(vectors(12), 3), torch.tensor(LABELS["even"]))
    assert list(parts) == ["loss", "level1", "level2", "level3"]
    torch.testing.assert_close(parts["loss"], parts["level1"] + parts["level2"] + parts["level3"])
    assert float(parts["level3"]) > float(parts["level2"]) > float(parts["level1"])


@pytest.mark.parametrize("ranking", RANKINGS)
@pytest.mark.parametrize("labels", [[4, 4, 4], [0, 1, 2, 3], [3]], ids=["no negative", "no positive", "one image"])
def test_without_pairs_it_is_silent(labels: list[int], ranking: str) -> None:
    assert_silent(cascade(ranking), labels)


@pytest.mark.parametrize("ranking", RANKINGS)
def test_nan_shows_and_autocast_does_not(ranking: str) -> None:
    assert_nan_shows(cascade(ranking), LABELS["even"])
    assert_float32_under_autocast(cascade(ranking), LABELS["even"])


def test_levels_must_divide_the_dimension() -> None:
    with pytest.raises(UserError, match=r"3 levels, which don't divide model.dim = 128; choose a multiple, as 126"):
        cascade(dim=128)


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50), data=st.data())
def test_kth_largest(values: list[float], data: Any) -> None:
    k = data.draw(st.integers(1, len(values)))
    assert float(kth_largest(torch.tensor(values), k)) == sorted(values, reverse=True)[k - 1]
