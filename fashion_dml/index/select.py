"""The best of many scores, offered a block at a time: a threshold that only rises lets few of them through.

Sorting or a heap would touch each score many times; here each is compared once, from cache, right after the product that made it.
"""

from __future__ import annotations

import numpy as np

GROUPS = 4  # times `width`: groups whose best scores give the first threshold, so tight that few rows more pass than must
TILE = 2048  # scores, about, that are compared with the thresholds at a time
MOST_KEPT = 1 << 20  # scores held before they are cut to the best


class Selection:
    """The `width` best rows of each of `queries` queries (at most 65,536), of all that were offered; ties by chance."""

    def __init__(self, queries: int, width: int) -> None:
        self._queries, self._width = queries, width
        self._tile = max(1, TILE // queries) if queries > 1 else 1  # rows compared at a time
        self._bound: np.ndarray | None = None  # float32 [tile * Q]: what isn't above its query's is not among the best
        self._kept: list[tuple[np.ndarray, np.ndarray, np.ndarray]] = []  # scores, rows, queries [n]
        self._count = self._seen = self._next = 0

    def offer(self, scores: np.ndarray, rows: np.ndarray | int) -> None:
        """Scores float32 [n, Q], contiguous; rows: int64 [n], or the first of n that follow each other."""
        n = len(scores)
        if self._bound is None:
            self._bound = self._first_bound(scores)
            self._next = self._next if self._bound is None else 2 * (self._seen + n)
        passed = self._above(scores)
        if self._queries == 1:
            places, queries = passed, passed
        else:
            places, queries = np.divmod(passed, self._queries)
        chosen = rows[places] if isinstance(rows, np.ndarray) else places + rows
        self._kept.append((scores.reshape(-1)[passed], chosen, queries.astype(np.uint16)))
        self._count += len(passed)
        self._seen += n
        if self._seen >= self._next or self._count > max(MOST_KEPT, 2 * self._queries * self._width):
            dense, names = self.best()
            filled = names >= 0
            self._kept = [(dense[filled], names[filled], filled.nonzero()[0].astype(np.uint16))]
            self._count, self._next = len(self._kept[0][0]), 2 * self._seen
            if dense.shape[1] == self._width:
                self._bound = self._tiled(dense.min(axis=1))

    def best(self) -> tuple[np.ndarray, np.ndarray]:
        """(scores float32 [Q, C], rows int64 [Q, C]) in no order, C <= width; -inf and -1 where there are fewer."""
        if not self._kept:
            return np.empty((self._queries, 0), np.float32), np.empty((self._queries, 0), np.int64)
        scores, rows, queries = self._kept[0] if len(self._kept) == 1 else map(np.concatenate, zip(*self._kept, strict=True))
        if self._queries == 1:
            dense, names = scores[None], rows[None]
        else:
            counts = np.bincount(queries, minlength=self._queries)
            order = np.argsort(queries, kind="stable")
            at = queries[order], np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
            dense = np.full((self._queries, int(counts.max())), -np.inf, np.float32)
            names = np.full(dense.shape, -1, np.int64)
            dense[at], names[at] = scores[order], rows[order]
        if dense.shape[1] > self._width:
            best = (-dense).argpartition(self._width - 1, axis=1)[:, : self._width]
            each = np.arange(len(dense))[:, None]
            dense, names = dense[each, best], names[each, best]
        return dense, names

    def _first_bound(self, scores: np.ndarray) -> np.ndarray | None:
        """Of each query, just under the width-th best of the best scores of disjoint groups: no more than the width-th best of all."""
        groups = 1 << (GROUPS * self._width - 1).bit_length()
        each = len(scores) // groups
        if each < 2:
            return None
        best = np.maximum.reduce(scores[: each * groups].reshape(each, groups * self._queries), axis=0)
        best = best.reshape(groups, self._queries)
        best.partition(groups - self._width, axis=0)
        return self._tiled(np.nextafter(best[groups - self._width], np.float32(-np.inf)))

    def _above(self, scores: np.ndarray) -> np.ndarray:
        """Places, int64 [m], of the scores above their query's bound, in order."""
        if self._bound is None:
            return np.arange(scores.size)
        flat = scores.reshape(-1)
        if self._queries == 1:
            return (flat > self._bound[0]).nonzero()[0]
        above = np.empty(len(flat), bool)
        cut, wide = len(flat) - len(flat) % len(self._bound), (-1, len(self._bound))
        np.greater(flat[:cut].reshape(wide), self._bound, out=above[:cut].reshape(wide))
        np.greater(flat[cut:], self._bound[: len(flat) - cut], out=above[cut:])
        return above.nonzero()[0]

    def _tiled(self, bound: np.ndarray) -> np.ndarray:
        """A bound a query, [Q], for the rows of a tile: comparing a few numbers at a time would be mostly overhead."""
        return np.broadcast_to(bound, (self._tile, self._queries)).ravel()
