"""Losses on a matrix of similarities, a block of its rows at a time.

A [B, B] matrix of a batch of 4,096 is 64 MiB, and a loss written on it as a whole makes a dozen like it, forward and
backward, each pass a trip to memory. Here a block of rows is made, its loss and the gradient of that are worked out while
it lies in the cache, and the gradient is multiplied back onto the embeddings at once. So nothing of size B x B is ever
whole, and the backward pass only scales what is already there.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

# (similarities [b, R], to be overwritten at will; which rows of x they are) to (sums, gradient of the first sum [b, R])
Term = Callable[[Tensor, slice], tuple[tuple[Tensor, ...], Tensor]]

BLOCK = {"cpu": 1 << 19, "cuda": 1 << 24}  # elements: a core's cache holds it; a GPU wants many


class _OverRows(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, reference: Tensor | None, term: Term, depth: int, symmetric: bool) -> tuple[Tensor, ...]:
        columns = x if reference is None else reference
        needed = ctx.needs_input_grad
        to_x = torch.zeros_like(x) if needed[0] else None
        to_columns = to_x if reference is None else torch.zeros_like(columns) if needed[1] else None
        rows = max(1, BLOCK.get(x.device.type, 1 << 19) // (len(columns) * max(1, depth)))
        sums: list[Tensor] = []
        for first in range(0, len(x), rows):
            chosen = slice(first, min(first + rows, len(x)))
            block = x[chosen]
            found, gradient = term(block @ columns.T, chosen)
            sums = [a + b for a, b in zip(sums, found, strict=True)] if sums else list(found)
            if reference is None and symmetric:
                if to_x is not None:
                    to_x[chosen].addmm_(gradient, x, alpha=2)
                continue
            if reference is None and to_x is not None and len(block) == len(x):  # one product where two would do the same
                to_x.addmm_(gradient + gradient.T, x)
                break
            if to_x is not None:
                to_x[chosen].addmm_(gradient, columns)
            if to_columns is not None:
                to_columns.addmm_(gradient.T, block)
        ctx.save_for_backward(to_x, None if reference is None else to_columns)
        ctx.mark_non_differentiable(*sums[1:])
        return tuple(sums)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, ...]:
        to_x, to_columns = (None if g is None else g * upstream[0] for g in ctx.saved_tensors)
        return to_x, to_columns, None, None, None


class _WithGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
        ctx.save_for_backward(gradient)
        return value.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[None, Tensor, None]:
        return None, ctx.saved_tensors[0] * upstream, None


def with_gradient(value: Tensor, x: Tensor, gradient: Tensor) -> Tensor:
    """A scalar value of x whose gradient, of the shape of x, is already known."""
    found: Tensor = _WithGradient.apply(value, x, gradient)
    return found


def over_rows(
    term: Term, x: Tensor, reference: Tensor | None = None, *, depth: int = 1, symmetric: bool = False
) -> tuple[Tensor, ...]:
    """Sums over all rows of <x_i, r_j>, the first of them with its gradient.

    x [M, D] and reference [R, D] (None: x itself) of one float dtype; `term` maps a block [b, R] of similarities to sums,
    the others being counts and the like, and the gradient of the first. `depth`: how many times the block's size a term
    uses, so that it can have fewer rows. `symmetric`: without a reference (i, j) and (j, i) have the same gradient, which
    saves one of two products.
    """
    found: tuple[Tensor, ...] = _OverRows.apply(x, reference, term, depth, symmetric)
    return found
