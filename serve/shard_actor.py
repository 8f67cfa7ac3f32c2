"""The process that holds index shards. Serve pickles this module by value, so it stays small; torch is never here."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import ray

from fashion_dml.index.manifest import require_current
from fashion_dml.storage import Location
from serve.held import Held, NotHeld
from serve.held_shards import HeldShards

logger = logging.getLogger("ray.serve")


# Out of order: calls don't depend on each other, and Ray cancels those of a client that has left. In order, a caller some of whose calls were
# cancelled may wait for ever for the next (Ray 2.60): the replica then looks well and answers that ingress no more.
@ray.remote(concurrency_groups={"prepare": 1}, allow_out_of_order_execution=True)  # type: ignore[call-overload]
class ShardActor:
    """Some shards of every index version that is asked for; it loads them from storage whenever Serve creates it again.

    `prepare` runs in a thread of its own, so that searches of another version go on meanwhile.
    """

    def __init__(
        self, index: str, slot: int, slots: int, catalog: str, threads: int, gpu: bool, keep_s: float
    ) -> None:  # fmt: skip
        root = Location.of(index)

        def opened(version: str) -> HeldShards:
            return HeldShards(root, version, slot, slots, Location.of(catalog), threads=threads, gpu=gpu)

        self._held: Held[HeldShards] = Held(opened, keep_s)
        try:
            self._held.open(require_current(root).version)
        except Exception:
            # Serve gives up for good on actors whose constructors fail, and the service may be on another version: what is asked
            # for is opened when it is asked for.
            logger.exception("the live index version can't be opened by slot %d", slot)

    @ray.method(concurrency_group="prepare")
    def prepare(self, version: str) -> None:
        """Open a version beside those that are open. Raises UserError."""
        self._held.open(version)

    def ask(self, version: str, method: str, *args: Any) -> Any:
        """A method of HeldShards, of this version. Raises NotHeld, and what the method raises."""
        held = self._held.get(version)
        if held is None:
            raise NotHeld(version)
        return getattr(held, method)(*args)

    def process(self) -> dict[str, Any]:
        """What this process is."""
        return {"pid": os.getpid(), "imports_torch": "torch" in sys.modules, "versions": self._held.names()}
