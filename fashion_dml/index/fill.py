"""Adding vectors to a trained index, each to the cell that our own matrix product assigns it to."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from fashion_dml.index.assign import assign
from fashion_dml.index.cells import Cells, inside


class Filling:
    """Fills an empty trained index: `add` batches, then `close`, which is when the index holds them.

    FAISS puts a batch into the packed lists of ivf_pq list by list, a few codes each. So the codes are collected in plain lists, and packed once at
    the end; the result is the same to the byte.
    """

    def __init__(self, index: Any) -> None:
        self._index = index
        self._cells = Cells(index) if isinstance(inside(index)[0], faiss.IndexIVF) else None
        if self._cells is None:
            return
        self._centres = np.ascontiguousarray(self._cells.centres.T)
        packed = isinstance(self._cells.lists, faiss.IndexIVFPQFastScan)
        self._lists = _plain(self._cells.lists) if packed else self._cells.lists

    def add(self, vectors: np.ndarray) -> None:
        """The next rows, float32 [N, D]."""
        if self._cells is None:
            self._index.add(np.ascontiguousarray(vectors))
            return
        projected = self._cells.project(vectors)
        cells = assign(projected, self._centres)
        self._lists.add_core(len(projected), faiss.swig_ptr(projected), None, faiss.swig_ptr(cells))

    def close(self) -> None:
        """After the last batch."""
        if self._cells is None:
            return
        lists = self._cells.lists
        if self._lists is not lists:
            packed: Any = faiss.IndexIVFPQFastScan(self._lists)
            lists.replace_invlists(packed.invlists, True)
            packed.own_invlists = False  # they are the other's now
            lists.ntotal = packed.ntotal
        self._index.ntotal = lists.ntotal


def filled(index: Any, vectors: np.ndarray) -> Any:
    """The empty trained index, with these vectors float32 [N, D]."""
    filling = Filling(index)
    filling.add(vectors)
    filling.close()
    return index


def _plain(packed: Any) -> Any:
    """An empty index of the same cells and codes whose lists hold one code after the other."""
    plain: Any = faiss.IndexIVFPQ(
        packed.quantizer, packed.d, packed.nlist, packed.pq.M, packed.pq.nbits, faiss.METRIC_INNER_PRODUCT
    )
    plain.own_fields, plain.by_residual, plain.pq, plain.is_trained = False, False, packed.pq, True
    return plain
