"""Approximate indexes: they propose rows, whose scores are then computed from the stored vectors.

    ivf      lists of k-means cells with the vectors as stored
    ivf_pq   the same with 4-bit codes, scanned from registers (FAISS "fast scan"), of the vectors' projections on the few directions
             that hold 99 % of their length: an eighth of the bytes of fp32 at most, a twentieth where half the directions do
    hnsw     a graph over the stored vectors, which it shares with the store

What is trained (cells, codebooks, directions, ranges of int8) is trained once on a sample and copied to every shard: shards are never merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fashion_dml.index.manifest import CANDIDATES, CODES, KINDS, VECTORS, Effort
from fashion_dml.index.select import Selection
from fashion_dml.index.store import QUERIES, STORES, Store, faiss_search, read_faiss
from fashion_dml.storage import UserError

SAMPLES_PER_CELL = 48  # of k-means: FAISS asks for 39 at least
MOST_CELLS = 65_536
GRAPH_LINKS, GRAPH_BUILD_DEPTH = 32, 80
GPU_KINDS, GPU_MOST = ("flat", "ivf"), 2048  # FAISS's own limit of neighbours a query
HELD_LENGTH = 0.99  # share of the squared length that the directions hold
DIRECTIONS = 8  # their number is a multiple of it
CODEWORDS = 16  # of 4-bit codes: each is learnt from an item at least
SCALAR: dict[str, Any] = {"fp16": faiss.ScalarQuantizer.QT_fp16, "int8": faiss.ScalarQuantizer.QT_8bit}


@dataclass(frozen=True)
class Trained:
    """Empty indexes that know what they learnt from a sample; `candidates` is None for the kind flat."""

    kind: str
    store: faiss.Index
    candidates: faiss.Index | None

    def write(self, directory: Path) -> None:
        """VECTORS and, for an approximate kind, CANDIDATES."""
        faiss.write_index(self.store, str(directory / VECTORS))
        if self.candidates is not None:
            faiss.write_index(self.candidates, str(directory / CANDIDATES))

    @classmethod
    def read(cls, kind: str, files: Mapping[str, Path]) -> Trained:
        """What `write` wrote; files: paths by those names."""
        found = {name: faiss.read_index(str(file)) for name, file in files.items()}
        return cls(kind, found[VECTORS], found.get(CANDIDATES))


def cells(rows: int) -> int:
    """k-means cells for so many rows a shard: 4 sqrt(rows), which balances choosing cells and scanning them."""
    return int(min(MOST_CELLS, max(1, 4 * rows**0.5)))


def sample_rows(kind: str, store: str, rows: int) -> int:
    """Vectors that training wants, of a shard's `rows`; 0: none."""
    wanted = {"flat": 0, "hnsw": 0}.get(kind, SAMPLES_PER_CELL * cells(rows))
    return min(rows, max(wanted, 65_536 if store == "int8" else 0))


def _ivf(dim: int, store: str, count: int, sample: np.ndarray) -> faiss.Index:
    del sample
    quantizer = faiss.IndexFlatIP(dim)
    if store == "fp32":
        index: Any = faiss.IndexIVFFlat(quantizer, dim, count, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, count, SCALAR[store], faiss.METRIC_INNER_PRODUCT, False)
    return _owned(index, quantizer)


def _ivf_pq(dim: int, store: str, count: int, sample: np.ndarray) -> faiss.Index:
    del store
    held = directions(sample, dim)
    projection: Any = faiss.LinearTransform(dim, len(held), False)
    faiss.copy_array_to_vector(held.ravel(), projection.A)
    projection.is_trained = True
    quantizer = faiss.IndexFlatIP(len(held))
    codes = faiss.IndexIVFPQFastScan(quantizer, len(held), count, len(held), 4, faiss.METRIC_INNER_PRODUCT)
    index: Any = faiss.IndexPreTransform(projection, _owned(codes, quantizer))
    projection.this.disown()
    codes.this.disown()  # type: ignore[attr-defined]
    index.own_fields = True
    return index


def directions(sample: np.ndarray, dim: int) -> np.ndarray:
    """The fewest orthonormal directions, float32 [d, dim], that hold HELD_LENGTH of the squared length of the sample [n, dim].

    Inner products of projections are then nearly those of the vectors, which is all that proposing needs. Nothing is subtracted first:
    the inner product with a mean would be lost. They are turned by chance among themselves, so that each holds about as much: all get
    codes of as many bits. d is a multiple of DIRECTIONS where dim allows.
    """
    lengths, found = np.linalg.eigh(sample.T.astype(np.float64) @ sample.astype(np.float64))
    share = np.cumsum(lengths[::-1]) / max(lengths.sum(), np.finfo(np.float64).tiny)
    count = int(np.searchsorted(share, HELD_LENGTH)) + 1
    count = min(dim, -(-count // DIRECTIONS) * DIRECTIONS)
    turn, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((count, count)))
    return np.ascontiguousarray(turn @ found.T[::-1][:count], np.float32)


def _owned(index: Any, quantizer: faiss.Index) -> faiss.Index:
    quantizer.this.disown()  # type: ignore[attr-defined]
    index.own_fields = True
    index.cp.niter, index.cp.spherical = 10, True  # cells of unit vectors, compared by inner product
    index.cp.min_points_per_centroid = 1
    return index


def _hnsw(dim: int, store: str, count: int, sample: np.ndarray) -> faiss.Index:
    del count, sample
    metric = faiss.METRIC_INNER_PRODUCT
    if store == "fp32":
        index: faiss.Index = faiss.IndexHNSWFlat(dim, GRAPH_LINKS, metric)
    else:
        index = faiss.IndexHNSWSQ(dim, SCALAR[store], GRAPH_LINKS, metric)
    index.hnsw.efConstruction = GRAPH_BUILD_DEPTH  # type: ignore[attr-defined]
    return index


# (dimension, store, cells, sample) -> an empty index.
_APPROXIMATE: dict[str, Callable[[int, str, int, np.ndarray], faiss.Index]] = {"ivf": _ivf, "ivf_pq": _ivf_pq, "hnsw": _hnsw}


def train(kind: str, store: str, dim: int, rows: int, sample: np.ndarray) -> Trained:
    """Empty indexes for shards of `rows` rows; sample: float32 [n, dim] unit vectors, see `sample_rows`.

    Raises UserError at an unknown kind or store, or too few items to learn from.
    """
    if kind not in KINDS:
        raise UserError(f"index.kind = {kind!r} is unknown; known are auto, {', '.join(KINDS)}.")
    if store not in STORES:
        raise UserError(f"index.store = {store!r} is unknown; known are {', '.join(STORES)}.")
    if kind == "ivf_pq" and len(sample) < CODEWORDS:
        raise UserError(
            f"index.kind = ivf_pq learns its codes from {CODEWORDS} items at least, here are {len(sample)}; take flat."
        )
    learnt = [STORES[store](dim)]
    if kind != "flat":
        learnt.append(_APPROXIMATE[kind](dim, store, max(1, min(cells(rows), len(sample))), sample))
    for index in learnt:
        if not index.is_trained:
            if not len(sample):
                raise UserError(f"An index of kind {kind}, store {store}, can't be made of no items.")
            index.train(np.ascontiguousarray(sample, np.float32))
    return Trained(kind, learnt[0], learnt[1] if kind != "flat" else None)


class Cells:
    """Chooses the cells that an ivf or ivf_pq index visits, by one matrix product with all centres, and visits them.

    FAISS's own choice takes twice as long for a batch (an older BLAS) and, for one query, scans. Attributes: count.
    """

    def __init__(self, index: Any) -> None:
        self._index, self._owner = index, index  # what is inside of another index lives as long as that one
        self._projection: np.ndarray | None = None
        if isinstance(index, faiss.IndexPreTransform):
            steps: Any = index.chain
            first: Any = faiss.downcast_VectorTransform(steps.at(0))
            self._projection = faiss.vector_to_array(first.A).reshape(first.d_out, first.d_in).T.copy()
            self._index = faiss.downcast_index(index.index)
        self.count = int(self._index.nlist)
        quantizer: Any = faiss.downcast_index(self._index.quantizer)
        centres = faiss.rev_swig_ptr(quantizer.codes.data(), quantizer.codes.size()).view(np.float32)
        self._centres = np.require(centres.reshape(self.count, -1), requirements=["ALIGNED", "C"])

    def nearest(self, queries: np.ndarray, width: int, probes: int) -> np.ndarray:
        """About the `width` best rows in the `probes` best cells of each query, int64 [Q, width], -1 for none."""
        n = len(queries)
        if n > QUERIES:
            parts = (self.nearest(queries[a : a + QUERIES], width, probes) for a in range(0, n, QUERIES))
            return np.concatenate(list(parts))
        asked = np.ascontiguousarray(queries if self._projection is None else queries @ self._projection)
        selection = Selection(n, probes)
        selection.offer(self._centres @ asked.T, 0)
        near, cells_ = selection.best()
        order = (-near).argsort(axis=1)  # the best first: what they hold sets the bound for the others
        each = np.arange(n)[:, None]
        near, cells_ = near[each, order], cells_[each, order]
        scores, rows = np.empty((n, width), np.float32), np.empty((n, width), np.int64)
        visit: Any = faiss.SearchParametersIVF(nprobe=probes)  # type: ignore[call-arg]
        self._index.search_preassigned_c(
            n, faiss.swig_ptr(asked), width, faiss.swig_ptr(cells_), faiss.swig_ptr(near),
            faiss.swig_ptr(scores), faiss.swig_ptr(rows), False, visit,
        )  # fmt: skip
        return rows


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
    """A shard's files by name (VECTORS, CODES and, of an approximate kind with rows, CANDIDATES), mapped; FAISS gets `threads`
    threads in this process."""
    faiss.omp_set_num_threads(max(1, threads))
    store = Store.mapped(files[VECTORS], files[CODES])
    return store, Candidates(kind, read_faiss(files[CANDIDATES]), store) if CANDIDATES in files else None
