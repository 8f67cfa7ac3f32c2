"""What may stand between the index and the answer: query expansion, then re-ranking; and the ranks that come of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from fashion_dml.evaluation.columns import FAR
from fashion_dml.evaluation.expansion import expanded
from fashion_dml.evaluation.neighbours import TIE
from fashion_dml.evaluation.rerank import k_reciprocal


@dataclass(frozen=True)
class Refinement:
    """Settings of both; as they stand here, neither does anything."""

    rerank: Literal["none", "k-reciprocal"] = "none"
    top: int = 100
    expansion: int = 0
    alpha: float = 3.0

    @property
    def name(self) -> str:
        """`alpha-QE 5, k-reciprocal 100`; empty if nothing is done."""
        kind = "average QE" if self.alpha == 0 else "alpha-QE"
        return ", ".join(
            [
                *([f"{kind} {self.expansion}"] if self.expansion else []),
                *([f"{self.rerank} {self.top}"] if self.rerank != "none" else []),
            ]
        )

    def query(
        self, queries: np.ndarray, gallery: np.ndarray, exclude: np.ndarray | None, memory_bytes: int, device: str | None
    ) -> np.ndarray:
        """The queries [Q, D] to search with."""
        if not self.expansion or not len(queries) or not len(gallery):
            return queries
        return expanded(queries, gallery, self.expansion, self.alpha, exclude=exclude, memory_bytes=memory_bytes, device=device)

    def lists(
        self, queries: np.ndarray, gallery: np.ndarray, exclude: np.ndarray | None, memory_bytes: int, device: str | None
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Scores and rows [Q, top] of the re-ranked heads of the lists; None if they stay as they are."""
        if self.rerank == "none" or not len(queries) or not len(gallery):
            return None
        # An expanded query is no longer the image in the gallery, which stays hidden all the same.
        return k_reciprocal(queries, gallery, self.top, exclude=exclude, memory_bytes=memory_bytes, device=device)


def relisted(
    ranks: np.ndarray, own: np.ndarray, labels: np.ndarray, scores: np.ndarray, level: Literal["image", "product"]
) -> np.ndarray:
    """Ranks [b, R] int64 once the head of each list is in a new order; what stands after the head keeps its rank.

    ranks: before, ascending; own [b]: labels of the queries; labels, scores [b, N]: of the head, score -inf where it is shorter.
    Ties break pessimistically.
    """
    found = ranks.copy()
    for i in range(len(ranks)):
        score, label = scores[i], labels[i]
        there = score > -np.inf
        score, label = score[there], label[there]
        if level == "product":
            order = np.argsort(-score, kind="stable")
            _, first = np.unique(label[order], return_index=True)
            score, label = score[order][first], label[order][first]
        right = np.sort(score[label == own[i]])[::-1]
        wrong = np.sort(score[label != own[i]])
        ahead = len(wrong) - np.searchsorted(wrong, right - TIE)
        found[i, : len(right)] = np.arange(1, len(right) + 1) + ahead
        later = found[i, len(right) :]
        found[i, len(right) :] = np.where(later == FAR, FAR, np.maximum(later, len(score) + 1 + np.arange(len(later))))
    return found
