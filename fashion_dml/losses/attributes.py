"""How alike two images are by their attributes, and the head that predicts these."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_dml.storage import UserError

Likeness = Callable[[slice, Tensor | None], Tensor]


def chosen_words(words: tuple[str, ...], columns: tuple[str, ...]) -> list[bool]:
    """Which words of a vocabulary, as "colour=red", belong to these columns; no columns: all.

    Raises UserError where a column has no word.
    """
    of_word = [word.partition("=")[0] for word in words]
    for column in columns:
        if column not in of_word:
            known = ", ".join(dict.fromkeys(of_word)) or "none"
            raise UserError(f"loss.granularity.columns: the dataset has no attribute column {column!r}; known are {known}.")
    return [not columns or column in columns for column in of_word]


def likeness(has: Tensor, known: Tensor | None, kind: str) -> Likeness:
    """A function from rows to their g [b, B], in [0, 1], written to a given tensor, of has [B, A] in [0, 1] and known [B, A] of 0 and 1 (None: all 1).

    An attribute counts for a pair where both images know it. With u = has, over those:

    - cosine: <u_i, u_j> / (|u_i| |u_j|);
    - jaccard: <u_i, u_j> / (|u_i|^2 + |u_j|^2 - <u_i, u_j>), which on zeros and ones is the shared over the united.

    A pair with nothing known to both, or nothing that either has, gets 0.
    """
    least = torch.finfo(has.dtype).tiny
    if known is None and kind == "cosine":  # the same norm against every other image, so one product does
        unit = F.normalize(has, dim=1, eps=least)
        return lambda rows, out: torch.mm(unit[rows], unit.T, out=out)
    squares = has.square()
    if known is None:
        norms = squares.sum(1, keepdim=True)
        return lambda rows, out: _jaccard(torch.mm(has[rows], has.T, out=out), norms[rows] + norms.T, least)

    def of(rows: slice, out: Tensor | None) -> Tensor:
        shared, own, other = torch.mm(has[rows], has.T, out=out), squares[rows] @ known.T, known[rows] @ squares.T
        if kind == "cosine":
            return shared.div_(own.mul_(other).sqrt_().clamp_min_(least))
        return _jaccard(shared, own.add_(other), least)

    return of


def _jaccard(shared: Tensor, both: Tensor, least: float) -> Tensor:
    return shared.div_(both.sub_(shared).clamp_min_(least))


class AttributeHead(nn.Module):
    """A linear head from pooled features to one logit an attribute word."""

    def __init__(self, features: int, words: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, words)

    def forward(self, features: Tensor) -> Tensor:
        """Features [n, F] to logits float32 [n, A]."""
        with torch.autocast(features.device.type, enabled=False):
            logits: Tensor = self.linear(features.to(self.linear.weight.dtype))
            return logits

    @staticmethod
    def loss(logits: Tensor, attributes: Tensor) -> Tensor:
        """Mean binary cross-entropy of logits [B, A] over the known of attributes int8 [B, A]; 0 if none is."""
        known = (attributes != 0).to(logits.dtype)
        total = F.binary_cross_entropy_with_logits(logits, (attributes > 0).to(logits.dtype), known, reduction="sum")
        return total / known.sum().clamp_min(1)
