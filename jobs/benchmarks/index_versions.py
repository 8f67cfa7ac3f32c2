"""What the benchmarks of the index share: embeddings to search, index versions of them, and timing in turns."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import faiss
import numpy as np

from fashion_dml.index.candidates import open_files
from fashion_dml.index.choose import tune
from fashion_dml.index.manifest import ITEMS, KIND, Effort, activate, shard_name, version_dir
from fashion_dml.index.segment import SegmentWriter, product_numbers, write_segment
from fashion_dml.index.shard import Shard
from fashion_dml.index.train import sample_rows, train
from fashion_dml.storage import Location, write_manifest

DIM, AT, RECALL = 128, 10, 0.95


@dataclass(frozen=True)
class Sizes:
    """Rows of each measurement."""

    flat: int = 100_000
    graph: int = 1_000_000
    queries: int = 1000
    repeats: int = 9
    commits: int = 20


def embeddings(count: int, seed: int = 0) -> np.ndarray:
    """Unit vectors, float32 [count, 128], as a model's are: products of a few images each on a curved surface of 24 dimensions."""
    return embeddings_of_products(count, seed)[0]


def embeddings_of_products(count: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(the same vectors, numbers of their products int64 [count])."""
    rng = np.random.default_rng(seed)
    maps = np.random.default_rng(7)
    first, second = (maps.standard_normal((a, b), np.float32) / np.float32(a**0.5) for a, b in ((24, 96), (96, DIM)))
    products = rng.standard_normal((count // 4 + 1, 24), np.float32)
    of = rng.integers(0, len(products), count)
    out = np.empty((count, DIM), np.float32)
    for start in range(0, count, 4096):  # so few that what lies between stays in cache
        latent = products[of[start : start + 4096]]
        latent += np.float32(0.35) * rng.standard_normal(latent.shape, np.float32)
        block = np.tanh(np.float32(1.5) * latent @ first) @ second
        block += np.float32(0.05) * rng.standard_normal(block.shape, np.float32)
        out[start : start + 4096] = block / np.linalg.norm(block, axis=1, keepdims=True)
    return out, of


def in_turns(calls: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each call; one of each at a time."""
    seconds: dict[str, list[float]] = {name: [] for name in calls}
    for call in calls.values():
        call()
    for _ in range(repeats):
        for name, call in calls.items():
            began = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - began)
    return {name: statistics.median(found) for name, found in seconds.items()}


def write_version(
    root: Path, vectors: np.ndarray, *, products: np.ndarray | None = None, kind: str = "flat", store: str = "fp32"
) -> Shard:
    """An index version of one shard, and its opened shard. One item in ten has the attribute `sample=yes`.

    products: numbers [N], None where each vector is a product of its own.
    """
    index, version = Location.of(root), f"v-{kind}-{store}"
    place = Path((version_dir(index, version) / shard_name(0)).path)
    place.mkdir(parents=True)
    n = len(vectors)
    ids = [f"item-{i:08d}" for i in range(n)]
    numbers = np.arange(n) if products is None else products
    kept = np.where(np.random.default_rng(3).random((n, 1)) < 0.1, 1, -1).astype(np.int8)
    faiss.omp_set_num_threads(os.cpu_count() or 1)  # building is not what is measured
    sample = vectors[np.random.default_rng(4).permutation(n)[: sample_rows(kind, store, n)]]
    written = write_segment(
        place, vectors=vectors, item_ids=ids, product_ids=[f"p{i}" for i in numbers], verticals=["all"] * n, attributes=kept, thumbnails=[b""] * n,
        trained=train(kind, store, DIM, n, sample),
    )  # fmt: skip
    faiss.omp_set_num_threads(1)
    effort = Effort(0, 0)
    if kind != "flat":
        opened, candidates = open_files(kind, {f.name: f for f in place.iterdir()}, threads=1)
        assert candidates is not None
        effort, _, _ = tune(opened, candidates, RECALL, product_numbers(place / ITEMS))
    publish(index, version, written, kind=kind, store=store, effort=effort)
    return Shard.open(index, version, 0)


def publish(index: Location, version: str, written: SegmentWriter, *, kind: str, store: str, effort: Effort) -> None:
    """The manifest of a version of one shard, and CURRENT."""
    place = version_dir(index, version) / shard_name(0)
    files = {f"{shard_name(0)}/{f.name}": {"sha256": f.sha256(), "bytes": f.size()} for f in place.children()}
    write_manifest(
        version_dir(index, version), kind=KIND, config={}, inputs={}, seconds=0, model="0" * 64, dim=DIM, index=kind, store=store,
        effort=asdict(effort), catalog=0, shards=[len(written.ids)], products=written.products, verticals=written.counts,
        attributes=["sample=yes"], files=files,
    )  # fmt: skip
    activate(index, version)
