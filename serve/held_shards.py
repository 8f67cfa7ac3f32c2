"""The shards of one index version that one actor holds: searched together, answered as one."""

from __future__ import annotations

from typing import Any

import numpy as np

from fashion_dml.index.calls import take_threads
from fashion_dml.index.filters import Filter
from fashion_dml.index.follow import Follower
from fashion_dml.index.live import Item, Known, LiveShard
from fashion_dml.index.manifest import load
from fashion_dml.index.merge import Found, merge
from fashion_dml.index.shard import Shard
from fashion_dml.storage import Location


class HeldShards:
    """Shards slot, slot + slots, ... of a version, each with the catalogue's changes since. One thread may use it at a time.

    `at` is the commit after which the catalogue is looked at; the log is read up to it first. Raises Behind, Untranslated.
    """

    def __init__(
        self, index: Location, version: str, slot: int, slots: int, catalog: Location, *, threads: int, gpu: bool
    ) -> None:
        """Raises UserError at a version that can't be opened."""
        self._threads = threads
        count = len(load(index, version).shards)
        self._followers = []
        for n in range(slot, count, slots):
            shard = Shard.open(index, version, n, threads=threads, gpu=gpu)
            self._followers.append(Follower(LiveShard(shard, n, count), catalog))
        for follower in self._followers:
            follower.catch_up()

    def describe(self, at: int) -> dict[str, Any]:
        """What is held."""
        reached = [f.reach(at) for f in self._followers]
        shards = [f.shard for f in self._followers]
        return {
            "rows": sum(s.base.rows for s in shards), "at": min(reached), "changed": sum(s.changed for s in shards),
            "hidden": len(set().union(*(f.hidden for f in self._followers))),
            "verticals": sorted(set().union(*(s.base.verticals for s in shards))),
        }  # fmt: skip

    def find(self, queries: np.ndarray, k: int, where: Filter, group_by_product: bool, at: int) -> tuple[list[Found], int]:
        """(the neighbours of each query, float32 [Q, D], in these shards, the commit they are of)."""
        take_threads(self._threads)  # the files may have been opened in another thread
        reached = min(f.reach(at) for f in self._followers)
        found = [f.shard.find(queries, k, where, group_by_product, reached) for f in self._followers]
        if len(found) == 1:
            return found[0], reached
        return [merge(parts, k, group_by_product=group_by_product) for parts in zip(*found, strict=True)], reached

    def items(self, item_ids: list[str], at: int) -> list[Known]:
        """Those of the items that these shards hold, with their vectors."""
        return [f.shard.known(item_ids, f.reach(at)) for f in self._followers]

    def item(self, item_id: str, at: int) -> Item | None:
        """What is known of an item; None if these shards don't hold it."""
        for follower in self._followers:
            found = follower.shard.item(item_id, follower.reach(at))
            if found is not None:
                return found
        return None
