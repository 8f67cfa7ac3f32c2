"""The cells of an ivf or ivf_pq index: how to reach them inside of FAISS's objects, and the choice of those that a search visits."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from fashion_dml.index.select import Selection
from fashion_dml.index.store import QUERIES


def inside(index: Any) -> tuple[Any, np.ndarray | None]:
    """(the index that vectors come to, the projection float32 [D, d] on the way there, None for none).

    What is inside of another index lives as long as that one: keep both.
    """
    if not isinstance(index, faiss.IndexPreTransform):
        return index, None
    steps: Any = index.chain
    first: Any = faiss.downcast_VectorTransform(steps.at(0))
    projection = faiss.vector_to_array(first.A).reshape(first.d_out, first.d_in).T.copy()
    return faiss.downcast_index(index.index), projection


class Cells:
    """Chooses the cells that an ivf or ivf_pq index visits, by one matrix product with all centres, and visits them.

    FAISS's own choice takes twice as long for a batch (an older BLAS) and, for one query, scans.
    Attributes: count (C), centres (float32 [C, d]), lists (the index that holds them).
    """

    def __init__(self, index: Any) -> None:
        self._owner = index
        self.lists, self._projection = inside(index)
        self.count = int(self.lists.nlist)
        quantizer: Any = faiss.downcast_index(self.lists.quantizer)
        centres = faiss.rev_swig_ptr(quantizer.codes.data(), quantizer.codes.size()).view(np.float32)
        self.centres = np.require(centres.reshape(self.count, -1), requirements=["ALIGNED", "C"])

    def project(self, vectors: np.ndarray) -> np.ndarray:
        """What is compared with centres and codes, float32 [n, d] contiguous, of vectors float32 [n, D]."""
        return np.ascontiguousarray(vectors if self._projection is None else vectors @ self._projection, np.float32)

    def nearest(self, queries: np.ndarray, width: int, probes: int) -> np.ndarray:
        """About the `width` best rows in the `probes` best cells of each query, int64 [Q, width], -1 for none."""
        n = len(queries)
        if n > QUERIES:
            parts = (self.nearest(queries[a : a + QUERIES], width, probes) for a in range(0, n, QUERIES))
            return np.concatenate(list(parts))
        asked = self.project(queries)
        selection = Selection(n, probes)
        selection.offer(self.centres @ asked.T, 0)
        near, cells_ = selection.best()
        order = (-near).argsort(axis=1)  # the best first: what they hold sets the bound for the others
        each = np.arange(n)[:, None]
        near, cells_ = near[each, order], cells_[each, order]
        scores, rows = np.empty((n, width), np.float32), np.empty((n, width), np.int64)
        visit: Any = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]
        self.lists.search_preassigned_c(
            n, faiss.swig_ptr(asked), width, faiss.swig_ptr(cells_), faiss.swig_ptr(near),
            faiss.swig_ptr(scores), faiss.swig_ptr(rows), False, visit,
        )  # fmt: skip
        return rows
