"""How vectors are stored, and by which of two ways they are searched: FAISS's scan of the codes, or decoding and a matrix product.

From how many queries on the second is faster depends on dimension, threads and machine: it is measured once a process. A scan may also
be of a smaller copy (rough.py).
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np

from fashion_dml.index.calls import faiss_search

BLOCK_ROWS = 16_384  # rows of which the two ways to search are compared
MOST_QUERIES = 32  # where the two ways are compared: beyond so many queries the matrix product is faster everywhere


def _quantizer(kind: int) -> Callable[[int], faiss.Index]:
    return lambda dim: faiss.IndexScalarQuantizer(dim, kind, faiss.METRIC_INNER_PRODUCT)


# fp32; fp16: half the memory; int8: a quarter, each dimension scaled to the range it has in a sample.
STORES: dict[str, Callable[[int], faiss.Index]] = {
    "fp32": faiss.IndexFlatIP,
    "fp16": _quantizer(faiss.ScalarQuantizer.QT_fp16),
    "int8": _quantizer(faiss.ScalarQuantizer.QT_8bit),
}


def byte_index(dim: int) -> faiss.Index:
    """An empty index of whole numbers from -128 to 127, stored as 128 more, for queries of such numbers."""
    return _quantizer(faiss.ScalarQuantizer.QT_8bit_direct_signed)(dim)


def block_rows(queries: int) -> int:
    """Rows of one product with so many queries: its scores stay in cache, and so do vectors that are decoded for it.

    One query reads each vector once, and blocks only cost calls; up to four are fastest where OpenBLAS takes its kernel for small
    matrices, of at most a million products.
    """
    if queries == 1:
        return 262_144
    return 2048 if queries <= 4 else max(1024, (1 << 18) // queries)


@functools.cache
def many_queries(dim: int, threads: int, store: str, *, rough: bool = False) -> int:
    """From how many queries on a matrix product of the vectors, decoded where they are stored as fp16 or int8, is faster than FAISS's scan
    of the codes a query, by this process's threads: 2 to 32. rough: the scan is of the copy of fashion_dml.index.rough."""
    del threads  # FAISS's setting; it tells apart what was measured
    rng = np.random.default_rng(0)
    index: Any = STORES[store](dim)
    vectors = rng.standard_normal((BLOCK_ROWS, dim), dtype=np.float32)
    index.train(vectors)
    index.add(vectors)
    scanned = index
    if rough:
        scanned = byte_index(dim)
        scanned.add(np.rint(20 * vectors).clip(-127, 127))
    codes = faiss.rev_swig_ptr(index.codes.data(), index.codes.size()).reshape(BLOCK_ROWS, -1)
    queries = rng.standard_normal((MOST_QUERIES, dim), dtype=np.float32)

    def product(n: int) -> None:
        step = block_rows(n)
        for start in range(0, BLOCK_ROWS, step):
            part = slice(start, start + step)
            np.dot(vectors[part] if store == "fp32" else index.sa_decode(codes[part]), queries[:n].T)

    scan = _fastest(lambda: faiss_search(scanned, queries[:1], 10, None))
    counts = (n for n in (2, 3, 4, 6, 8, 12, 16, 24) if _fastest(functools.partial(product, n)) < n * scan)
    return next(counts, MOST_QUERIES)


def _fastest(call: Callable[[], object]) -> float:
    """Seconds of the fastest of a few calls."""
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return min(seconds)
