"""Triplet loss against a loop over all triples, against pytorch-metric-learning, and where it must be silent."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from loss_helpers import LABELS, assert_equal, assert_nan_shows, assert_silent, gradcheck, largest_tensor, softplus, vectors
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer
from torch.nn import functional as F

from fashion_dml.config import Loss
from fashion_dml.losses import create_loss

Mining = Literal["semi-hard", "batch-hard", "all"]
MININGS: tuple[Mining, ...] = ("semi-hard", "batch-hard", "all")


def triple_loop(
    raw: torch.Tensor, labels: list[int], margin: float, mining: Mining, soft: bool = False
) -> tuple[torch.Tensor, int]:
    """(loss, triplets that count) from ||a - b||^2 of normalised rows, one triple after the other, in raw's precision."""
    x = F.normalize(raw, dim=1)
    n = len(labels)

    def d(i: int, j: int) -> torch.Tensor:
        return (x[i] - x[j]).square().sum()

    terms = []
    for a in range(n):
        positives = [p for p in range(n) if p != a and labels[p] == labels[a]]
        negatives = [k for k in range(n) if labels[k] != labels[a]]
        if mining == "batch-hard" and positives and negatives:
            positives = [max(positives, key=lambda p: d(a, p).item())]
            negatives = [min(negatives, key=lambda k: d(a, k).item())]
        for p in positives:
            for k in negatives:
                violation = margin + d(a, p) - d(a, k)
                counted = violation.item() > 0 or (soft and mining != "semi-hard")
                if counted and (mining != "semi-hard" or d(a, k).item() > d(a, p).item()):
                    terms.append(softplus(violation - margin) if soft else violation)
    return (torch.stack(terms).mean() if terms else raw.sum() * 0), len(terms)


def value_and_gradient(
    raw: torch.Tensor, labels: list[int], *, half: bool = False, **settings: Any
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """`half`: the forward pass under bf16 autocast, as the training loop runs it."""
    leaf = raw.detach().clone().requires_grad_(True)
    x = F.normalize(leaf, dim=1)
    with torch.autocast("cpu", torch.bfloat16, enabled=half):
        assert (raw.float() @ raw.float().T).dtype == (torch.bfloat16 if half else torch.float32)
        parts = create_loss(Loss(**settings))(x, torch.tensor(labels))
    parts["loss"].backward()
    assert leaf.grad is not None
    return {name: value.detach() for name, value in parts.items()}, leaf.grad


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("margin", [0.2, 1.5])
@pytest.mark.parametrize("mining", MININGS)
def test_equals_the_loop_over_all_triples(mining: Mining, margin: float, labels: list[int]) -> None:
    raw = vectors(len(labels), seed=len(mining))
    reference = raw.clone().requires_grad_(True)
    expected, triplets = triple_loop(reference, labels, margin, mining)
    expected.backward()
    parts, gradient = value_and_gradient(raw, labels, margin=margin, mining=mining)
    assert triplets > 0
    assert int(parts["triplets"]) == triplets
    assert parts["loss"].item() == pytest.approx(expected.item(), rel=1e-5)
    torch.testing.assert_close(gradient, reference.grad, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("mining", MININGS)
def test_the_loop_has_the_gradient_of_finite_differences(mining: Mining) -> None:
    """What the gradients above are compared with, in float64, where no triplet is about to enter or leave."""
    raw = vectors(8, seed=3).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda t: triple_loop(t, LABELS["even"][:8], 0.5, mining)[0], raw, eps=1e-6, atol=1e-7)


@pytest.mark.parametrize(("mining", "kind"), [("semi-hard", "semihard"), ("all", "all")])
@pytest.mark.parametrize("seed", range(5))
def test_equals_pytorch_metric_learning(mining: Mining, kind: str, seed: int) -> None:
    """Exact correspondence: squared distances of normalised rows, the miner's triplets, the mean over positive terms."""
    labels, margin = LABELS["mixed with a single"], 0.4
    raw = vectors(len(labels), seed=seed).float()
    other = raw.clone().requires_grad_(True)
    distance = LpDistance(normalize_embeddings=True, p=2, power=2)
    oracle = TripletMarginLoss(margin=margin, smooth_loss=False, distance=distance, reducer=AvgNonZeroReducer())
    mined = TripletMarginMiner(margin=margin, type_of_triplets=kind, distance=distance)(other, torch.tensor(labels))
    expected = oracle(other, torch.tensor(labels), mined)
    expected.backward()
    parts, gradient = value_and_gradient(raw, labels, margin=margin, mining=mining)
    assert int(parts["triplets"]) == len(mined[0]) > 0
    torch.testing.assert_close(parts["loss"], expected.detach(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient, other.grad, rtol=1e-4, atol=1e-5)


def test_batch_hard_equals_pytorch_metric_learning() -> None:
    """Its BatchHardMiner gives one triplet an anchor; those without a violation are zeros, which both means leave out."""
    labels, margin = LABELS["mixed with a single"], 0.4
    raw = vectors(len(labels), seed=1).float()
    distance = LpDistance(normalize_embeddings=True, p=2, power=2)
    oracle = TripletMarginLoss(margin=margin, smooth_loss=False, distance=distance, reducer=AvgNonZeroReducer())
    expected = oracle(raw, torch.tensor(labels), BatchHardMiner(distance=distance)(raw, torch.tensor(labels)))
    parts, _ = value_and_gradient(raw, labels, margin=margin, mining="batch-hard")
    torch.testing.assert_close(parts["loss"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mining", MININGS)
def test_stays_in_float32_under_autocast(mining: Mining) -> None:
    labels = LABELS["even"]
    raw = vectors(len(labels)).float()
    plain, gradient = value_and_gradient(raw, labels, margin=0.4, mining=mining)
    half, half_gradient = value_and_gradient(raw, labels, half=True, margin=0.4, mining=mining)
    assert half["loss"].dtype == torch.float32
    assert torch.equal(half["loss"], plain["loss"])
    assert torch.equal(half_gradient, gradient)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize(
    ("case", "labels"), [("one product", [4, 4, 4, 4]), ("no pair", [0, 1, 2, 3]), ("all is well", [0, 0, 1, 1])]
)
def test_no_triplet_means_zero_loss_and_zero_gradient(mining: Mining, case: str, labels: list[int]) -> None:
    raw = torch.eye(4)[labels].double() if case == "all is well" else vectors(4)
    parts, gradient = value_and_gradient(raw, labels, margin=0.2, mining=mining)
    assert int(parts["triplets"]) == 0
    assert float(parts["loss"]) == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("mining", MININGS)
def test_order_of_the_batch_does_not_matter(mining: Mining) -> None:
    labels = LABELS["mixed with a single"]
    raw = vectors(len(labels), seed=2)
    order = np.random.default_rng(5).permutation(len(labels))
    parts, gradient = value_and_gradient(raw, labels, margin=0.6, mining=mining)
    moved, moved_gradient = value_and_gradient(raw[order], [labels[i] for i in order], margin=0.6, mining=mining)
    assert int(moved["triplets"]) == int(parts["triplets"]) > 0
    torch.testing.assert_close(moved["loss"], parts["loss"])
    torch.testing.assert_close(moved_gradient, gradient[order], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("mining", MININGS)
def test_a_broken_embedding_shows_in_the_loss(mining: Mining) -> None:
    """A diverged model must not read as one that has learnt everything: comparisons with NaN are false."""
    x = F.normalize(vectors(6).float(), dim=1)
    x[2] = math.nan
    assert math.isnan(float(create_loss(Loss(mining=mining))(x, torch.tensor([0, 0, 1, 1, 2, 2]))["loss"]))


@pytest.mark.parametrize("mining", MININGS)
def test_a_large_batch_makes_no_tensor_of_the_whole_matrix(mining: Mining) -> None:
    """512 products x 4: all triplets are 3/4 of B^2 x 4."""
    assert largest_tensor(create_loss(Loss(mining=mining)), torch.arange(2048) // 4) <= 2048**2 / 8


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("mining", MININGS)
def test_exact_in_float64(mining: Mining, soft: bool) -> None:
    for labels in LABELS.values():
        loss = create_loss(Loss(mining=mining, margin=0.4, soft_margin=soft))
        raw = vectors(len(labels), seed=7, spread=0.7)
        assert_equal(
            lambda x, f=loss, y=labels: f(x, torch.tensor(y))["loss"],
            lambda x, y=labels: triple_loop(x, y, 0.4, mining, soft=soft)[0],
            raw,
        )
        assert gradcheck(lambda x, f=loss, y=labels: f(x, torch.tensor(y))["loss"], raw)


@pytest.mark.parametrize(("mining", "kind"), [("semi-hard", "semihard"), ("all", "all")])
def test_soft_margin_equals_pytorch_metric_learning(mining: Mining, kind: str) -> None:
    """The mined triplets of the hinge; those of "all" are every triplet, so its miner gets a margin that all violate."""
    labels, margin = LABELS["mixed with a single"], 0.4
    raw = vectors(len(labels), seed=5)
    distance = LpDistance(normalize_embeddings=True, p=2, power=2)
    oracle = TripletMarginLoss(margin=0, smooth_loss=True, distance=distance)
    miner = TripletMarginMiner(margin=margin if mining == "semi-hard" else 9, type_of_triplets=kind, distance=distance)
    mined = miner(raw, torch.tensor(labels))
    parts, _ = value_and_gradient(raw, labels, margin=margin, mining=mining, soft_margin=True)
    assert int(parts["triplets"]) == len(mined[0]) > 0
    torch.testing.assert_close(parts["loss"], oracle(raw, torch.tensor(labels), mined), rtol=1e-6, atol=0)


@pytest.mark.parametrize("mining", MININGS)
@pytest.mark.parametrize("labels", [[4, 4, 4, 4], [0, 1, 2, 3], [0]])
def test_soft_margin_is_silent_without_triplets(mining: Mining, labels: list[int]) -> None:
    assert_silent(create_loss(Loss(mining=mining, soft_margin=True)), labels)


def test_a_soft_margin_shows_nan() -> None:
    for mining in MININGS:
        assert_nan_shows(create_loss(Loss(mining=mining, soft_margin=True)), LABELS["even"])
