"""A live catalogue: how many changes a second, and what they cost the searches meanwhile."""

from __future__ import annotations

import itertools
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import upserts
from fashion_dml.index.live import LiveShard
from fashion_dml.storage import Location
from jobs.benchmarks import Row
from jobs.benchmarks.index_versions import AT, DIM, Sizes, embeddings, write_version

BATCH, WRITTEN_PER_S = 500, 2000  # changes of a commit, and of a second while searches are timed


def catalogue_rows(sizes: Sizes, root: Path) -> tuple[list[Row], dict[str, Any]]:
    """Upserts of a live catalogue, from the call to the next search that sees them, and searches while another thread writes."""
    shard = write_version(root, embeddings(sizes.flat))
    catalog = Catalog.create(Location.of(root / "catalog"), dim=DIM, attributes=("sample=yes",))
    vectors = embeddings(BATCH * sizes.commits * 2, seed=2)
    names = itertools.count()

    def batch(i: int) -> Any:
        ids = [f"item-{next(names) * 7 % sizes.flat:08d}" for _ in range(BATCH)]  # of items that the version holds
        return upserts(
            catalog.schema, ids, product_ids=ids, verticals=["all"] * BATCH, vectors=vectors[i * BATCH : (i + 1) * BATCH],
            attributes=np.ones((BATCH, 1), np.int8), thumbnails=[b"x" * 4000] * BATCH, model="0" * 64,
        )  # fmt: skip

    live = LiveShard(shard, 0, 1)
    query = embeddings(1, seed=3)
    rates = []
    for i in range(sizes.commits):
        changes = batch(i)
        began = time.perf_counter()
        catalog.append(changes)
        for version, came in catalog.since(live.version):
            live.apply(version, came)
        live.find(query, AT)
        rates.append(BATCH / (time.perf_counter() - began))

    idle = [_timed(lambda: live.find(query, AT)) for _ in range(200)]
    prepared = [batch(sizes.commits + i) for i in range(sizes.commits)]
    done = threading.Event()

    def write() -> None:
        began = time.perf_counter()
        for i, changes in enumerate(prepared):
            time.sleep(max(0.0, began + i * BATCH / WRITTEN_PER_S - time.perf_counter()))
            catalog.append(changes)
        done.set()

    reader = Catalog.open(catalog.location)

    def search() -> None:
        """As a shard does: changes that are there come first."""
        if reader.latest() > live.version:
            for version, came in reader.since(live.version):
                live.apply(version, came)
        live.find(query, AT)

    writer, busy = threading.Thread(target=write), []
    writer.start()
    while not done.is_set():
        busy.append(_timed(search))
    writer.join()
    return [
        Row("upserts_per_s", statistics.median(rates), "items/s", 2000, "higher"),
        Row("latency_while_writing_over_idle", statistics.fmean(busy) / statistics.fmean(idle), "ratio", 1.5, "lower"),
    ], {
        "idle_ms": [1000 * q for q in np.quantile(idle, (0.5, 0.95, 0.99))],
        "busy_ms": [1000 * q for q in np.quantile(busy, (0.5, 0.95, 0.99))], "searches_while_writing": len(busy),
    }  # fmt: skip


def _timed(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
