"""The vectors of a shard as they are stored: exact search over all rows or some of them, and exact scores.

One query reads all vectors once, so memory sets the time; many queries are a matrix product. FAISS has a path for each; from which
number of queries on the second is faster is measured once a process (it depends on dimension, threads and machine).
Rows that a filter keeps are gathered a block at a time into one buffer that stays in cache: a selector would force the first path.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import faiss
import numpy as np

BLOCK_ROWS = 16_384  # rows gathered or decoded at a time
GATHERED_SHARE = 0.5  # a filter that keeps more of the rows is cheaper met by asking for more neighbours
SCORED_FLOATS = 1 << 17  # numbers of candidates that are scored at a time
MOST_QUERIES = 32  # where the two paths are compared: beyond so many queries the matrix product is faster everywhere


def _quantizer(kind: int) -> Callable[[int], faiss.Index]:
    return lambda dim: faiss.IndexScalarQuantizer(dim, kind, faiss.METRIC_INNER_PRODUCT)


# fp32; fp16: half the memory; int8: a quarter, each dimension scaled to the range it has in a sample.
STORES: dict[str, Callable[[int], faiss.Index]] = {
    "fp32": faiss.IndexFlatIP,
    "fp16": _quantizer(faiss.ScalarQuantizer.QT_fp16),
    "int8": _quantizer(faiss.ScalarQuantizer.QT_8bit),
}


class Store:
    """A flat FAISS index, opened; its codes may be a mapped file. Not changed by searches.

    Attributes: rows (N), dim (D), index.
    """

    def __init__(self, index: faiss.Index) -> None:
        self.index = index
        self.rows, self.dim = int(index.ntotal), int(index.d)
        codes = index.codes  # type: ignore[attr-defined]
        bytes_ = faiss.rev_swig_ptr(codes.data(), codes.size()) if self.rows else np.empty(0, np.uint8)
        self._codes = bytes_.reshape(self.rows, index.sa_code_size())
        self._plain = self._codes.view(np.float32) if isinstance(index, faiss.IndexFlat) else None
        half = isinstance(index, faiss.IndexScalarQuantizer) and index.sq.qtype == faiss.ScalarQuantizer.QT_fp16
        self._typed = self._codes.view(np.float16) if half else self._plain
        self._many = many_queries(self.dim, faiss.omp_get_max_threads(), self._plain is not None)
        faiss.cvar.distance_compute_blas_threshold = self._many * self.dim

    def vectors(self, rows: np.ndarray) -> np.ndarray:
        """The stored vectors of these rows, decoded, float32 [n, D]."""
        if self._plain is not None:
            return self._plain[rows]
        return np.asarray(self.index.sa_decode(np.ascontiguousarray(self._codes[rows])), np.float32)

    def scores(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Inner products, float32 [Q, C], of queries [Q, D] with rows [Q, C]; -inf where a row is -1.

        Computed in float64 and summed in one fixed order, so that a row's score depends on nothing but the query.
        """
        scores = np.empty(rows.shape, np.float32)
        step = max(
            1, SCORED_FLOATS // max(1, rows.shape[1] * self.dim)
        )  # queries at a time, so that what is scored stays in cache
        for start in range(0, len(rows), step):
            chosen = rows[start : start + step]
            if self._typed is None:
                vectors = self.vectors(chosen.ravel()).reshape(*chosen.shape, self.dim).astype(np.float64)
            else:
                vectors = self._typed[chosen].astype(np.float64)
            vectors *= queries[start : start + step, None].astype(np.float64)
            scores[start : start + step] = vectors.sum(axis=2)
        scores[rows < 0] = -np.inf
        return scores

    def nearest(
        self, queries: np.ndarray, width: int, ranges: Sequence[tuple[int, int]], kept: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """The `width` best rows of each range [first, last), of those that `kept` (bool [N]) keeps.

        Returns rows int64 [Q, C], -1 for none, and float32 [Q]: the score above which no row of the selection is missing,
        to float32 rounding; -inf where all are there. A row that isn't kept is never returned.
        """
        found, floor = [], np.full(len(queries), -np.inf, np.float32)
        for first, last in ranges:
            inside = None if kept is None else kept[first:last]
            share = 1.0 if inside is None else np.count_nonzero(inside) / (last - first)
            if share == 0:
                continue
            if inside is not None and share <= GATHERED_SHARE:
                if len(queries) < self._many:
                    parts = [self._selected(queries, width, first, last, inside)]
                else:
                    parts = self._blocks(queries, width, first + np.flatnonzero(inside))
            elif len(queries) < self._many or self._plain is not None:
                parts = [self._whole(queries, int(np.ceil(width / share)), first, last)]
            else:
                parts = self._blocks(queries, int(np.ceil(width / share)), np.arange(first, last))
            for scores, rows, complete in parts:
                if not complete:
                    floor = np.maximum(floor, scores[:, -1])
                found.append(rows if kept is None else np.where((rows >= 0) & kept[rows], rows, -1))
        return np.concatenate(found, axis=1) if found else np.empty((len(queries), 0), np.int64), floor

    def _whole(self, queries: np.ndarray, width: int, first: int, last: int) -> tuple[np.ndarray, np.ndarray, bool]:
        """(scores, rows, whether the range holds no more) by FAISS, which scans only that range."""
        size = min(width, last - first)
        part = faiss.IDSelectorRange(first, last)
        chosen = faiss.SearchParameters(sel=part) if last - first < self.rows else None  # type: ignore[call-arg]
        return (*faiss_search(self.index, queries, size, chosen), size == last - first)

    def _selected(
        self, queries: np.ndarray, width: int, first: int, last: int, inside: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, bool]:
        """The same of the rows that `inside`, bool [last - first], keeps: a bit of the selector a row."""
        bits = np.zeros((self.rows + 7) // 8 * 8, bool)
        bits[first:last] = inside
        packed = np.packbits(bits, bitorder="little")
        selector = faiss.IDSelectorBitmap(len(packed), faiss.swig_ptr(packed))
        count = int(np.count_nonzero(inside))
        size = min(width, count)
        params = faiss.SearchParameters(sel=selector)  # type: ignore[call-arg]
        return (*faiss_search(self.index, queries, size, params), size == count)

    def _blocks(self, queries: np.ndarray, width: int, rows: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, bool]]:
        """The same of these rows [n], a block of decoded vectors after the other."""
        found = []
        for start in range(0, len(rows), BLOCK_ROWS):
            block = rows[start : start + BLOCK_ROWS]
            size = min(width, len(block))
            scores, places = faiss.knn(queries, self.vectors(block), size, faiss.METRIC_INNER_PRODUCT)
            found.append((scores, block[places], size == len(block)))
        return found


@functools.cache
def many_queries(dim: int, threads: int, plain: bool) -> int:
    """From how many queries on a matrix product is faster than a scan a query, by this process's threads: 2 to 32.

    plain: the vectors are float32; others are decoded for the product.
    """
    del threads  # FAISS's setting; it tells apart what was measured
    rng = np.random.default_rng(0)
    store: Any = (STORES["fp32"] if plain else STORES["fp16"])(dim)
    store.add(rng.standard_normal((BLOCK_ROWS, dim), dtype=np.float32))
    codes = None if plain else faiss.rev_swig_ptr(store.codes.data(), store.codes.size()).reshape(BLOCK_ROWS, -1)
    queries = rng.standard_normal((MOST_QUERIES, dim), dtype=np.float32)

    def product(n: int) -> None:
        if codes is None:
            faiss_search(store, queries[:n], 10, None)
        else:
            faiss.knn(queries[:n], store.sa_decode(codes), 10, faiss.METRIC_INNER_PRODUCT)

    before = faiss.cvar.distance_compute_blas_threshold
    try:
        faiss.cvar.distance_compute_blas_threshold = 1 << 30
        scan = _fastest(lambda: faiss_search(store, queries[:1], 10, None))
        faiss.cvar.distance_compute_blas_threshold = 1
        counts = (n for n in (2, 3, 4, 6, 8, 12, 16, 24) if _fastest(functools.partial(product, n)) < n * scan)
        return next(counts, MOST_QUERIES)
    finally:
        faiss.cvar.distance_compute_blas_threshold = before


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls."""
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)


def faiss_search(index: Any, queries: np.ndarray, k: int, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """(scores float32 [Q, k], rows int64 [Q, k]) by faiss's C++ method.

    Not by its Python `search`: any library that imports faiss.contrib.torch_utils replaces that one for the whole process.
    """
    asked = np.ascontiguousarray(queries, np.float32)
    scores, rows = np.empty((len(asked), k), np.float32), np.empty((len(asked), k), np.int64)
    index.search_c(len(asked), faiss.swig_ptr(asked), k, faiss.swig_ptr(scores), faiss.swig_ptr(rows), params)
    return scores, rows
