"""Which rows of a batch show the same product."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Pairs:
    """The positives of every row, as a matrix with one column a positive.

    With K images a product it has K - 1 columns, far fewer than the B of a mask, and writing at its indices is cheaper
    than a pass over the mask.
    """

    positive: Tensor  # int64 [B, Q]: index of a positive in the reference; the row itself where it has fewer than Q
    valid: Tensor  # bool [B, Q]: where it is one
    group: Tensor  # int64 [B, Q + 1]: the positives and the row itself: all that is no negative
    columns: int  # R, rows of the reference

    @property
    def width(self) -> int:
        """Q: most positives of a row."""
        return self.positive.shape[1]

    def counts(self) -> tuple[Tensor, Tensor]:
        """(positive pairs, negative pairs), int64 scalars; (i, j) and (j, i) are two."""
        positives = self.valid.sum()
        return positives, len(self.valid) * (self.columns - 1) - positives

    def of(self, similarity: Tensor, rows: slice, missing: float) -> Tensor:
        """[b, Q] similarities of these rows of [b, R] to their positives; `missing` where a row has fewer."""
        found = similarity.gather(1, self.positive[rows])
        return found.masked_fill_(~self.valid[rows], missing)


def find_pairs(labels: Tensor, reference: Tensor | None = None) -> Pairs:
    """Pairs of a batch, int64 [B], within a reference [R] that begins with the batch; None: the batch alone."""
    reference = labels if reference is None else reference
    ordered, order = torch.sort(reference, stable=True)
    first = torch.searchsorted(ordered, labels)
    size = torch.searchsorted(ordered, labels, right=True) - first
    place = torch.empty_like(order)  # of each row of the reference in the order
    place[order] = torch.arange(len(order), device=order.device)
    row = torch.arange(len(labels), device=order.device)
    slot = torch.arange(int(size.max()) - 1, device=order.device)[None, :]
    step_over_itself = slot >= (place[: len(labels)] - first)[:, None]
    valid = slot < size[:, None] - 1
    index = (first[:, None] + slot + step_over_itself).clamp_(max=len(order) - 1)
    positive = torch.where(valid, order[index], row[:, None])
    return Pairs(positive, valid, torch.cat([positive, row[:, None]], 1), len(reference))
