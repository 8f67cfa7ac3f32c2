"""Which rows of a batch show the same product."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
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
    positives: int  # positive pairs; (i, j) and (j, i) are two

    @property
    def width(self) -> int:
        """Q: most positives of a row."""
        return self.positive.shape[1]

    @property
    def negatives(self) -> int:
        """Negative pairs, counted likewise."""
        return len(self.valid) * (self.columns - 1) - self.positives

    def of(self, similarity: Tensor, rows: slice, missing: float) -> Tensor:
        """[b, Q] similarities of these rows of [b, R] to their positives; `missing` where a row has fewer."""
        found = similarity.gather(1, self.positive[rows])
        return found.masked_fill_(~self.valid[rows], missing)


def find_pairs(labels: Tensor, reference: Tensor | None = None) -> Pairs:
    """Pairs of a batch, int64 [B], within a reference [R] that begins with the batch; None: the batch alone.

    In numpy: a batch is small, and two dozen of torch's operators take three times as long. A GPU would have to tell how
    many columns there are in any case.
    """
    mine = labels.cpu().numpy()
    all_ = mine if reference is None else reference.cpu().numpy()
    order = np.argsort(all_, kind="stable")
    ordered = all_[order]
    first = np.searchsorted(ordered, mine)
    size = np.searchsorted(ordered, mine, side="right") - first
    row = np.arange(len(mine))
    place = np.empty_like(order)  # of each row of the reference in the order
    place[order] = np.arange(len(order))
    slot = np.arange(int(size.max()) - 1)
    step_over_itself = slot >= (place[: len(mine)] - first)[:, None]
    valid = slot < size[:, None] - 1
    index = np.minimum(first[:, None] + slot + step_over_itself, len(order) - 1)
    positive = np.where(valid, order[index], row[:, None])
    group = np.concatenate([positive, row[:, None]], 1)
    of_positives, of_group, whether = (torch.from_numpy(t).to(labels.device) for t in (positive, group, valid))
    return Pairs(of_positives, whether, of_group, len(all_), int(size.sum()) - len(mine))
