"""The process that holds one index shard. Serve pickles this module by value, so it stays small; torch is never here."""

from __future__ import annotations

import os
import sys
from typing import Any

import numpy as np
import ray

from fashion_dml.index.filters import Filter
from fashion_dml.index.merge import Found
from fashion_dml.index.shard import Shard
from fashion_dml.storage import Location


@ray.remote
class ShardActor:
    """One shard of one index version; it loads from storage whenever Serve creates it again."""

    def __init__(self, index: str, version: str, shard: int, threads: int, gpu: bool) -> None:
        self._version, self._number = version, shard
        self._shard = Shard.open(Location.of(index), version, shard, threads=threads, gpu=gpu)

    def describe(self) -> dict[str, Any]:
        """What this process holds."""
        return {
            "version": self._version, "shard": self._number, "rows": self._shard.rows, "pid": os.getpid(),
            "imports_torch": "torch" in sys.modules,
        }  # fmt: skip

    def find(self, queries: np.ndarray, k: int, where: Filter, group_by_product: bool) -> list[Found]:
        """The neighbours of each query, float32 [Q, D], in this shard."""
        return self._shard.find(queries, k, where, group_by_product)

    def item(self, item_id: str) -> tuple[Found, np.ndarray] | None:
        """What is known of an item and its vector, float32 [D]; None if this shard doesn't hold it."""
        row = self._shard.row_of(item_id)
        if row < 0:
            return None
        return self._shard.items(np.array([row]), np.ones(1, np.float32)), self._shard.vector(row)

    def thumbnail(self, item_id: str) -> bytes | None:
        """The item's JPEG; None if this shard doesn't hold it."""
        row = self._shard.row_of(item_id)
        return None if row < 0 else self._shard.thumbnail(row)
