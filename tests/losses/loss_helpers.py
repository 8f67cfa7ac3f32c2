"""What the tests of the losses share: batches, references in float64, comparison of values and gradients."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from fashion_dml.config import Loss
from fashion_dml.losses import MetricLoss, create_loss

LABELS = {
    "even": [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3],
    "mixed with a single": [7, 3, 7, 7, 9, 3, 3, 1, 9, 12, 12, 7],
    "pairs": [5, 5, 6, 6, 8, 8, 0, 0],
}
WORDS = ("colour=red", "colour=blue", "colour=green", "print=dots", "print=plain", "sleeveless")


def vectors(n: int, dim: int = 6, seed: int = 0, spread: float = 1.0) -> Tensor:
    """Float64 [n, dim], not of unit length; a small spread puts them near one another, where losses are at work."""
    rng = np.random.default_rng(seed)
    return torch.from_numpy(rng.normal(size=dim) + spread * rng.normal(size=(n, dim)))


def attributes(n: int, seed: int = 0, unknown: float = 0.2) -> Tensor:
    """Int8 [n, 6] of WORDS: 1, -1, and some columns unknown."""
    rng = np.random.default_rng(seed)
    found = np.zeros((n, len(WORDS)), np.int8)
    for first, count in ((0, 3), (3, 2)):
        values = np.eye(count, dtype=np.int8)[rng.integers(count, size=n)] * 2 - 1
        found[:, first : first + count] = values * (rng.random(n) >= unknown)[:, None]
    found[:, 5] = rng.integers(-1, 2, size=n)
    return torch.from_numpy(found)


def loss_of(labels: list[int], dim: int = 6, features: int = 4, **settings: Any) -> MetricLoss:
    """The loss of these settings, over the classes of these labels, in float64."""
    torch.manual_seed(0)
    classes = torch.tensor(sorted(set(labels)))
    return create_loss(Loss(**settings), dim=dim, classes=classes, attributes=WORDS, features=features).double()


def value_and_gradients(
    loss: Callable[[Tensor], Tensor], raw: Tensor, parameters: tuple[Tensor, ...] = ()
) -> tuple[Tensor, tuple[Tensor, ...]]:
    """(loss of the normalised rows, gradients to the raw rows and to parameters)."""
    leaf = raw.detach().clone().requires_grad_(True)
    value = loss(F.normalize(leaf, dim=1))
    found = torch.autograd.grad(value, (leaf, *parameters), allow_unused=True)
    return value.detach(), tuple(
        torch.zeros_like(t) if g is None else g for g, t in zip(found, (leaf, *parameters), strict=True)
    )


def assert_equal(
    ours: Callable[[Tensor], Tensor], reference: Callable[[Tensor], Tensor], raw: Tensor, parameters: tuple[Tensor, ...] = ()
) -> None:
    """Value and gradients within 1e-9, relative, and finite differences agree with the gradient of ours."""
    found, gradients = value_and_gradients(ours, raw, parameters)
    expected, wanted = value_and_gradients(reference, raw, parameters)
    assert found.dtype == torch.float64
    assert float(expected) != 0
    assert abs(float(found - expected)) <= 1e-9 * abs(float(expected))
    for gradient, want in zip(gradients, wanted, strict=True):
        assert float((gradient - want).abs().max()) <= 1e-9 * max(float(want.abs().max()), 1e-12), (gradient, want)


def gradcheck(ours: Callable[[Tensor], Tensor], raw: Tensor) -> bool:
    """Finite differences against backward, float64."""
    leaf = raw.detach().clone().requires_grad_(True)
    return torch.autograd.gradcheck(lambda t: ours(F.normalize(t, dim=1)), leaf, eps=1e-6, atol=1e-6, rtol=1e-4, fast_mode=True)


def cosines(x: Tensor) -> list[list[Tensor]]:
    """Every <x_i, x_j> as a scalar of its own."""
    return [[(a * b).sum() for b in x] for a in x]


def positives(labels: list[int], i: int) -> list[int]:
    return [j for j in range(len(labels)) if j != i and labels[j] == labels[i]]


def negatives(labels: list[int], i: int) -> list[int]:
    return [j for j in range(len(labels)) if labels[j] != labels[i]]


def softplus(z: Tensor) -> Tensor:
    return torch.log1p(torch.exp(-z.abs())) + z.clamp_min(0)


def mean(terms: list[Tensor]) -> Tensor:
    return torch.stack(terms).sum() / len(terms)


def assert_silent(loss: MetricLoss, labels: list[int], *others: Tensor | None, part: str = "loss") -> None:
    """Value 0 and gradient 0, still connected to the embeddings."""
    leaf = vectors(len(labels), seed=4).requires_grad_(True)
    parts = loss(F.normalize(leaf, dim=1), torch.tensor(labels), *others)
    assert float(parts[part].detach()) == 0
    if part == "loss":
        parts["loss"].backward()
        assert leaf.grad is not None
        assert torch.equal(leaf.grad, torch.zeros_like(leaf))


def assert_nan_shows(loss: MetricLoss, labels: list[int], *others: Tensor | None) -> None:
    """A diverged model must not read as one that has learnt everything: comparisons with NaN are false."""
    for row in range(len(labels)):
        x = F.normalize(vectors(len(labels)), dim=1)
        x[row] = math.nan
        assert math.isnan(float(loss(x, torch.tensor(labels), *others)["loss"].detach())), row


def assert_float32_under_autocast(loss: MetricLoss, labels: list[int], *others: Tensor | None) -> None:
    x = F.normalize(vectors(len(labels)).float(), dim=1)
    loss = loss.float()
    others = tuple(o if o is None or not o.is_floating_point() else o.float() for o in others)
    plain = loss(x, torch.tensor(labels), *others)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert (x @ x.T).dtype == torch.bfloat16
        half = loss(x, torch.tensor(labels), *others)["loss"]
    assert half.dtype == torch.float32
    assert torch.equal(half, plain)


class Largest(TorchDispatchMode):
    """Elements of the largest tensor that any operation, forward or backward, makes."""

    elements = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, Tensor):
                self.elements = max(self.elements, tensor.numel())
        return out


def largest_tensor(loss: nn.Module, labels: Tensor, *others: Tensor | None, dim: int = 6) -> int:
    leaf = vectors(len(labels), dim).float().requires_grad_(True)
    with Largest() as largest:
        loss(F.normalize(leaf, dim=1), labels, *others)["loss"].backward()
    return largest.elements
