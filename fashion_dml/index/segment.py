"""Writing one shard: vectors.faiss and vectors.bin, items.arrow and, for an approximate kind, candidates.faiss, row for row; for the kind
flat rough.bin, where it pays.

Rows are sorted by vertical, so a vertical filter is a range of rows. Vectors and
items are written batch by batch and never held together: memory is the ids of items and products, and what proposes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import faiss
import numpy as np
import pyarrow as pa

from fashion_dml.index import rough
from fashion_dml.index.fill import Filling
from fashion_dml.index.manifest import CANDIDATES, CODES, ITEM_ID, ITEMS, ROUGH, VECTORS
from fashion_dml.index.store import Store
from fashion_dml.index.train import Trained, train
from fashion_dml.storage import UserError

UNIT_TOLERANCE = 1e-3


def items_schema(attributes: int) -> pa.Schema:
    """One row per item. `product` numbers the shard's products from 0; `by_id[i]` is the row of the i-th smallest item_id."""
    return pa.schema([
        ("item_id", pa.string()), ("product_id", pa.string()), ("vertical", pa.string()),
        ("attributes", pa.list_(pa.int8(), attributes)), ("thumbnail", pa.binary()),
        ("product", pa.int32()), ("by_id", pa.int32()),
    ])  # fmt: skip


def product_numbers(items: Path) -> np.ndarray:
    """Of an items file: the number of each row's product within the shard, int32 [N]."""
    return np.asarray(pa.ipc.open_file(pa.memory_map(str(items))).read_all()["product"].to_numpy())


def check_vectors(vectors: np.ndarray, dim: int, what: str) -> None:
    """Raises UserError unless `vectors` is float32 [N, dim] of finite unit vectors (to 1e-3)."""
    if vectors.dtype != np.float32 or vectors.ndim != 2 or vectors.shape[1] != dim:
        raise UserError(f"{what} must be float32 [N, {dim}], these are {vectors.dtype} {list(vectors.shape)}.")
    norms = np.linalg.norm(vectors, axis=1)
    wrong = np.flatnonzero(~(np.abs(norms - 1) <= UNIT_TOLERANCE))  # catches NaN too
    if len(wrong):
        raise UserError(f"{what} must have length 1; vector {wrong[0]} has {norms[wrong[0]]:.4g}: embed the images again.")


def id_order(ids: Sequence[str]) -> np.ndarray:
    """Rows sorted by item_id, int32 [N]. Raises UserError at an id that is malformed or given twice."""
    for item_id in ids:
        if not ITEM_ID.fullmatch(item_id):
            raise UserError(f"The item_id {item_id[:140]!r} can't be used; ids must match {ITEM_ID.pattern}.")
    table = np.array(ids, dtype=np.bytes_) if len(ids) else np.empty(0, "S1")
    order = np.argsort(table, kind="stable").astype(np.int32)
    ranked = table[order]
    twice = np.flatnonzero(ranked[1:] == ranked[:-1])
    if len(twice):
        raise UserError(f"The item_id {ranked[twice[0]].decode()!r} is given twice; every image needs an id of its own.")
    return order


class SegmentWriter:
    """Writes a shard into an existing local directory; a context manager.

    ids: all item ids in row order, known before the first batch. Batches come with verticals in ascending order.
    """

    def __init__(self, directory: Path, ids: Sequence[str], *, attributes: int, trained: Trained) -> None:
        self.ids, self.dim = ids, int(trained.store.d)
        self.ranges: dict[str, list[int]] = {}  # vertical -> [first row, row after the last]
        self.counts: dict[str, dict[str, int]] = {}
        self._order = id_order(ids)
        self._store = trained.store
        self._candidates = None if trained.candidates is None else faiss.clone_index(trained.candidates)
        self._filling = None if self._candidates is None else Filling(self._candidates)
        self._rows = 0
        self._of_vertical: dict[str, set[int]] = {}  # vertical -> numbers of its products
        self._numbers: dict[str, int] = {}  # product_id -> its number; a product may have items in several verticals
        self._directory = directory
        self._schema = items_schema(attributes)
        self._codes = (directory / CODES).open("wb")
        self._sink = pa.OSFile(str(directory / ITEMS), "wb")
        self._writer = pa.ipc.new_file(self._sink, self._schema)

    @property
    def products(self) -> int:
        """How many different products the rows so far belong to."""
        return len(self._numbers)

    def __enter__(self) -> SegmentWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is None:
            self.close()
        else:
            self._codes.close()
            self._sink.close()  # without its footer the file can't be opened, and nothing lists it

    def add(
        self,
        vertical: str,
        product_ids: Sequence[str],
        vectors: np.ndarray,
        attributes: np.ndarray,
        thumbnails: Sequence[bytes],
    ) -> None:
        """The next N rows, of one vertical: vectors float32 [N, D], attributes int8 [N, A], encoded thumbnails."""
        n = len(product_ids)
        first, last = self._rows, self._rows + n
        if last > len(self.ids):
            raise UserError(
                f"This shard was announced with {len(self.ids)} items and is given {last}: the dataset changed meanwhile."
            )
        check_vectors(vectors, self.dim, f"The vectors of {vertical}")
        if self.ranges and vertical < next(reversed(self.ranges)):
            raise ValueError(f"verticals must ascend: {vertical!r} after {next(reversed(self.ranges))!r}")
        self.ranges.setdefault(vertical, [first, first])[1] = last
        counts = self.counts.setdefault(vertical, {"items": 0, "products": 0})
        numbers = np.array([self._numbers.setdefault(p, len(self._numbers)) for p in product_ids], np.int32)
        seen = self._of_vertical.setdefault(vertical, set())
        seen.update(numbers.tolist())
        counts["items"] += n
        counts["products"] = len(seen)
        flat = pa.array(np.ascontiguousarray(attributes, np.int8).ravel())
        columns = [
            pa.array(self.ids[first:last], pa.string()), pa.array(product_ids, pa.string()),
            pa.array([vertical] * n, pa.string()),
            pa.FixedSizeListArray.from_arrays(flat, type=self._schema.field("attributes").type),
            pa.array(thumbnails, pa.binary()), pa.array(numbers), pa.array(self._order[first:last]),
        ]  # fmt: skip
        self._writer.write_batch(pa.record_batch(columns, schema=self._schema))
        self._codes.write(self._store.sa_encode(np.ascontiguousarray(vectors)).data)
        if self._filling is not None:
            self._filling.add(vectors)
        self._rows = last

    def close(self) -> None:
        if self._rows != len(self.ids):
            raise UserError(
                f"This shard was announced with {len(self.ids)} items and got {self._rows}: the dataset changed meanwhile."
            )
        # The ranges are known only now, so they go into the footer's neighbour: a last, empty batch's metadata.
        empty = pa.record_batch([pa.array([], f.type) for f in self._schema], schema=self._schema)
        self._writer.write_batch(empty, custom_metadata={"ranges": json.dumps(self.ranges)})
        self._writer.close()
        self._sink.close()
        self._codes.close()
        faiss.write_index(self._store, str(self._directory / VECTORS))
        stored = Store.mapped(self._directory / VECTORS, self._directory / CODES)
        if self._filling is None and rough.worthwhile(stored):
            rough.write(self._directory / ROUGH, stored)
        if self._filling is not None:  # a graph goes without its copy of the vectors: it is given the store when opened
            self._filling.close()
            faiss.write_index(self._candidates, str(self._directory / CANDIDATES), faiss.IO_FLAG_SKIP_STORAGE)  # type: ignore[call-overload]


def write_segment(
    directory: Path, *, vectors: np.ndarray, item_ids: Sequence[str], product_ids: Sequence[str], verticals: Sequence[str],
    attributes: np.ndarray, thumbnails: Sequence[bytes], trained: Trained | None = None,
) -> SegmentWriter:  # fmt: skip
    """One shard from arrays in any order: vectors float32 [N, D], attributes int8 [N, A]. Returns the closed writer.

    trained: what the shard begins with; None: the kind flat, fp32.
    """
    if trained is None:
        trained = train("flat", "fp32", vectors.shape[1], len(vectors), vectors)
    order = sorted(range(len(item_ids)), key=lambda i: (verticals[i], product_ids[i], item_ids[i]))
    writer = SegmentWriter(directory, [item_ids[i] for i in order], attributes=attributes.shape[1], trained=trained)
    with writer:
        for vertical in sorted(set(verticals)):
            rows = [i for i in order if verticals[i] == vertical]
            writer.add(vertical, [product_ids[i] for i in rows], vectors[rows], attributes[rows], [thumbnails[i] for i in rows])
    return writer
