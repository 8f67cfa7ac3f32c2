"""One shard, opened for search: vectors and items are memory-mapped, items read by row.

Candidates come from the stored vectors (exact) or an approximate index; their scores are then computed again, always the same way, so
a vector's score depends neither on the batch it was asked in nor on the path to it. That makes ties real ties and merging exact.
"""

from __future__ import annotations

import bisect
import json
from functools import partial

import numpy as np
import pyarrow as pa

from fashion_dml.index.candidates import Candidates, open_files
from fashion_dml.index.filters import EVERYTHING, Filter, Masks
from fashion_dml.index.manifest import (
    CANDIDATES,
    CODES,
    ITEMS,
    MADE_ANEW,
    ROUGH,
    VECTORS,
    IndexManifest,
    load,
    shard_name,
    verified_file,
)
from fashion_dml.index.merge import Found
from fashion_dml.index.search import Hits, Rows, check_queries, nearest
from fashion_dml.index.store import Store
from fashion_dml.storage import Location, UserError

EXACT_ROWS, EXACT_SHARE = 20_000, 0.15  # a filter that keeps fewer rows is met by scanning them, whatever the kind


class Shard:
    """A verified, memory-mapped shard. Not changed by searches; one thread may search at a time.

    Attributes: version, model (sha256 of the weights that made the vectors), dim (D), rows (N), attributes (vocabulary), verticals
    (names that a filter may have), effort (of an approximate kind's searches), folded (the last commit of the live catalogue that the version holds).
    """

    def __init__(
        self, store: Store, candidates: Candidates | None, items: list[pa.RecordBatch], ranges: dict[str, tuple[int, int]],
        manifest: IndexManifest,
    ) -> None:  # fmt: skip
        self._store, self._approximate, self._items, self._ranges, self._manifest = store, candidates, items, ranges, manifest
        self.version, self.model, self.dim, self.rows = manifest.version, manifest.model, store.dim, store.rows
        self.effort = manifest.effort
        self.verticals, self.attributes, self.folded = set(manifest.verticals), manifest.attributes, manifest.catalog
        self._starts = np.cumsum([0] + [b.num_rows for b in items[:-1]]).tolist()
        self._rows = Rows(store, self._column("product"), self.item_id)
        self._by_id = self._column("by_id")
        self._masks = Masks([attributes_of(batch) for batch in items], manifest.attributes)

    @classmethod
    def open(cls, index: Location, version: str, shard: int, *, threads: int = 1, gpu: bool = False) -> Shard:
        """Shard number `shard` of a version below `index`; FAISS gets `threads` threads in this process. Raises UserError.

        gpu: searches without a narrow filter run on this process's first GPU, which proposes rows; scores stay the CPU's.
        """
        manifest = load(index, version)
        name = shard_name(shard)
        names = [VECTORS, CODES, ITEMS] + [CANDIDATES] * (manifest.kind != "flat" and manifest.shards[shard] > 0)
        names += [ROUGH] * (f"{name}/{ROUGH}" in manifest.files)
        files = {file: verified_file(index, manifest, f"{name}/{file}") for file in names}
        store, candidates = open_files(manifest.kind, files, threads=threads)
        if gpu and store.rows:
            candidates = Candidates.on_gpu(manifest.kind, None if candidates is None else candidates.index, store)
        reader = pa.ipc.open_file(pa.memory_map(str(files[ITEMS])))
        last = reader.num_record_batches - 1
        ranges = json.loads(reader.get_batch_with_custom_metadata(last).custom_metadata[b"ranges"])
        batches = [reader.get_batch(i) for i in range(last)]
        rows = sum(b.num_rows for b in batches)
        counts = {store.rows, rows, manifest.shards[shard], rows if candidates is None else int(candidates.index.ntotal)}
        if store.dim != manifest.dim or len(counts) > 1:
            raise UserError(f"Shard {shard} of index version {version} disagrees with its manifest; run `{MADE_ANEW}`.")
        return cls(store, candidates, batches, {v: (int(a), int(b)) for v, (a, b) in ranges.items()}, manifest)

    def _column(self, name: str) -> np.ndarray:
        return np.concatenate([b.column(name).to_numpy() for b in self._items] or [np.empty(0, np.int32)])

    def _select(self, verticals: tuple[str, ...]) -> list[tuple[int, int]]:
        """Row ranges of the verticals, neighbours joined; none named: all rows."""
        if not verticals:
            return [(0, self.rows)] if self.rows else []
        joined: list[tuple[int, int]] = []
        for a, b in sorted({self._ranges[v] for v in verticals if v in self._ranges}):
            if joined and joined[-1][1] == a:
                joined[-1] = (joined[-1][0], b)
            else:
                joined.append((a, b))
        return joined

    def search(
        self, queries: np.ndarray, k: int, where: Filter = EVERYTHING, group_by_product: bool = False,
        alive: np.ndarray | None = None,
    ) -> Hits:  # fmt: skip
        """The k rows with the greatest inner product: queries float32 [Q, D], finite. Ties go by item_id.

        where: only rows it admits; alive: only rows where this, bool [N], is true. group_by_product: k different products, each by
        its best row. The kind flat gives exactly those; others nearly, and always k where there are so many.
        Raises UserError at a wrong shape, a value that isn't finite, k < 1, or a filter of unknown names.
        """
        check_queries(queries, self.dim, k)
        where.check(self.verticals, self.attributes)
        ranges = self._select(where.verticals)
        kept = self._masks.of(where.attributes)
        if alive is not None:
            kept = alive if kept is None else kept & alive
        selected = sum(b - a if kept is None else int(np.count_nonzero(kept[a:b])) for a, b in ranges)
        propose = None
        if self._approximate is not None and selected > max(EXACT_ROWS, EXACT_SHARE * self.rows):
            propose = partial(self._propose, self._approximate, ranges=ranges, kept=kept, share=selected / self.rows)
        return nearest(self._rows, queries, k, ranges, kept, group_by_product, propose)

    def _propose(
        self, candidates: Candidates, queries: np.ndarray, width: int, *, ranges: list[tuple[int, int]],
        kept: np.ndarray | None, share: float,
    ) -> np.ndarray:  # fmt: skip
        """About `width` rows of the selection, [Q, C], -1 for none: as many more are asked for as the filter drops."""
        effort = self.effort
        rows = candidates.nearest(queries, min(self.rows, int(max(width, effort.candidates) / share)), effort)
        if share == 1:
            return rows
        inside = np.zeros(rows.shape, bool)
        for first, last in ranges:
            inside |= (rows >= first) & (rows < last)
        return np.where(inside if kept is None else inside & kept[rows], rows, -1)

    def find(
        self, queries: np.ndarray, k: int, where: Filter = EVERYTHING, group_by_product: bool = False,
        alive: np.ndarray | None = None,
    ) -> list[Found]:  # fmt: skip
        """Like `search`, with what is known of the items: one Found a query."""
        hits = self.search(queries, k, where, group_by_product, alive)
        kept = hits.rows >= 0
        return self.items(hits.rows[kept], hits.scores[kept]).split(np.count_nonzero(kept, axis=1))

    def _at(self, row: int) -> tuple[pa.RecordBatch, int]:
        batch = bisect.bisect_right(self._starts, row) - 1
        return self._items[batch], row - self._starts[batch]

    def item_id(self, row: int) -> str:
        batch, at = self._at(row)
        return str(batch.column("item_id")[at].as_py())

    def items(self, rows: np.ndarray, scores: np.ndarray) -> Found:
        """What is known of these rows [n], beside their scores [n]."""
        text: dict[str, np.ndarray] = {name: np.empty(len(rows), object) for name in ("item_id", "product_id", "vertical")}
        attributes = np.empty((len(rows), len(self.attributes)), np.int8)
        batches = np.searchsorted(self._starts, rows, side="right") - 1
        for batch in np.unique(batches):  # a batch at a time: cell by cell takes longer than the search
            places = np.flatnonzero(batches == batch)
            taken = self._items[batch].select([*text, "attributes"]).take(pa.array(rows[places] - self._starts[batch]))
            for name, column in text.items():
                column[places] = taken.column(name).to_pylist()
            attributes[places] = attributes_of(taken)
        ids, products, verticals = (column.tolist() for column in text.values())
        return Found(np.asarray(scores, np.float32), ids, products, verticals, attributes, np.zeros(len(rows), np.int64))

    def row_of(self, item_id: str) -> int:
        """The item's row, -1 if this shard doesn't hold it: binary search over the mapped ids."""
        place = bisect.bisect_left(self._by_id, item_id, key=lambda row: self.item_id(int(row)))
        row = int(self._by_id[place]) if place < self.rows else -1
        return row if row >= 0 and self.item_id(row) == item_id else -1

    def vector(self, row: int) -> np.ndarray:
        """The stored vector, float32 [D]."""
        return self._store.vectors(np.array([row]))[0].copy()

    def thumbnail(self, row: int) -> bytes:
        """The encoded JPEG."""
        batch, at = self._at(row)
        return bytes(batch.column("thumbnail")[at].as_py())


def attributes_of(batch: pa.RecordBatch) -> np.ndarray:
    """The batch's attributes without a copy, int8 [n, A]."""
    column = batch.column("attributes")
    return column.flatten().to_numpy().reshape(len(column), column.type.list_size)
