"""The process that holds one index shard. Serve pickles this module by value, so it stays small; torch is never here."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import ray

from fashion_dml.index.filters import Filter
from fashion_dml.index.follow import Follower
from fashion_dml.index.live import Item, Known, LiveShard
from fashion_dml.index.merge import Found
from fashion_dml.index.shard import Shard
from fashion_dml.storage import Location


@ray.remote
class ShardActor:
    """One shard of one index version and the catalogue's changes since; it loads from storage whenever Serve creates it again.

    `at` is the commit after which the catalogue is looked at; the log is read up to it first.
    """

    def __init__(self, index: str, version: str, shard: int, shards: int, catalog: str, threads: int, gpu: bool) -> None:
        self._version, self._number = version, shard
        opened = Shard.open(Location.of(index), version, shard, threads=threads, gpu=gpu)
        self._live = LiveShard(opened, shard, shards)
        self._follower = Follower(self._live, Location.of(catalog))
        self._follower.catch_up()

    def describe(self, at: int) -> dict[str, Any]:
        """What this process holds."""
        return {
            "version": self._version, "shard": self._number, "rows": self._live.base.rows, "pid": os.getpid(),
            "imports_torch": "torch" in sys.modules, "at": self._follower.reach(at), "changed": self._live.changed,
            "unusable": self._follower.unusable, "verticals": sorted(self._live.base.verticals),
        }  # fmt: skip

    def find(self, queries: np.ndarray, k: int, where: Filter, group_by_product: bool, at: int) -> tuple[list[Found], int]:
        """(the neighbours of each query, float32 [Q, D], in this shard, the commit they are of)."""
        reached = self._follower.reach(at)
        return self._live.find(queries, k, where, group_by_product, reached), reached

    def item(self, item_id: str, at: int) -> Item | None:
        """What is known of an item; None if this shard doesn't hold it."""
        return self._live.item(item_id, self._follower.reach(at))

    def items(self, item_ids: list[str], at: int) -> Known:
        """Those of the items that this shard holds, with their vectors."""
        return self._live.known(item_ids, self._follower.reach(at))
