"""Triplet loss against a loop over all triples, against pytorch-metric-learning, and where it must be silent."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import LpDistance
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner, TripletMarginMiner
from pytorch_metric_learning.reducers import AvgNonZeroReducer
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fashion_dml.config import Loss
from fashion_dml.losses import create_loss
from fashion_dml.storage import UserError

Mining = Literal["semi-hard", "batch-hard", "all"]
MININGS: tuple[Mining, ...] = ("semi-hard", "batch-hard", "all")
LABELS = {
    "even": [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3],
    "mixed with a single": [7, 3, 7, 7, 9, 3, 3, 1, 9, 12, 12, 7],
}


def vectors(n: int, dim: int = 5, seed: int = 0) -> torch.Tensor:
    """Float64, not of unit length."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(n, dim)))


def triple_loop(raw: torch.Tensor, labels: list[int], margin: float, mining: Mining) -> tuple[torch.Tensor, int]:
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
                if violation.item() > 0 and (mining != "semi-hard" or d(a, k).item() > d(a, p).item()):
                    terms.append(violation)
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


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation, forward or backward, makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


@pytest.mark.parametrize("mining", MININGS)
def test_a_large_batch_makes_no_cubic_tensor(mining: Mining) -> None:
    """256 products x 2: the largest tensor is pairs x batch, here B^2, where B^3 would be 512 times as much."""
    batch = 512
    leaf = vectors(batch, 16).float().requires_grad_(True)
    with Largest() as largest:
        create_loss(Loss(mining=mining))(F.normalize(leaf, dim=1), torch.arange(batch) // 2)["loss"].backward()
    assert batch**2 <= largest.elements <= 2 * batch**2


def test_unknown_loss_lists_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"'tripplet' is not known; known are triplet"):
        create_loss(Loss(name="tripplet"))
