"""The vectors of a shard as they are stored: exact search over all rows or some of them, and exact scores.

A matrix product by blocks that stay in cache, each followed at once by the selection of its best. One query is the same, limited by
reading memory. Other stores than fp32 are decoded block by block; where queries are so few that decoding costs more than FAISS's scan
of the codes, FAISS scans.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fashion_dml.index.calls import faiss_search, read_faiss, set_codes
from fashion_dml.index.codes import block_rows, many_queries
from fashion_dml.index.rough import WIDER, Rough
from fashion_dml.index.select import Selection
from fashion_dml.storage import UserError

GATHERED_SHARE = 0.5  # a filter that keeps more of the rows is cheaper met by asking for more neighbours
SCORED_FLOATS = 1 << 17  # numbers of candidates that are scored at a time
COPIED_ROWS = 1024  # vectors copied or decoded at a time: they are still in cache when they are multiplied
QUERIES = 512  # of one product; more are asked one batch after the other


Search = Callable[[np.ndarray, int, Any], tuple[np.ndarray, np.ndarray]]
"""(queries, neighbours, FAISS's parameters) to (scores, rows) [Q, width]; scores may be what the true ones are at most."""


class Store:
    """The vectors of a shard; their codes may be a mapped file. Not changed by searches.

    Attributes: rows (N), dim (D), index (the same as a flat FAISS index), stored (how, a key of `codes.STORES`).
    """

    def __init__(self, index: faiss.Index, codes: np.ndarray | None = None) -> None:
        """codes: uint8 [N, bytes a vector], those of `index` where it has none of its own."""
        self.index = index
        self._rough: Rough | None = None
        self.rows, self.dim = int(index.ntotal), int(index.d)
        if codes is None:
            held = index.codes  # type: ignore[attr-defined]
            codes = faiss.rev_swig_ptr(held.data(), held.size()) if self.rows else np.empty(0, np.uint8)
        self._codes = codes.reshape(self.rows, index.sa_code_size())
        self._plain = self._codes.view(np.float32) if isinstance(index, faiss.IndexFlat) else None
        half = isinstance(index, faiss.IndexScalarQuantizer) and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
        self._typed = self._codes.view(np.float16) if half else self._plain
        self._memory = threading.local()
        self.stored = "fp32" if self._plain is not None else "fp16" if half else "int8"
        self._many = 1 if self._plain is not None else many_queries(self.dim, faiss.omp_get_max_threads(), self.stored)

    @classmethod
    def mapped(cls, empty: Path, codes: Path, rough: Path | None = None) -> Store:
        """The store of a file of codes, mapped; empty: the file of the empty index that knows how to read them; rough: their copy.

        Codes have a file of their own because they begin at its start: behind the head of a FAISS file no number is aligned, and a
        matrix product would copy all of them first. Raises UserError where the codes end within a vector.
        """
        index = read_faiss(empty)
        size = index.sa_code_size()
        rows, rest = divmod(codes.stat().st_size, size)
        if rest:
            raise UserError(f"{codes} has {rest} bytes beyond its last whole vector of {size}: it was cut off.")
        if not rows:
            return cls(index)
        mapped = np.memmap(codes, np.uint8, "r")
        set_codes(index, mapped, rows, index.codes.owner)  # type: ignore[attr-defined]
        store = cls(index, np.asarray(mapped))
        if rough is not None:
            store._rough = Rough.mapped(rough, store)
        return store

    def vectors(self, rows: np.ndarray | slice) -> np.ndarray:
        """The stored vectors of these rows, decoded, float32 [n, D]; those of a slice of a store fp32 are not copied."""
        if self._plain is not None:
            return self._plain[rows]
        return np.asarray(self.index.sa_decode(np.ascontiguousarray(self._codes[rows])), np.float32)

    def scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Inner products, float32 [Q, C], of queries [Q, D] with rows [Q, C]; -inf where a row is -1.

        Computed in float64 and summed in one fixed order, so that a row's score depends on nothing but the query.
        """
        scores = np.empty(rows.shape, np.float32)
        exact, width = queries.astype(np.float64), rows.shape[1]
        step = max(1, SCORED_FLOATS // max(1, width * self.dim))  # queries at a time: what is scored stays in cache
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            shape = (len(chosen), width, self.dim)
            products = self._scratch("products", chosen.size * self.dim, np.float64).reshape(shape)
            if self._typed is None:
                vectors = self.vectors(chosen.ravel()).reshape(shape)
            else:
                vectors = self._scratch("scored", products.size, self._typed.dtype).reshape(shape)
                np.take(self._typed, chosen, axis=0, out=vectors, mode="clip")
            np.multiply(vectors, exact[start : start + step, None], out=products)
            products.sum(axis=2, out=scores[start : start + step], dtype=np.float64)
        scores[rows < 0] = -np.inf
        return scores

    def nearest(
        self, queries: np.ndarray, width: int, ranges: Sequence[tuple[int, int]], kept: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `width` best rows of each range [first, last), of those that `kept` (bool [N]) keeps.

        Returns rows int64 [Q, C], -1 for none, and float32 [Q]: the score above which no row of the selection is missing,
        to float32 rounding; -inf where all are there. A row that isn't kept is never returned.
        """
        if len(queries) > QUERIES:
            parts = [self.nearest(queries[a : a + QUERIES], width, ranges, kept) for a in range(0, len(queries), QUERIES)]
            most = max(rows.shape[1] for rows, _ in parts)
            padded = [np.pad(rows, ((0, 0), (0, most - rows.shape[1])), constant_values=-1) for rows, _ in parts]
            return np.concatenate(padded), np.concatenate([floor for _, floor in parts])
        found, floor = [], np.full(len(queries), -np.inf, np.float32)
        for first, last in ranges:
            inside = None if kept is None else kept[first:last]
            share = 1.0 if inside is None else np.count_nonzero(inside) / (last - first)
            if share == 0:
                continue
            asked, chosen = width, None
            if inside is not None and share <= GATHERED_SHARE:
                chosen = first + np.flatnonzero(inside)
            else:
                asked = int(np.ceil(width / share))
            held = last - first if chosen is None else len(chosen)
            scan: Search | None = None
            if self._rough is not None and self._rough.suits(len(queries), asked, held):
                scan, asked = self._rough.search, WIDER * asked
            elif len(queries) < self._many:
                scan = partial(faiss_search, self.index)
            if scan is None:
                scores, rows = self._multiplied(queries, asked, first, last, chosen)
            else:
                scores, rows = self._scanned(scan, queries, asked, first, last, None if chosen is None else inside)
            if asked < held:
                floor = np.maximum(floor, scores.min(axis=1))
            found.append(rows if kept is None else np.where((rows >= 0) & kept[rows], rows, -1))
        return np.concatenate(found, axis=1) if found else np.empty((len(queries), 0), np.int64), floor

    def _multiplied(
        self, queries: np.ndarray, width: int, first: int, last: int, chosen: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(scores, rows) [Q, C] of the best of the range, or of the rows `chosen` [n], by matrix products."""
        count, n = (last - first if chosen is None else len(chosen)), len(queries)
        selection, size = Selection(n, width), min(block_rows(n), count)
        transposed = np.ascontiguousarray(queries.T)
        scores = self._scratch("scores", size * n).reshape(size, n)
        copied = chosen is not None or self._plain is None
        step = COPIED_ROWS if copied else size
        copies = self._scratch("copies", step * self.dim if copied else 0).reshape(-1, self.dim)
        for start in range(0, count, size):
            end = min(start + size, count)
            for a in range(start, end, step):
                b = min(a + step, end)
                place = slice(first + a, first + b) if chosen is None else chosen[a:b]
                vectors = self._copied(place, copies) if copied else self.vectors(place)
                _product(vectors, transposed, scores[a - start : b - start])
            selection.offer(scores[: end - start], first + start if chosen is None else chosen[start:end])
        return selection.best()

    def _scratch(self, name: str, size: int, dtype: Any = np.float32) -> np.ndarray:
        """[size] of this thread's, kept from call to call: fresh memory would cost a page fault every 4 KiB."""
        held = getattr(self._memory, name, None)
        if held is None or len(held) < size:
            held = np.empty(size, dtype)
            setattr(self._memory, name, held)
        return held[:size]

    def _copied(self, rows: np.ndarray | slice, out: np.ndarray) -> np.ndarray:
        """Like `vectors`, but always a copy, in the first rows of `out`: memory that is in cache already."""
        if self._plain is not None and not isinstance(rows, slice):
            return np.take(self._plain, rows, axis=0, out=out[: len(rows)], mode="clip")
        codes = np.ascontiguousarray(self._codes[rows])
        return np.asarray(self.index.sa_decode(codes, out[: len(codes)]))

    def _scanned(
        self, scan: Search, queries: np.ndarray, width: int, first: int, last: int, inside: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The same of the range, or of its rows where `inside`, bool [last - first], is true, by a scan of codes."""
        selector: Any = None
        count = last - first
        if inside is not None:
            bits = np.zeros((self.rows + 7) // 8 * 8, bool)
            bits[first:last] = inside
            packed = np.packbits(bits, bitorder="little")
            selector = faiss.IDSelectorBitmap(len(packed), faiss.swig_ptr(packed))
            count = int(np.count_nonzero(inside))
        elif count < self.rows:
            selector = faiss.IDSelectorRange(first, last)
        params = None if selector is None else faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        return scan(queries, min(width, count), params)


def _product(vectors: np.ndarray, transposed: np.ndarray, out: np.ndarray) -> None:
    """Inner products, into out [n, Q], of vectors [n, D] and queries [D, Q]; all float32 and contiguous.

    Of one query by FAISS's loop over the vectors, which reads them as fast as the memory gives them; BLAS's product takes a fifth longer.
    """
    if out.shape[1] > 1:
        np.dot(vectors, transposed, out=out)
        return
    n, dim = vectors.shape
    loop: Any = faiss.fvec_inner_products_ny  # type: ignore[attr-defined]
    loop(*(faiss.swig_ptr(array) for array in (out, transposed, vectors)), dim, n)
