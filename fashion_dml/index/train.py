"""Approximate indexes, empty: what they learn from a sample.

    ivf      lists of k-means cells with the vectors as stored
    ivf_pq   the same with 4-bit codes, scanned from registers (FAISS "fast scan"), of the vectors' projections on the few directions
             that hold 99 % of their length: an eighth of the bytes of fp32 at most, a twentieth where half the directions do
    hnsw     a graph over the stored vectors, which it shares with the store

Cells, codebooks, directions and the ranges of int8 are learnt once and copied to every shard: shards are never merged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fashion_dml.index.calls import one_thread
from fashion_dml.index.cells import inside
from fashion_dml.index.codes import STORES
from fashion_dml.index.kmeans import centres
from fashion_dml.index.manifest import CANDIDATES, KINDS, VECTORS
from fashion_dml.storage import UserError

SAMPLES_PER_CELL = 48  # of k-means: FAISS asks for 39 at least
MOST_CELLS = 65_536
GRAPH_LINKS, GRAPH_BUILD_DEPTH = 32, 80
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
    codes.pq.cp.min_points_per_centroid = 1
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
    asked = np.ascontiguousarray(sample, np.float32)
    for index in learnt:
        if not index.is_trained:
            if not len(sample):
                raise UserError(f"An index of kind {kind}, store {store}, can't be made of no items.")
            _learn(index, asked)
    return Trained(kind, learnt[0], learnt[1] if kind != "flat" else None)


def _learn(index: Any, sample: np.ndarray) -> None:
    """The cells, if it has any, and what encodes: ranges and codebooks, which several threads learn slower than one."""
    lists, projection = inside(index)
    if isinstance(lists, faiss.IndexIVF):
        projected = sample if projection is None else sample @ projection
        lists.quantizer.add(centres(projected, int(lists.nlist)))  # FAISS then learns no others
    with one_thread():
        index.train(sample)
