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

A query without a relevant item (R = 0) is counted and not scored: its values are NaN. mAP and MRR need every rank; the
others only the first max(R, K) places, which `screen` finds with less work than the whole product (`whole_list=False`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fashion_dml.evaluation.columns import FAR, Columns
from fashion_dml.evaluation.neighbours import check_pair, normalised
from fashion_dml.evaluation.ranking import Level, ranked
from fashion_dml.evaluation.refine import Refinement, relisted
from fashion_dml.storage import UserError

RECALL_AT = (1, 5, 10, 20)
WHOLE_LIST = ("mAP", "MRR")


@dataclass(frozen=True)
class Retrieval:
    """What each query scored: labels, relevant, first_rank [Q] int64 (rank 0: not scored); values: name -> [Q] float64.

    Where the whole list wasn't ranked, a first rank beyond max(R, K) stands as max(R, K) + 1.
    """

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


def metric_names(recall_at: Sequence[int], whole_list: bool = True) -> list[str]:
    """Names in the order of all reports."""
    names = [*(f"R@{k}" for k in recall_at), "mAP", "MAP@R", "R-Precision", "P@1", "MRR"]
    return [n for n in names if whole_list or n not in WHOLE_LIST]


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
    whole_list: bool = True,
    refinement: Refinement = Refinement(),
    memory_bytes: int = 256 << 20,
    device: str | None = None,
) -> Retrieval:
    """All metrics of all queries by cosine similarity.

    queries [Q, D], gallery [N, D] float, of any length; labels [Q], [N] integer. exclude [Q] int64: the gallery row that is the
    query itself (self-retrieval: `np.arange(Q)`); None or -1 where the query isn't in the gallery. level "image": every
    image is an item; "product": a product is one item and scores as its best image, so R = 1. whole_list False: without
    mAP and MRR, several times as fast on a large gallery. refinement: query expansion and re-ranking.
    Similarities take `memory_bytes` at a time (or a row for each thread), the rest O((Q + N) D). device: where torch computes;
    None is the CPU. Raises UserError on shapes or values that don't fit.
    """
    exclude = check_pair(queries, gallery, exclude)
    _check_settings(query_labels, len(queries), gallery_labels, len(gallery), level, recall_at)
    queries = refinement.query(queries, gallery, exclude, memory_bytes, device)
    heads = refinement.lists(queries, gallery, exclude, memory_bytes, device)
    columns = Columns.of(gallery, gallery_labels, device or "cpu")
    products = columns.find(query_labels)
    hidden = np.where(exclude >= 0, columns.place[exclude], columns.count) if len(columns.place) else exclude
    relevant = np.zeros(len(queries), np.int64)
    first_rank = np.zeros(len(queries), np.int64)
    names = metric_names(recall_at, whole_list)
    table = np.full((len(names), len(queries)), np.nan)
    end = None if whole_list else max(recall_at)
    for rows, ranks, count in ranked(columns, normalised(queries), products, hidden, level, end, memory_bytes):
        scored = count > 0
        rows, ranks, count = rows[scored], ranks[scored], count[scored]
        if heads is not None:
            scores, near = (part[rows] for part in heads)
            ranks = relisted(ranks, query_labels[rows], gallery_labels[near], scores, level)
        relevant[rows], first_rank[rows] = count, ranks[:, 0]
        if not whole_list:
            first_rank[rows] = np.minimum(ranks[:, 0], np.maximum(count, max(recall_at)) + 1)
        values = query_values(ranks, count, recall_at)
        table[:, rows] = [values[name] for name in names]
    return Retrieval(query_labels.astype(np.int64), relevant, first_rank, dict(zip(names, table, strict=True)))


def query_values(ranks: np.ndarray, count: np.ndarray, recall_at: Sequence[int]) -> dict[str, np.ndarray]:
    """Every metric [b] from ranks [b, R] int64, ascending, FAR where there is none, and relevant items [b], 1 or more."""
    first = ranks[:, 0]
    # Sums in order, so that a panel's width doesn't change their last bit.
    precision = np.where(ranks < FAR, np.arange(1, ranks.shape[1] + 1) / ranks, 0)
    inside = ranks <= count[:, None]
    return {
        **{f"R@{k}": (first <= k).astype(float) for k in recall_at},
        "mAP": np.cumsum(precision, axis=1)[:, -1] / count,
        "MAP@R": np.cumsum(precision * inside, axis=1)[:, -1] / count,
        "R-Precision": inside.sum(axis=1) / count,
        "P@1": (first == 1).astype(float),
        "MRR": 1 / first,
    }


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
