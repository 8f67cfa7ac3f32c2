"""What proposes the rows of an opened shard, whose scores are then computed from the stored vectors: an approximate index, or a GPU."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fashion_dml.index.calls import faiss_search, read_faiss, take_threads
from fashion_dml.index.cells import Cells
from fashion_dml.index.manifest import CANDIDATES, CODES, ROUGH, VECTORS, Effort
from fashion_dml.index.store import Store
from fashion_dml.storage import UserError

GPU_KINDS, GPU_MOST = ("flat", "ivf"), 2048  # FAISS's own limit of neighbours a query


class Candidates:
    """What proposes the rows of a shard, opened: an approximate index, or a copy of it or of the store on a GPU. Not changed by
    searches."""

    def __init__(self, kind: str, index: Any, store: Store, *, gpu: bool = False) -> None:
        self.kind, self.index, self.most = kind, index, GPU_MOST if gpu else store.rows
        self._cells = Cells(index) if kind in ("ivf", "ivf_pq") and not gpu else None
        self._resources: Any = None  # of a GPU, which must live as long
        if kind == "hnsw":
            index.storage, index.own_fields = store.index, False
            self._store = store  # keeps it alive

    @property
    def most_probes(self) -> int:
        """The effort beyond which a search finds no more: all cells; 1024 of a graph."""
        return 1024 if self._cells is None else self._cells.count

    @classmethod
    def on_gpu(cls, kind: str, index: Any, store: Store) -> Candidates:
        """The same on this process's first GPU, vectors of the kind flat as fp16; index: None for the kind flat.

        Raises UserError at a kind that FAISS has no GPU form of, or where there is no GPU.
        """
        if kind not in GPU_KINDS:
            raise UserError(f"serve.shard_gpus > 0 needs an index of a kind in {', '.join(GPU_KINDS)}; this one is {kind}.")
        if faiss.get_num_gpus() == 0:
            raise UserError("serve.shard_gpus > 0, but FAISS sees no GPU in the shard's process; set it to 0.")
        options = faiss.GpuClonerOptions()
        options.useFloat16 = True
        resources = faiss.StandardGpuResources()
        copy = faiss.index_cpu_to_gpu(resources, 0, store.index if index is None else index, options)
        found = cls(kind, copy, store, gpu=True)
        found._resources = resources
        return found

    def nearest(self, queries: np.ndarray, width: int, effort: Effort) -> np.ndarray:
        """About the `width` best rows of each query, int64 [Q, width], -1 for none; queries float32 [Q, D]."""
        width = min(width, self.most)
        # An answer of many rows needs more cells than the effort was measured with.
        probes = effort.probes * max(1, -(-width // max(1, effort.candidates)))
        if self._cells is not None:
            return self._cells.nearest(queries, width, min(self._cells.count, probes))
        params: Any = None
        if self.kind == "hnsw":
            params = faiss.SearchParametersHNSW(efSearch=max(effort.probes, width))  # type: ignore[attr-defined]
        elif self.kind != "flat":
            params = faiss.SearchParametersIVF(nprobe=min(int(self.index.nlist), probes))  # type: ignore[call-arg]
        return faiss_search(self.index, queries, width, params)[1]


def open_files(kind: str, files: Mapping[str, Path], *, threads: int) -> tuple[Store, Candidates | None]:
    """A shard's files by name (VECTORS, CODES and, of an approximate kind with rows, CANDIDATES; ROUGH where there is one), mapped; FAISS
    gets `threads` threads in the calling thread."""
    take_threads(threads)
    store = Store.mapped(files[VECTORS], files[CODES], files.get(ROUGH))
    return store, Candidates(kind, read_faiss(files[CANDIDATES]), store) if CANDIDATES in files else None
