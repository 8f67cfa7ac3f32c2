"""Ranks of the relevant items from few exact scores: a cheap product says which wrong items can matter.

A rank needs only the wrong items that score above some relevant one, and a metric that ends at place C (R@K, R-Precision,
MAP@R: C = max(R, K)) only the first C. So the product is computed in bfloat16, where the processor has instructions
for it (two to several times as fast as float32), with a bound E on its error:

    |<x', y'> - <x, y>|  <=  |x - x'| |y'| + |x| |y - y'| + rounding of the sum       (Cauchy and Schwarz; ' is rounded)

With g the C-th largest of the maxima over groups of columns, C wrong items score at least g - E: what lies below can't
matter. Every column whose rough score isn't below the limit by more than E is then scored again in float32, and only those
scores decide. So the answer is that of `dense`. Queries with too many such columns are left to `dense`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fashion_dml.evaluation.columns import FAR, Columns
from fashion_dml.evaluation.neighbours import TIE
from fashion_dml.evaluation.parallel import Buffers

if TYPE_CHECKING:
    from torch import Tensor

MOST_ROWS = 256
# Relevant items of a query, and hit groups of columns, above which `dense` is cheaper.
MOST_RELEVANT = 64
MOST_GROUPS = 256
# Columns scored again at a time, at most.
AGAIN = 1 << 14


def group_of(columns: int) -> int:
    """Columns that share one maximum: fewer where there are fewer, so that there are enough maxima to choose from."""
    return 64 if columns >= 1 << 15 else 16


def worthwhile(columns: Columns, deepest: int) -> bool:
    """Whether metrics that end at place `deepest` leave most of the columns out."""
    total = len(columns.vectors)
    return columns.count > 0 and total >= 4096 and 8 * deepest <= total // group_of(total)


def has_bfloat16() -> bool:
    """Whether the processor multiplies bfloat16 faster than float32: in tiles (AMX), or in pairs (AVX-512 BF16)."""
    import torch

    return bool(torch.cpu._is_amx_tile_supported() or torch.cpu._is_avx512_bf16_supported())


class Screen:
    """Rough columns, for panels of at most `rows` queries; `memory_bytes` for all threads together."""

    def __init__(self, columns: Columns, memory_bytes: int, threads: int = 1) -> None:
        import torch

        self.columns = columns
        vectors = columns.vectors
        halves = vectors.device.type == "cpu" and has_bfloat16()
        self.type = torch.bfloat16 if halves else torch.float32
        # Bit patterns of floats above zero are ordered like integers, and maxima of integers are faster.
        self.bits = torch.int16 if halves else torch.int32
        self.rough = vectors.to(self.type) if halves else vectors
        self.error = float((vectors - self.rough).norm(dim=1).max()) if halves else 0.0
        self.group = group_of(len(vectors))
        # Rough scores, those of hit groups with their places, and the relevant vectors; beside them the vectors scored again.
        dim, share = vectors.shape[1], memory_bytes // threads
        row_bytes = self.rough.element_size() * len(vectors) + 24 * MOST_GROUPS * self.group + 4 * MOST_RELEVANT * dim
        self.rows = int(max(1, min(MOST_ROWS, 3 * share // (4 * row_bytes))))
        self.again = int(max(1, min(AGAIN, share // (4 * 12 * dim))))
        self._buffers = Buffers()

    def bound(self, queries: Tensor, rough: Tensor) -> Tensor:
        """E of each query [b], for vectors of length 1 or 0."""
        import torch

        sums = 2 * queries.shape[1] * 2.0**-23 + 2 * TIE
        rounding = torch.finfo(self.type).eps * 1.02 / 2
        return (queries - rough.float()).norm(dim=1) * 1.01 + self.error * 1.01 + sums + rounding

    def ranks(
        self, queries: Tensor, products: np.ndarray, hidden: np.ndarray, deepest: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ranks [b, R] int64, relevant items [b], and which [b] bool are right; the others are to be counted by `dense`.

        queries [b, D] float32, b <= rows; products [b]; hidden [b]: the column that is the query itself, N for none. deepest
        [b]: the last place that matters, ranks after it may be FAR; None: all places.
        """
        import torch

        columns, device = self.columns, queries.device
        own = torch.from_numpy(columns.of_products(products)).to(device)
        itself = torch.from_numpy(hidden[:, None]).to(device)
        right = torch.bmm(columns.vectors[own], queries[:, :, None])[:, :, 0]
        right = right.masked_fill((own == columns.count) | (own == itself), -torch.inf).sort(dim=1, descending=True).values
        there = right > -torch.inf
        relevant = there.sum(dim=1)
        limits = torch.where(there, right - TIE, torch.inf)
        lowest = limits.masked_fill(~there, torch.inf).amin(dim=1)

        rough = queries.to(self.type)
        out = self._buffers.get("scores", len(queries), len(self.rough), self.type, device)
        scores = torch.mm(rough, self.rough.T, out=out)
        scores[torch.arange(len(own), device=device)[:, None], torch.cat([own, itself], dim=1)] = -torch.inf
        groups = scores.view(len(queries), self.group, -1)
        best = groups.view(self.bits).amax(dim=1).view(self.type).float()
        bound = self.bound(queries, rough)
        if deepest is not None:
            last = torch.from_numpy(deepest[:, None] - 1).to(device)
            kept = best.topk(int(deepest.max()), dim=1).values.gather(1, last)[:, 0]
            lowest = torch.maximum(lowest, kept - bound)
        cut = lowest - bound
        hit = best >= cut[:, None]
        # Below zero the order of bit patterns turns round.
        sure = (cut > 0) & (hit.sum(dim=1) <= MOST_GROUPS)
        row, column = self._candidates(groups, hit & sure[:, None], cut)
        ahead = self._count(queries, row, column, limits)
        ranks = torch.arange(1, limits.shape[1] + 1, device=device) + ahead
        ranks = torch.where(there & (limits >= lowest[:, None]), ranks, FAR)
        return ranks.cpu().numpy(), relevant.cpu().numpy(), (sure | (relevant == 0)).cpu().numpy()

    def _candidates(self, groups: Tensor, hit: Tensor, cut: Tensor) -> tuple[Tensor, Tensor]:
        """Row and column [C] of every rough score at or above its row's cut [b], from hit groups [b, G]."""
        row, group = hit.nonzero(as_tuple=True)
        found, member = (groups[row, :, group].float() >= cut[row][:, None]).nonzero(as_tuple=True)
        # A group's columns stand G apart, so that the images of a product fall into different groups.
        return row[found], member * groups.shape[2] + group[found]

    def _count(self, queries: Tensor, row: Tensor, column: Tensor, limits: Tensor) -> Tensor:
        """How many of the candidates score at or above each limit [b, R] of their row: [b, R] int64."""
        import torch

        ahead = torch.zeros(limits.shape, dtype=torch.int64, device=limits.device)
        for r, c in zip(row.split(self.again), column.split(self.again), strict=True):
            exact = torch.linalg.vecdot(queries[r], self.columns.vectors[c])
            ahead.index_add_(0, r, (exact[:, None] >= limits[r]).long())
        return ahead
