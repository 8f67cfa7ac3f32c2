"""Retrieval sheets: a query and its nearest neighbours as pictures, worst queries of a model first.

`worst_queries` chooses them and names the images, so that a job fetches only those; `Sheet` and `Tile` carry the pictures
to the page.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from fashion_dml.evaluation.metrics import Retrieval
from fashion_dml.evaluation.neighbours import nearest, normalised
from fashion_dml.evaluation.protocol import Measured, Vertical, searched


@dataclass(frozen=True)
class Tile:
    """One picture. score: cosine to the query, None on the query itself; right: shows the query's product; jpeg: the bytes."""

    image_id: str
    product_id: str
    score: float | None
    right: bool | None
    jpeg: bytes


@dataclass(frozen=True)
class Sheet:
    """One query and its neighbours, best first. first_rank: rank of the first right item, 0 if not known."""

    model: str
    vertical: str
    query: Tile
    neighbours: list[Tile]
    first_rank: int = 0


@dataclass(frozen=True)
class Hits:
    """Row numbers and ids of one query and what it found, best first.

    query_row is a row of the vertical's queries; neighbour_rows are rows of the index that was searched (`protocol.searched`).
    """

    vertical: str
    first_rank: int
    query_row: int
    query_id: str
    query_label: int
    neighbour_rows: list[int]
    neighbour_ids: list[str]
    neighbour_labels: list[int]
    scores: list[float]

    @property
    def right(self) -> list[bool]:
        """Which neighbours show the query's product."""
        return [label == self.query_label for label in self.neighbour_labels]


def worst_queries(
    verticals: Sequence[Vertical], measured: Measured, count: int, *, k: int = 10, memory_bytes: int = 256 << 20
) -> list[Hits]:
    """The `count` queries whose first right item ranks lowest, at most one of each product, with their k nearest.

    `verticals` are those that `measured` came from. Queries without a relevant item can't be wrong and are left out.
    """
    ends = np.cumsum([len(measured.by_vertical[v.name]) for v in verticals])
    chosen = worst_rows(measured.queries, count)
    home = np.searchsorted(ends, chosen, side="right")
    found: dict[int, Hits] = {}
    for v in np.unique(home).tolist():
        vertical = verticals[v]
        rows = chosen[home == v] - (ends[v] - len(measured.by_vertical[vertical.name]))
        index, own = searched(verticals, vertical, measured.protocol)
        exclude = None if own is None else own[rows]
        queries = normalised(vertical.queries.vectors[rows])
        scores, near = nearest(queries, normalised(index.vectors), k, exclude=exclude, memory_bytes=memory_bytes)
        for row, overall, s, n in zip(rows.tolist(), chosen[home == v].tolist(), scores, near, strict=True):
            there = n >= 0
            found[overall] = Hits(
                vertical.name,
                int(measured.queries.first_rank[overall]),
                row,
                str(vertical.queries.image_ids[row]),
                int(vertical.queries.labels[row]),
                n[there].tolist(),
                [str(i) for i in index.image_ids[n[there]]],
                index.labels[n[there]].tolist(),
                s[there].tolist(),
            )
    return [found[row] for row in chosen.tolist()]


def worst_rows(queries: Retrieval, count: int) -> np.ndarray:
    """Rows [<= count] int64 of the queries with the largest first rank, one per label, worst first; ties in row order."""
    order = np.argsort(-queries.first_rank, kind="stable")
    order = order[queries.scored[order]]
    _, first = np.unique(queries.labels[order], return_index=True)
    return order[np.sort(first)][:count]
