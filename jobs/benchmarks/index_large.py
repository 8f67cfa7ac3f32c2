"""Ten million vectors in one shard of product codes: built and searched within this machine's memory.

Its costs a row are what the plan for a billion rows in docs/index.md is computed from.
"""

from __future__ import annotations

import os
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fashion_dml.index.candidates import open_files
from fashion_dml.index.choose import exact, tune
from fashion_dml.index.manifest import ITEMS, shard_name, version_dir
from fashion_dml.index.segment import SegmentWriter, product_numbers
from fashion_dml.index.shard import Shard
from fashion_dml.index.train import sample_rows, train
from fashion_dml.storage import Location
from jobs.benchmarks import Row
from jobs.benchmarks.index_approximate import BATCH
from jobs.benchmarks.index_versions import AT, DIM, RECALL, embeddings, embeddings_of_products, publish
from jobs.benchmarks.memory import resident

KIND, STORE = "ivf_pq", "fp16"
BLOCK, SAMPLED = 65_536, 8  # rows made at a time; of so many blocks one is sampled for training


@dataclass(frozen=True)
class Large:
    """Rows, and queries whose answers are compared with the exact ones."""

    rows: int = 10_000_000
    queries: int = 100


def build(place: Path, rows: int) -> tuple[SegmentWriter, dict[str, float]]:
    """The shard's files, written a block at a time; returns the closed writer and the seconds of each step."""
    seconds = dict.fromkeys(("make vectors", "train", "add and write"), 0.0)

    def block(b: int) -> tuple[np.ndarray, np.ndarray]:
        began = time.perf_counter()
        made = embeddings_of_products(min(BLOCK, rows - b * BLOCK), seed=10 + b)
        seconds["make vectors"] += time.perf_counter() - began
        return made

    blocks = -(-rows // BLOCK)
    drawn = range(0, blocks, SAMPLED)
    each = -(-sample_rows(KIND, STORE, rows) // len(drawn))
    sample = np.concatenate([block(b)[0][:each] for b in drawn])
    began = time.perf_counter()
    trained = train(KIND, STORE, DIM, rows, sample)
    seconds["train"] = time.perf_counter() - began
    with SegmentWriter(place, [f"item-{i:08d}" for i in range(rows)], attributes=1, trained=trained) as writer:
        for b in range(blocks):
            vectors, products = block(b)
            began = time.perf_counter()
            n = len(vectors)
            writer.add("all", [f"p{b}-{p}" for p in products], vectors, np.zeros((n, 1), np.int8), [b""] * n)
            seconds["add and write"] += time.perf_counter() - began
        began = time.perf_counter()
    seconds["add and write"] += time.perf_counter() - began
    return writer, seconds


def planned(rows: int, measured: int, seconds: dict[str, float], size: dict[str, int], query_s: float) -> dict[str, float]:
    """What `rows` vectors need in shards as large as the one that was measured: memory that searches touch, disk, and a node's share.

    A node has 16 cores and 64 GiB, of which searches get 48. Every query goes to all shards; building is a task a shard, a core each
    (it is measured with this machine's cores, so its seconds are counted that often); training is once for all.
    """
    shards = -(-rows // measured)
    touched = size["candidates.faiss"] + 8 * measured  # and two columns of numbers
    a_node = max(1, int((48 << 30) // touched))
    nodes = -(-shards // a_node)
    cores = os.cpu_count() or 1
    return {
        "rows": rows, "shards": shards, "memory_gib": shards * touched / 2**30, "disk_gib": shards * sum(size.values()) / 2**30,
        "shards_a_node": a_node, "nodes": nodes,
        "train_core_hours": cores * seconds["train"] / 3600,
        "build_hours_on_these_nodes": -(-shards // (16 * nodes)) * cores * seconds["add and write"] / 3600,
        "core_ms_a_query": 1000 * shards * query_s, "queries_per_s": 16 * nodes / (shards * query_s),
        "latency_ms": 1000 * query_s * -(-a_node // 16),
    }  # fmt: skip


def large_rows(sizes: Large, root: Path) -> tuple[list[Row], dict[str, Any]]:
    """Build, tune and search; memory is this process's peak while building, and resident after the searches."""
    index, version = Location.of(root), "large"
    place = Path((version_dir(index, version) / shard_name(0)).path)
    place.mkdir(parents=True)
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    written, seconds = build(place, sizes.rows)
    peak = resident("VmHWM")
    size = {f.name: f.stat().st_size for f in place.iterdir()}
    store, candidates = open_files(KIND, {f.name: f for f in place.iterdir()}, threads=os.cpu_count() or 1)
    assert candidates is not None
    began = time.perf_counter()
    effort, _, _ = tune(store, candidates, RECALL, product_numbers(place / ITEMS), queries=sizes.queries)
    seconds["tune"] = time.perf_counter() - began
    publish(index, version, written, kind=KIND, store=STORE, effort=effort)
    faiss.omp_set_num_threads(1)
    shard = Shard.open(index, version, 0)
    queries = embeddings(sizes.queries, seed=1)
    truth = exact(store, queries)
    found, times = [], []
    for i in range(len(queries)):
        began = time.perf_counter()
        found.append(shard.search(queries[i : i + 1], AT).rows[0])
        times.append(time.perf_counter() - began)
    batched = []
    for start in range(0, len(queries) - BATCH + 1, BATCH):
        began = time.perf_counter()
        shard.search(queries[start : start + BATCH], AT)
        batched.append((time.perf_counter() - began) / BATCH)
    recall = float(np.mean([len(set(a) & set(b)) / AT for a, b in zip(found, truth, strict=True)]))
    return [
        Row("large_recall_at_10", recall, "share", RECALL, "higher"),
        Row("large_ms_per_query", 1000 * statistics.median(times), "ms", None, "lower"),
        Row("large_ms_per_query_of_32", 1000 * statistics.median(batched), "ms", None, "lower"),
        Row("large_build_peak_gib", peak / 2**30, "GiB", 16, "lower"),
        Row("large_build_s", seconds["train"] + seconds["add and write"], "s", None, "lower"),
    ], {"rows": sizes.rows, "effort": [effort.probes, effort.candidates], "seconds": seconds, "bytes": size,
        "billion": planned(10**9, sizes.rows, seconds, size, statistics.median(batched)),
    }  # fmt: skip
