"""Retrieval metrics of every query, from the exact ranks of its relevant items.

Relevant items of a query are the gallery items with its label, itself left out by row number. Ordered by score they
have the ranks r_1 < r_2 < ... < r_R, where an item that is tied with a relevant one, but wrong, ranks BEFORE it: an
embedding collapsed to one point scores zero or next to it, whatever the order of the rows. With [.] = 1 if true, else 0:

    R@K          [r_1 <= K]                          a hit rate, as in the DeepFashion benchmarks, not a share of the relevant
    P@1          [r_1 <= 1]
    R-Precision  (1/R) sum_i [r_i <= R]
    MAP@R        (1/R) sum_i [r_i <= R] i / r_i      (Musgrave, Belongie, Lim: A Metric Learning Reality Check, 2020)
    mAP          (1/R) sum_i i / r_i                 over all relevant items, to the end of the gallery
    MRR          1 / r_1

A query without a relevant item (R = 0) is counted and not scored: its values are NaN.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from fashion_dml.evaluation.neighbours import TIE, check_pair, normalised, similarity_blocks
from fashion_dml.storage import UserError

Level = Literal["image", "product"]
RECALL_AT = (1, 5, 10, 20)


@dataclass(frozen=True)
class Retrieval:
    """What each query scored: labels, relevant, first_rank [Q] int64 (rank 0: not scored); values: name -> [Q] float64."""

    labels: np.ndarray
    relevant: np.ndarray
    first_rank: np.ndarray
    values: dict[str, np.ndarray]

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def scored(self) -> np.ndarray:
        """[Q] bool: has at least one relevant item."""
        return self.relevant > 0

    @property
    def unscored(self) -> int:
        """Queries without a relevant item."""
        return int((~self.scored).sum())

    def summary(self) -> dict[str, float]:
        """Mean of each metric over the scored queries (micro); NaN if there are none."""
        scored = self.scored
        return {name: float(v[scored].mean()) if scored.any() else float("nan") for name, v in self.values.items()}

    def select(self, rows: np.ndarray) -> Retrieval:
        """The same for some queries only (a mask [Q] or row numbers): one vertical, one attribute value."""
        values = {name: v[rows] for name, v in self.values.items()}
        return Retrieval(self.labels[rows], self.relevant[rows], self.first_rank[rows], values)


def metric_names(recall_at: Sequence[int]) -> list[str]:
    """Names in the order of all reports."""
    return [*(f"R@{k}" for k in recall_at), "mAP", "MAP@R", "R-Precision", "P@1", "MRR"]


def join(parts: Sequence[Retrieval]) -> Retrieval:
    """Queries of several retrievals one after the other; all must hold the same metrics."""
    if not parts:
        raise UserError("There are no retrievals to join; measure at least one vertical.")
    names = list(parts[0].values)
    return Retrieval(
        np.concatenate([p.labels for p in parts]),
        np.concatenate([p.relevant for p in parts]),
        np.concatenate([p.first_rank for p in parts]),
        {name: np.concatenate([p.values[name] for p in parts]) for name in names},
    )


def measure(
    queries: np.ndarray,
    query_labels: np.ndarray,
    gallery: np.ndarray,
    gallery_labels: np.ndarray,
    *,
    exclude: np.ndarray | None = None,
    level: Level = "image",
    recall_at: Sequence[int] = RECALL_AT,
    memory_bytes: int = 256 << 20,
    device: str | None = None,
) -> Retrieval:
    """All metrics of all queries by cosine similarity.

    queries [Q, D], gallery [N, D] float, of any length; labels [Q], [N] integer. exclude [Q] int64: the gallery row that is the
    query itself (self-retrieval: `np.arange(Q)`); None or -1 where the query isn't in the gallery. level "image": every
    image is an item; "product": a product is one item and scores as its best image, so R = 1. Similarities take
    `memory_bytes` at a time (or one row), the result O(Q). Raises UserError on shapes or values that don't fit.
    """
    exclude = check_pair(queries, gallery, exclude)
    _check_settings(query_labels, len(queries), gallery_labels, len(gallery), level, recall_at)
    # Sorted by label, the images of a product are one range of columns.
    order = np.argsort(gallery_labels, kind="stable")
    place = np.empty(len(order), np.int64)
    place[order] = np.arange(len(order))
    products, starts, counts = np.unique(gallery_labels[order], return_index=True, return_counts=True)
    product = np.searchsorted(products, query_labels)
    known = product < len(products)
    known[known] = products[product[known]] == query_labels[known]

    relevant = np.zeros(len(queries), np.int64)
    first_rank = np.zeros(len(queries), np.int64)
    names = metric_names(recall_at)
    table = np.full((len(names), len(queries)), np.nan)
    columns = normalised(gallery)[order]
    # Product level reduces a block into a second, smaller one.
    budget = memory_bytes if level == "image" else memory_bytes // 2
    for start, block in similarity_blocks(normalised(queries), columns, budget, device):
        hidden = exclude[start : start + len(block)]
        hidden = np.where(hidden >= 0, place[hidden], -1) if len(place) else hidden
        masked = np.flatnonzero(hidden >= 0)
        block[masked, hidden[masked]] = -np.inf
        items = block if level == "image" or not len(starts) else np.maximum.reduceat(block, starts, axis=1)
        for i in np.flatnonzero(known[start : start + len(block)]):
            p = product[start + i]
            own = slice(starts[p], starts[p] + counts[p]) if level == "image" else slice(p, p + 1)
            ranks = relevant_ranks(items[i], own)
            if len(ranks):
                relevant[start + i], first_rank[start + i] = len(ranks), ranks[0]
                table[:, start + i] = query_values(ranks, recall_at)
    return Retrieval(query_labels.astype(np.int64), relevant, first_rank, dict(zip(names, table, strict=True)))


def relevant_ranks(scores: np.ndarray, own: slice) -> np.ndarray:
    """Ranks [R] int64, ascending from 1, of the relevant columns `own` among scores [N] float32; changes `scores`.

    -inf marks an item that isn't there. r_i = i + number of wrong items with a score not below the i-th relevant one's
    by more than TIE. Only the wrong items above the worst relevant one are sorted: few, when the embedding is good.
    """
    right = scores[own]
    right = np.sort(right[right > -np.inf])[::-1]
    if not len(right):
        return np.empty(0, np.int64)
    scores[own] = -np.inf
    limits = right - np.float32(TIE)
    rivals = np.sort(scores[scores >= limits[-1]])
    ahead = len(rivals) - np.searchsorted(rivals, limits, side="left")
    return np.arange(1, len(right) + 1) + ahead


def query_values(ranks: np.ndarray, recall_at: Sequence[int]) -> list[float]:
    """Metrics of one query in the order of `metric_names`, from the ranks [R] of its relevant items, R >= 1."""
    count, first = len(ranks), int(ranks[0])
    precision = np.arange(1, count + 1) / ranks
    inside = int(np.searchsorted(ranks, count, side="right"))
    return [
        *(float(first <= k) for k in recall_at),
        float(precision.mean()),
        float(precision[:inside].sum()) / count,
        inside / count,
        float(first == 1),
        1 / first,
    ]


def _check_settings(
    query_labels: np.ndarray, queries: int, gallery_labels: np.ndarray, items: int, level: str, recall_at: Sequence[int]
) -> None:
    for name, labels, rows in (("query", query_labels, queries), ("gallery", gallery_labels, items)):
        # Labels stay integers: float32 can't tell ids above 2^24 apart.
        if labels.shape != (rows,) or not np.issubdtype(labels.dtype, np.integer):
            raise UserError(f"The {name} labels have shape {list(labels.shape)} and type {labels.dtype}; give {rows} integers.")
    if level not in ("image", "product"):
        raise UserError(f"The gallery level is {level!r}; choose image or product.")
    if not recall_at or min(recall_at) < 1:
        raise UserError(f"R@K is asked for K = {list(recall_at)}; give at least one K, each 1 or more.")
