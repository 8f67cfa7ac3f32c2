"""Ten million vectors in one shard of product codes: built and searched within this machine's memory.

Its costs a row are what the plan for a billion rows in docs/index.md is computed from. They are counted in processor time, which other
work beside it changes little. The version stays in the workspace: a second run only searches, as where the first wasn't alone.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
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

NAME, KIND, STORE = "large", "ivf_pq", "fp16"
BLOCK, SAMPLED = 65_536, 8  # rows made at a time; of so many blocks one is sampled for training


@dataclass(frozen=True)
class Large:
    """Rows, and queries whose answers are compared with the exact ones."""

    rows: int = 10_000_000
    queries: int = 500  # of 100 the recall's standard error is a point


class Clock:
    """Seconds of each step, as they pass and of processors."""

    def __init__(self, *steps: str) -> None:
        self.seconds = {step: {"passed": 0.0, "processor": 0.0} for step in steps}

    @contextmanager
    def __call__(self, step: str) -> Iterator[None]:
        began, used = time.perf_counter(), time.process_time()
        yield
        self.seconds[step]["passed"] += time.perf_counter() - began
        self.seconds[step]["processor"] += time.process_time() - used


def build(place: Path, rows: int, clock: Clock) -> SegmentWriter:
    """The shard's files, written a block at a time; returns the closed writer."""

    def block(b: int) -> tuple[np.ndarray, np.ndarray]:
        with clock("make vectors"):
            return embeddings_of_products(min(BLOCK, rows - b * BLOCK), seed=10 + b)

    blocks = -(-rows // BLOCK)
    drawn = range(0, blocks, SAMPLED)
    each = -(-sample_rows(KIND, STORE, rows) // len(drawn))
    sample = np.concatenate([block(b)[0][:each] for b in drawn])
    with clock("train"):
        trained = train(KIND, STORE, DIM, rows, sample)
    with clock("write"):
        writer = SegmentWriter(place, [f"item-{i:08d}" for i in range(rows)], attributes=1, trained=trained)
    for b in range(blocks):
        vectors, products = block(b)
        with clock("write"):
            n = len(vectors)
            writer.add("all", [f"p{b}-{p}" for p in products], vectors, np.zeros((n, 1), np.int8), [b""] * n)
    with clock("write"):
        writer.close()
    return writer


def version(index: Location, sizes: Large) -> dict[str, Any]:
    """Build, tune and publish the version, or what is known of the one that is there: steps, bytes of the files, peak memory, effort."""
    receipt = index / f"built-{sizes.rows}.json"
    if receipt.is_file():
        known: dict[str, Any] = receipt.read_json()
        return known
    place = Path((version_dir(index, NAME) / shard_name(0)).path)
    shutil.rmtree(place.parent, ignore_errors=True)
    place.mkdir(parents=True)
    faiss.omp_set_num_threads(os.cpu_count() or 1)
    clock = Clock("make vectors", "train", "write", "tune")
    written = build(place, sizes.rows, clock)
    peak = resident("VmHWM")
    files = {f.name: f for f in place.iterdir()}
    store, candidates = open_files(KIND, files, threads=os.cpu_count() or 1)
    assert candidates is not None
    with clock("tune"):
        effort, _, _ = tune(store, candidates, RECALL, product_numbers(files[ITEMS]))
    publish(index, NAME, written, kind=KIND, store=STORE, effort=effort)
    done = {
        "steps": clock.seconds, "bytes": {name: f.stat().st_size for name, f in files.items()}, "peak": peak, "effort": asdict(effort),
    }  # fmt: skip
    receipt.write_json(done)
    return done


def planned(rows: int, measured: int, built: dict[str, Any], query_s: float) -> dict[str, float]:
    """What `rows` vectors need in shards as large as the one that was measured: memory that searches touch, disk, and a node's share.

    A node has 16 cores and 64 GiB, of which searches get 48. Every query goes to all shards; building is a task a shard, a core each;
    training is once for all. query_s: of a core, in a batch.
    """
    shards = -(-rows // measured)
    touched = built["bytes"]["candidates.faiss"] + 8 * measured  # and two columns of numbers
    a_node = max(1, int((48 << 30) // touched))
    nodes = -(-shards // a_node)
    core_s = {step: found["processor"] for step, found in built["steps"].items()}
    return {
        "rows": rows, "shards": shards, "memory_gib": shards * touched / 2**30,
        "disk_gib": shards * sum(built["bytes"].values()) / 2**30, "shards_a_node": a_node, "nodes": nodes,
        "train_core_hours": core_s["train"] / 3600, "build_core_hours": shards * core_s["write"] / 3600,
        "build_hours_on_these_nodes": (core_s["train"] + -(-shards // (16 * nodes)) * core_s["write"] + core_s["tune"]) / 3600,
        "core_ms_a_query": 1000 * shards * query_s, "queries_per_s": 16 * nodes / (shards * query_s),
        "latency_ms_of_a_batch": 1000 * BATCH * query_s * -(-a_node // 16),
    }  # fmt: skip


def large_rows(sizes: Large, root: Path) -> tuple[list[Row], dict[str, Any]]:
    """Build and tune, unless a run before did, and search; memory is the peak of the process that built."""
    index = Location.of(root)
    built = version(index, sizes)
    faiss.omp_set_num_threads(1)
    shard = Shard.open(index, NAME, 0)
    files = {f.name: Path(f.path) for f in (version_dir(index, NAME) / shard_name(0)).children()}
    queries = embeddings(sizes.queries, seed=1)
    truth = exact(open_files(KIND, files, threads=1)[0], queries)
    found, times = [], []
    for i in range(len(queries)):
        began = time.perf_counter()
        found.append(shard.search(queries[i : i + 1], AT).rows[0])
        times.append(time.perf_counter() - began)
    batched = []
    for start in [s for _ in range(3) for s in range(0, len(queries) - BATCH + 1, BATCH)]:
        began = time.perf_counter()
        shard.search(queries[start : start + BATCH], AT)
        batched.append((time.perf_counter() - began) / BATCH)
    recall = float(np.mean([len(set(a) & set(b)) / AT for a, b in zip(found, truth, strict=True)]))
    steps = built["steps"]
    return [
        Row("large_recall_at_10", recall, "share", RECALL, "higher"),
        Row("large_ms_per_query", 1000 * statistics.median(times), "ms", None, "lower"),
        Row("large_ms_per_query_of_32", 1000 * statistics.median(batched), "ms", None, "lower"),
        Row("large_build_peak_gib", built["peak"] / 2**30, "GiB", 8, "lower"),
        Row("large_build_core_s", sum(steps[s]["processor"] for s in ("train", "write")), "s", None, "lower"),
    ], {
        "rows": sizes.rows, **built, "billion": planned(10**9, sizes.rows, built, statistics.median(batched)),
    }  # fmt: skip
