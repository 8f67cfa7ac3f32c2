"""One shard, opened for search: exact inner products over memory-mapped vectors, items read by row.

FAISS finds candidates; their scores are then computed again, always the same way, so a vector's score depends
neither on the batch it was asked in nor on the path FAISS took. That makes ties real ties and merging exact.

A vertical filter is an IDSelectorRange: FAISS 1.15 scans only that range and keeps its fast paths. Measured, 100,000 x 128,
one thread, a range of 10 %: 1 query 0.29 ms (a slice of the matrix by faiss.knn 0.26, GEMM + argpartition 15), 32 queries
2.9 ms (2.9, 15), 256 queries 21 ms (21, 30); the whole shard 2.1, 32 and 166 ms.
"""

from __future__ import annotations

import bisect
import json
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
import pyarrow as pa

from fashion_dml.index.manifest import ITEMS, VECTORS, IndexManifest, load, shard_name, verified_file
from fashion_dml.index.merge import Found, rank
from fashion_dml.storage import Location, UserError

MARGIN = 8  # candidates beyond k, so that ties at the edge are seen
ROUNDING = 1e-5  # far above the float32 rounding of an inner product of unit vectors
MOST_CANDIDATES = 4096  # beyond so many equal scores the choice among them is FAISS's


@dataclass(frozen=True)
class Hits:
    """scores float32 [Q, k], -inf where there are fewer than k; rows int64 [Q, k], there -1."""

    scores: np.ndarray
    rows: np.ndarray


class Shard:
    """A verified, memory-mapped shard. Not changed by searches; one thread may search at a time."""

    def __init__(
        self, index: faiss.Index, items: list[pa.RecordBatch], ranges: dict[str, tuple[int, int]], manifest: IndexManifest
    ) -> None:
        self._index, self._items, self._ranges, self._manifest = index, items, ranges, manifest
        self.dim, self.rows = int(index.d), int(index.ntotal)
        self._starts = np.cumsum([0] + [b.num_rows for b in items[:-1]]).tolist()
        self._product = self._column("product")
        self._by_id = self._column("by_id")
        self._matrix = self._view()

    @classmethod
    def open(cls, index: Location, version: str, shard: int, *, threads: int = 1) -> Shard:
        """Shard number `shard` of a version below `index`; FAISS gets `threads` threads in this process. Raises UserError."""
        manifest = load(index, version)
        files = {name: verified_file(index, manifest, f"{shard_name(shard)}/{name}") for name in (VECTORS, ITEMS)}
        faiss.omp_set_num_threads(max(1, threads))
        faiss.cvar.distance_compute_blas_threshold = 4 * manifest.dim  # FAISS's own default is slow from 4 to 1000 queries
        faiss.set_deserialization_vector_byte_limit(int(manifest.files[f"{shard_name(shard)}/{VECTORS}"]["bytes"]) + 1024)
        vectors = faiss.read_index(str(files[VECTORS]), faiss.IO_FLAG_MMAP_IFC)
        reader = pa.ipc.open_file(pa.memory_map(str(files[ITEMS])))
        last = reader.num_record_batches - 1
        ranges = json.loads(reader.get_batch_with_custom_metadata(last).custom_metadata[b"ranges"])
        batches = [reader.get_batch(i) for i in range(last)]
        if (
            vectors.d != manifest.dim
            or vectors.ntotal != sum(b.num_rows for b in batches)
            or vectors.ntotal != manifest.shards[shard]
        ):
            raise UserError(
                f"Shard {shard} of index version {version} disagrees with its manifest; "
                "run `python -m jobs.build_index --force true`."
            )
        return cls(vectors, batches, {v: (int(a), int(b)) for v, (a, b) in ranges.items()}, manifest)

    def _column(self, name: str) -> np.ndarray:
        return np.concatenate([b.column(name).to_numpy() for b in self._items] or [np.empty(0, np.int32)])

    def _view(self) -> np.ndarray:
        """The mapped vectors, [N, D]: float32, or float16 for an fp16 index. No copy."""
        if self.rows == 0:
            return np.empty((0, self.dim), np.float32)
        codes = self._index.codes  # type: ignore[attr-defined]
        kind = np.float16 if isinstance(self._index, faiss.IndexScalarQuantizer) else np.float32
        return faiss.rev_swig_ptr(codes.data(), codes.size()).view(kind).reshape(self.rows, self.dim)

    def _select(self, verticals: list[str] | None) -> list[tuple[int, int]]:
        """Row ranges of the verticals, neighbours joined; raises UserError at one that the whole index doesn't hold."""
        if verticals is None:
            return [(0, self.rows)] if self.rows else []
        self._manifest.check_verticals(verticals)
        joined: list[tuple[int, int]] = []
        for a, b in sorted({self._ranges[v] for v in verticals if v in self._ranges}):
            if joined and joined[-1][1] == a:
                joined[-1] = (joined[-1][0], b)
            else:
                joined.append((a, b))
        return joined

    def search(self, queries: np.ndarray, k: int, verticals: list[str] | None = None, group_by_product: bool = False) -> Hits:
        """The k rows with the greatest inner product: queries float32 [Q, D], finite.

        verticals: only their rows. group_by_product: k different products, each by its best row. Ties go by item_id.
        Raises UserError at a wrong shape, a value that isn't finite, k < 1 or an unknown vertical.
        """
        if queries.dtype != np.float32 or queries.ndim != 2 or queries.shape[1] != self.dim:
            raise UserError(f"Queries must be float32 [Q, {self.dim}], these are {queries.dtype} {list(queries.shape)}.")
        if not np.isfinite(queries).all():
            raise UserError("A query holds NaN or infinity; send finite numbers.")
        if k < 1:
            raise UserError(f"k = {k} can't be used; it must be at least 1.")
        queries = np.ascontiguousarray(queries)
        ranges = self._select(verticals)
        hits = Hits(np.full((len(queries), k), -np.inf, np.float32), np.full((len(queries), k), -1, np.int64))
        pending = np.arange(len(queries))
        width = (4 * k if group_by_product else k) + MARGIN
        blur = ROUNDING * np.linalg.norm(queries, axis=1)
        while len(pending) and ranges:
            rows, floor = self._candidates(queries[pending], width, ranges)
            scores = self._exact(queries[pending], rows)
            ends = np.empty(len(pending), np.float32)  # score of the k-th hit: nothing unseen may come near it
            for i, query in enumerate(pending):
                best = self._best(scores[i], rows[i], k, group_by_product)
                hits.scores[query, : len(best)], hits.rows[query, : len(best)] = scores[i, best], rows[i, best]
                ends[i] = hits.scores[query, k - 1]
            tied = not group_by_product and width > max(MOST_CANDIDATES, 4 * k)
            pending = pending[(ends <= floor + blur[pending]) & np.isfinite(floor)] if not tied else pending[:0]
            width *= 4
        return hits

    def _candidates(self, queries: np.ndarray, width: int, ranges: list[tuple[int, int]]) -> tuple[np.ndarray, np.ndarray]:
        """The `width` best rows of each range, [Q, C] with -1 for none, and the score below which others hide (or -inf)."""
        found, floor = [], np.full(len(queries), -np.inf, np.float32)
        for first, last in ranges:
            size = min(width, last - first)
            part = faiss.IDSelectorRange(first, last)
            chosen = faiss.SearchParameters(sel=part) if last - first < self.rows else None  # type: ignore[call-arg]
            scores, rows = _faiss_search(self._index, queries, size, chosen)
            found.append(rows)
            if size < last - first:
                floor = np.maximum(floor, scores[:, -1])
        return np.concatenate(found, axis=1), floor

    def _exact(self, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Inner products in float64, summed in one fixed order, as float32 [Q, C]; -inf where a row is -1."""
        scores = np.empty(rows.shape, np.float32)
        for i, chosen in enumerate(rows):  # a query at a time: [C, D] stays small and in cache
            scores[i] = (self._matrix[chosen].astype(np.float64) * queries[i].astype(np.float64)).sum(axis=1)
        scores[rows < 0] = -np.inf
        return scores

    def _best(self, scores: np.ndarray, rows: np.ndarray, k: int, group_by_product: bool) -> np.ndarray:
        """Places of the k best candidates of one query, ordered."""
        order = rank(scores, lambda place: self.item_id(int(rows[place])) if rows[place] >= 0 else "")
        order = order[np.isfinite(scores[order])]
        if group_by_product:
            _, first = np.unique(self._product[rows[order]], return_index=True)
            order = order[np.sort(first)]
        return order[:k]

    def find(
        self, queries: np.ndarray, k: int, verticals: list[str] | None = None, group_by_product: bool = False
    ) -> list[Found]:
        """Like `search`, with what is known of the items: one Found a query."""
        hits = self.search(queries, k, verticals, group_by_product)
        return [self.items(rows[rows >= 0], scores[rows >= 0]) for rows, scores in zip(hits.rows, hits.scores, strict=True)]

    def _at(self, row: int) -> tuple[pa.RecordBatch, int]:
        batch = bisect.bisect_right(self._starts, row) - 1
        return self._items[batch], row - self._starts[batch]

    def item_id(self, row: int) -> str:
        batch, at = self._at(row)
        return str(batch.column("item_id")[at].as_py())

    def items(self, rows: np.ndarray, scores: np.ndarray) -> Found:
        """What is known of these rows [n], beside their scores [n]."""
        places = [self._at(int(row)) for row in rows]
        text = {name: [str(b.column(name)[at].as_py()) for b, at in places] for name in ("item_id", "product_id", "vertical")}
        attributes = np.array([b.column("attributes")[at].as_py() for b, at in places], np.int8).reshape(
            len(places), len(self._manifest.attributes)
        )
        return Found(np.asarray(scores, np.float32), text["item_id"], text["product_id"], text["vertical"], attributes)

    def row_of(self, item_id: str) -> int:
        """The item's row, -1 if this shard doesn't hold it: binary search over the mapped ids."""
        place = bisect.bisect_left(self._by_id, item_id, key=lambda row: self.item_id(int(row)))
        row = int(self._by_id[place]) if place < self.rows else -1
        return row if row >= 0 and self.item_id(row) == item_id else -1

    def vector(self, row: int) -> np.ndarray:
        """The stored vector, float32 [D]."""
        return np.array(self._matrix[row], np.float32)

    def thumbnail(self, row: int) -> bytes:
        """The encoded JPEG."""
        batch, at = self._at(row)
        return bytes(batch.column("thumbnail")[at].as_py())


def _faiss_search(index: Any, queries: np.ndarray, k: int, params: Any) -> tuple[np.ndarray, np.ndarray]:
    """(scores float32 [Q, k], rows int64 [Q, k]) by faiss's C++ method.

    Not by its Python `search`: any library that imports faiss.contrib.torch_utils replaces that one for the whole process.
    """
    asked = np.ascontiguousarray(queries, np.float32)
    scores, rows = np.empty((len(asked), k), np.float32), np.empty((len(asked), k), np.int64)
    index.search_c(len(asked), faiss.swig_ptr(asked), k, faiss.swig_ptr(scores), faiss.swig_ptr(rows), params)
    return scores, rows
