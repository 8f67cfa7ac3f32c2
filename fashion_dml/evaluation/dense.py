"""Ranks of the relevant items by counting: the rank of one is its place among them plus the wrong items not below it.

For every query all scores are computed in float32 and compared with the score of each relevant item. No list is sorted and
nothing is selected, so the cost doesn't depend on how good the embedding is: it is the product, and a pass over the scores
for each relevant item. Eight marks are summed as one 64-bit word. From MANY relevant items on, one sort of the scores is
cheaper than so many passes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fashion_dml.evaluation.columns import FAR, Columns, filled_up
from fashion_dml.evaluation.neighbours import TIE
from fashion_dml.evaluation.parallel import Buffers

if TYPE_CHECKING:
    from torch import Tensor

MANY = 24
# Words summed at a time: each of the eight bytes of a sum counts to 255.
WORDS = 128
# More rows at a time make the product no faster.
MOST_ROWS = 128


class Dense:
    """Panels of at most `rows` queries against the same columns; `memory_bytes` for all threads together."""

    def __init__(self, columns: Columns, level: str, memory_bytes: int, threads: int = 1) -> None:
        self.columns, self.level = columns, level
        total = len(columns.vectors)
        self._items = total if level == "image" else filled_up(len(columns.starts))
        # Scores, at product level again by product, one mark for each, and the relevant columns and scores.
        row_bytes = 4 * total + (4 * self._items if level == "product" else 0) + self._items
        row_bytes += 40 * int(columns.counts.max(initial=1)) if level == "image" else 0
        self.rows = int(max(1, min(MOST_ROWS, memory_bytes // (threads * row_bytes))))
        self._buffers = Buffers()

    def ranks(self, queries: Tensor, products: np.ndarray, hidden: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Ranks [b, R] int64, ascending, FAR where there is none, and relevant items [b] of queries [b, D], b <= rows.

        products [b]: each query's product; hidden [b]: the column that is the query itself, N for none.
        """
        import torch

        columns, device = self.columns, queries.device
        out = self._buffers.get("scores", len(queries), len(columns.vectors), torch.float32, device)
        scores = torch.mm(queries, columns.vectors.T, out=out)
        scores[:, columns.count :] = -torch.inf
        row = torch.arange(len(queries), device=device)
        scores[row, torch.from_numpy(hidden).to(device)] = -torch.inf
        if self.level == "product":
            return self._counted(self._by_product(scores), torch.from_numpy(products[:, None]).to(device))
        return self._counted(scores, torch.from_numpy(columns.of_products(products)).to(device))

    def _by_product(self, scores: Tensor) -> Tensor:
        """The best score of each product: [b, products, filled up] from scores [b, P]."""
        import torch

        starts, count = self.columns.starts, self.columns.count
        items = self._buffers.get("items", len(scores), self._items, scores.dtype, scores.device)
        items[:, len(starts) :] = -torch.inf
        if scores.device.type == "cpu":
            np.maximum.reduceat(scores[:, :count].numpy(), starts, axis=1, out=items[:, : len(starts)].numpy())
            return items
        owner = torch.from_numpy(np.repeat(np.arange(len(starts)), self.columns.counts)).to(scores.device)
        return items.scatter_reduce_(1, owner.expand(len(scores), -1), scores[:, :count], "amax", include_self=False)

    def _counted(self, scores: Tensor, own: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Ranks of the columns own [b, R] among scores [b, items], which it changes; -inf marks an item that isn't there."""
        import torch

        right, _ = scores.gather(1, own).sort(dim=1, descending=True)
        there = right > -torch.inf
        limits = torch.where(there, right - TIE, torch.inf)
        scores[torch.arange(len(own), device=own.device)[:, None], own] = -torch.inf
        if limits.shape[1] >= MANY:
            ahead = not_below_sorted(scores, limits)
        else:
            marks = self._buffers.get("marks", scores.shape[0], scores.shape[1], torch.bool, scores.device)
            ahead = torch.stack([not_below(scores, limit, marks) for limit in limits.split(1, dim=1)], dim=1)
        ranks = torch.arange(1, limits.shape[1] + 1, device=scores.device) + ahead
        return torch.where(there, ranks, FAR).cpu().numpy(), there.sum(dim=1).cpu().numpy()


def not_below(scores: Tensor, limit: Tensor, marks: Tensor) -> Tensor:
    """How many of scores [b, items] aren't below limit [b, 1]: [b] int64. marks [b, items] bool is overwritten."""
    import torch

    words = torch.ge(scores, limit, out=marks).view(torch.int64).view(len(scores), -1, WORDS).sum(dim=2)
    return words.view(torch.uint8).sum(dim=1)


def not_below_sorted(scores: Tensor, limits: Tensor) -> Tensor:
    """The same for limits [b, R] at once: [b, R] int64. Sorts the scores."""
    import torch

    if scores.device.type == "cpu":
        scores.numpy().sort(axis=1)  # several times as fast as torch's
    else:
        scores = scores.sort(dim=1).values
    return scores.shape[1] - torch.searchsorted(scores, limits.contiguous())
