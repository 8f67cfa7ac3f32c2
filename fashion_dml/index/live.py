"""A shard with the catalogue's changes: an exact segment of new items beside the version's rows, and deletions as times of death.

Every row knows at which commit it appeared and at which it went, so a search sees the catalogue as it was after one commit, whole:
commits that come in while a request is under way change nothing for it, in whichever shard.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import faiss
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fashion_dml.index.changes import last_of, matrix
from fashion_dml.index.filters import EVERYTHING, Filter, holds
from fashion_dml.index.merge import Found, merge
from fashion_dml.index.search import Rows, check_queries, nearest
from fashion_dml.index.shard import Shard
from fashion_dml.index.store import Store
from fashion_dml.storage import UserError

FOREVER = np.iinfo(np.int64).max


def owner(item_id: str, shards: int) -> int:
    """The shard that takes a changed item."""
    return zlib.crc32(item_id.encode()) % shards


@dataclass(frozen=True)
class Item:
    """An item as the catalogue has it: found holds one row; vector float32 [D]; thumbnail an encoded JPEG."""

    found: Found
    vector: np.ndarray
    thumbnail: bytes


@dataclass(frozen=True)
class Known:
    """What a search by items needs of some of them: vectors float32 [n, D]."""

    item_ids: list[str]
    product_ids: list[str]
    vectors: np.ndarray


class Segment:
    """Rows that are only ever appended, each alive from one commit until another."""

    def __init__(self, dim: int, attributes: int) -> None:
        self._index = faiss.IndexFlatIP(dim)
        self._products: dict[str, int] = {}
        self.item_ids: list[str] = []
        self.product_ids: list[str] = []
        self.verticals: list[str] = []
        self.thumbnails: list[bytes] = []
        self.attributes = np.empty((0, attributes), np.int8)
        self.born, self.died = np.empty(0, np.int64), np.empty(0, np.int64)
        self.codes = np.empty(0, np.int32)  # of the vertical, by `self.known`
        self.known: dict[str, int] = {}
        self.rows = Rows(Store(self._index), np.empty(0, np.int32), self.item_ids.__getitem__)

    def __len__(self) -> int:
        return len(self.item_ids)

    def add(self, version: int, changes: pa.Table) -> None:
        """Upserts of one commit, in order."""
        self._index.add(np.ascontiguousarray(matrix(changes, "vector")))
        self.item_ids += changes["item_id"].to_pylist()
        added = changes["product_id"].to_pylist()
        self.product_ids += added
        self.verticals += changes["vertical"].to_pylist()
        self.thumbnails += changes["thumbnail"].to_pylist()
        self.attributes = np.concatenate([self.attributes, matrix(changes, "attributes")])
        self.born = np.concatenate([self.born, np.full(len(added), version)])
        self.died = np.concatenate([self.died, np.full(len(added), FOREVER)])
        verticals = [self.known.setdefault(v, len(self.known)) for v in self.verticals[-len(added) :]]
        self.codes = np.concatenate([self.codes, np.array(verticals, np.int32)])
        numbers = [self._products.setdefault(p, len(self._products)) for p in added]
        products = np.concatenate([self.rows.products, np.array(numbers, np.int32)])
        self.rows = Rows(Store(self._index), products, self.item_ids.__getitem__)

    def admitted(self, at: int, where: Filter, vocabulary: tuple[str, ...]) -> np.ndarray:
        """bool [n]: alive after commit `at` and let through by the filter."""
        mask = (self.born <= at) & (at < self.died) & holds(self.attributes, vocabulary, where.attributes)
        if where.verticals:
            mask &= np.isin(self.codes, [self.known[v] for v in where.verticals if v in self.known])
        return mask

    def found(self, rows: np.ndarray, scores: np.ndarray) -> Found:
        """What is known of these rows [n], beside their scores float32 [n]."""
        places = [int(r) for r in rows]
        ids, products, verticals = ([column[r] for r in places] for column in (self.item_ids, self.product_ids, self.verticals))
        return Found(np.asarray(scores, np.float32), ids, products, verticals, self.attributes[places], self.born[places])


class LiveShard:
    """Shard number `number` of `shards`, and what has changed since its version was built. One thread may use it at a time.

    Attributes: version (the commit up to which changes are in), base.
    """

    def __init__(self, base: Shard, number: int, shards: int) -> None:
        self.base, self.version = base, base.folded
        self._number, self._shards = number, shards
        self._new = Segment(base.dim, len(base.attributes))
        self._rows: dict[str, int] = {}  # item_id -> its living row of the segment
        self._ever: dict[str, list[int]] = {}  # and all rows that it had there
        self._dead: dict[int, int] = {}  # row of the base -> the commit at which it went
        self._alive: np.ndarray | None = None  # of the base after `version`; None: all

    def apply(self, version: int, changes: pa.Table) -> None:
        """The changes of the next commit (schema of `changes.changes_schema`): all of them, whichever shard takes the items.

        Raises UserError at a commit that is in already, or whose vectors have another dimension or are of another model.
        """
        if version <= self.version:
            raise UserError(f"Commit {version} of the catalogue is in this shard already, which is at {self.version}.")
        if changes.schema.field("vector").type.list_size != self.base.dim:
            raise UserError(
                f"Commit {version} of the catalogue has vectors of {changes.schema.field('vector').type.list_size} dimensions, "
                f"the index has {self.base.dim}: they are of another model."
            )
        latest = last_of(changes)
        upserted = latest.filter(pc.is_valid(latest["vertical"]))
        others = upserted.filter(pc.not_equal(upserted["model"], self.base.model))
        if others.num_rows:
            raise UserError(
                f"Commit {version} of the catalogue brings vectors of the model {others['model'][0].as_py()[:12]}, as of the item "
                f"{others['item_id'][0].as_py()!r}; the index is of {self.base.model[:12]}: send them again with its model and build the "
                "index anew."
            )
        ids = latest["item_id"].to_pylist()
        for item_id in ids:
            row = self._rows.pop(item_id, None)
            if row is not None:
                self._new.died[row] = version
            row = self.base.row_of(item_id)
            if row >= 0 and row not in self._dead:
                self._dead[row] = version
        if self._dead:
            alive = np.ones(self.base.rows, bool)
            alive[list(self._dead)] = False
            self._alive = alive
        mine = [
            i
            for i, (item_id, delete) in enumerate(zip(ids, latest["delete"].to_pylist(), strict=True))
            if not delete and owner(item_id, self._shards) == self._number
        ]
        if mine:
            first = len(self._new)
            self._new.add(version, latest.take(mine))
            self._rows |= {ids[i]: first + n for n, i in enumerate(mine)}
            for row, i in enumerate(mine, first):
                self._ever.setdefault(ids[i], []).append(row)
        self.base.verticals |= set(upserted["vertical"].unique().to_pylist())
        self.version = version

    def passed(self, version: int) -> None:
        """Commits up to this one that aren't applied hold no changes."""
        self.version = max(self.version, version)

    def _alive_at(self, at: int) -> np.ndarray | None:
        if at == self.version or self._alive is None:
            return self._alive
        alive = self._alive.copy()
        alive[[row for row, died in self._dead.items() if died > at]] = True
        return alive

    def find(
        self, queries: np.ndarray, k: int, where: Filter = EVERYTHING, group_by_product: bool = False, at: int | None = None
    ) -> list[Found]:
        """The neighbours of each query, float32 [Q, D], as the catalogue was after commit `at` (None: the last one applied).

        Raises UserError as `Shard.search` does, and at a commit that is not in yet.
        """
        at = self._checked(at)
        check_queries(queries, self.base.dim, k)
        found = self.base.find(queries, k, where, group_by_product, self._alive_at(at))
        kept = self._new.admitted(at, where, self.base.attributes)
        if not kept.any():
            return found
        hits = nearest(self._new.rows, queries, k, [(0, len(kept))], kept, group_by_product)
        new = (self._new.found(r[r >= 0], s[r >= 0]) for r, s in zip(hits.rows, hits.scores, strict=True))
        return [merge(parts, k, group_by_product=group_by_product) for parts in zip(found, new, strict=True)]

    def item(self, item_id: str, at: int | None = None) -> Item | None:
        """An item after commit `at`; None if this shard doesn't hold it then."""
        at = self._checked(at)
        one = np.ones(1, np.float32)
        row = self._old_row(item_id, at)
        if row >= 0:
            return Item(self.base.items(np.array([row]), one), self.base.vector(row), self.base.thumbnail(row))
        if (row := self._new_row(item_id, at)) < 0:
            return None
        vector = self._new.rows.store.vectors(np.array([row]))[0].copy()
        return Item(self._new.found(np.array([row]), one), vector, self._new.thumbnails[row])

    def known(self, item_ids: Sequence[str], at: int | None = None) -> Known:
        """Those of the items that this shard holds after commit `at`, each once."""
        at = self._checked(at)
        old = {item_id: row for item_id in dict.fromkeys(item_ids) if (row := self._old_row(item_id, at)) >= 0}
        rows = {item_id: row for item_id in dict.fromkeys(item_ids) if (row := self._new_row(item_id, at)) >= 0}
        products = self.base.items(np.array([*old.values()], np.int64), np.ones(len(old), np.float32)).product_ids
        vectors = [self.base.vector(row) for row in old.values()]
        vectors += [self._new.rows.store.vectors(np.array([row]))[0] for row in rows.values()]
        return Known(
            [*old, *rows], products + [self._new.product_ids[row] for row in rows.values()],
            np.array(vectors, np.float32).reshape(-1, self.base.dim),
        )  # fmt: skip

    def _old_row(self, item_id: str, at: int) -> int:
        """The item's row of the version, -1 where that doesn't hold it or it is gone after commit `at`."""
        row = self.base.row_of(item_id)
        return row if row >= 0 and self._dead.get(row, FOREVER) > at else -1

    def _new_row(self, item_id: str, at: int) -> int:
        """The item's row of the segment that lives after commit `at`, -1 for none."""
        alive = (row for row in self._ever.get(item_id, ()) if self._new.born[row] <= at < self._new.died[row])
        return next(alive, -1)

    def _checked(self, at: int | None) -> int:
        if at is None:
            return self.version
        if at > self.version:
            raise UserError(f"Commit {at} of the catalogue isn't in this shard yet, which is at {self.version}.")
        return at

    @property
    def changed(self) -> int:
        """Rows of the segment, dead ones too: searches scan them all, so an index should be built anew before they are many."""
        return len(self._new)
