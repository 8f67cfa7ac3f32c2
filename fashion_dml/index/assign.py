"""Which cell a vector belongs to: the centre of the greatest inner product, by matrix products whose scores are reduced from cache.

FAISS's own assignment is of the same speed alone; with several threads it waits for the slowest after each of many small pieces, and
where other work runs beside it two threads are slower than one. Here a thread takes the next block when it is done with its last.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import faiss
import numpy as np

ROWS, CENTRES = 256, 2048  # of one product


def assign(vectors: np.ndarray, transposed: np.ndarray) -> np.ndarray:
    """The nearest centre of each vector, int64 [N], the first of equal ones: vectors float32 [N, D], the C centres float32 [D, C].

    On as many threads as FAISS has in this thread.
    """
    found = np.empty(len(vectors), np.int64)
    starts: Iterator[int] = iter(range(0, len(vectors), ROWS))  # shared: each next() is one thread's

    def work() -> None:
        scores = np.empty(ROWS * CENTRES, np.float32)
        for start in starts:
            found[start : start + ROWS] = _nearest(vectors[start : start + ROWS], transposed, scores)

    threads = min(faiss.omp_get_max_threads(), -(-len(vectors) // ROWS))
    if threads <= 1:
        work()
        return found
    with ThreadPoolExecutor(threads) as pool:
        for done in [pool.submit(work) for _ in range(threads)]:
            done.result()
    return found


def _nearest(vectors: np.ndarray, transposed: np.ndarray, scratch: np.ndarray) -> np.ndarray:
    """The same of a block of vectors; scratch: float32 [ROWS * CENTRES]."""
    each, count = np.arange(len(vectors)), transposed.shape[1]
    best, found = np.full(len(vectors), -np.inf, np.float32), np.zeros(len(vectors), np.int64)
    for first in range(0, count, CENTRES):
        some = transposed[:, first : first + CENTRES]
        scores = scratch[: len(vectors) * some.shape[1]].reshape(len(vectors), -1)
        np.dot(vectors, some, out=scores)
        place = scores.argmax(axis=1)
        score = scores[each, place]
        better = score > best
        best[better], found[better] = score[better], first + place[better]
    return found
