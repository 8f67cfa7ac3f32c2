"""Search against the machine's limits and against FAISS and hnswlib called plainly; changes of a live catalogue.

One thread each. Limits are measured in the same run: the time to read the vectors once (the fastest of three ways), and the float32
matrix product of queries and vectors with one pass over the scores, below which no exact search can be. Ratios are of medians of calls
taken in turns, but that of a search beside changes is of means, without them first. Peers of an approximate index get the same vectors and
are run with the least effort (of rising ones) that reaches the recall; all are asked in batches of 32, and the better of two passes counts.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fashion_dml.index.filters import Filter
from fashion_dml.storage import Location
from jobs.benchmarks import Row
from jobs.benchmarks.index_approximate import approximate_rows
from jobs.benchmarks.index_large import Large, large_rows
from jobs.benchmarks.index_live import catalogue_rows
from jobs.benchmarks.index_versions import AT, DIM, Sizes, embeddings, in_turns, write_version
from jobs.common import console

ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")


def flat_rows(sizes: Sizes, root: Path) -> tuple[list[Row], dict[str, Any]]:
    """Exact search of 1, 32 and 256 queries, and with a filter that keeps a tenth."""
    default = faiss.cvar.distance_compute_blas_threshold  # opening a shard sets it
    vectors = embeddings(sizes.flat)
    shard = write_version(root, vectors)
    plain = faiss.IndexFlatIP(DIM)
    plain.add(vectors)
    queries = embeddings(256, seed=1)
    tenth = Filter.of([], {"sample": ["yes"]})
    found: dict[str, float] = {}
    whole = vectors.view(np.uint64)
    reads: dict[str, Callable[[], object]] = {
        "read or": lambda: np.bitwise_or.reduce(whole, axis=None),
        "read max": lambda: vectors.max(),
        "read product": lambda: vectors @ queries[0],
    }
    for name, reading in reads.items():  # a search after each way of reading: all find the caches as the other left them
        found |= in_turns({f"1 after {name}": lambda: shard.search(queries[:1], AT), name: reading}, sizes.repeats)
    for n in (32, 256):
        asked, scores = queries[:n], np.empty((n, len(vectors)), np.float32)

        def product(asked: np.ndarray = asked, scores: np.ndarray = scores) -> object:
            np.matmul(asked, vectors.T, out=scores)
            return scores.max(axis=1)

        def theirs(asked: np.ndarray = asked) -> object:
            ours = faiss.cvar.distance_compute_blas_threshold
            faiss.cvar.distance_compute_blas_threshold = default
            try:
                return plain.search(asked, AT)
            finally:
                faiss.cvar.distance_compute_blas_threshold = ours

        calls: dict[str, Callable[[], object]] = {
            f"{n}": partial(shard.search, asked, AT), f"{n} product": product, f"{n} faiss": theirs,
        }  # fmt: skip
        if n == 32:
            calls["32 filtered"] = partial(shard.search, asked, AT, tenth)
        found |= in_turns(calls, sizes.repeats)
    fastest = min(reads, key=found.__getitem__)
    return [
        Row("flat_1_over_bandwidth", found[f"1 after {fastest}"] / found[fastest], "ratio", 1.3, "lower"),
        Row("flat_32_over_gemm", found["32"] / found["32 product"], "ratio", 1.5, "lower"),
        Row("flat_256_over_gemm", found["256"] / found["256 product"], "ratio", 1.5, "lower"),
        Row("flat_32_speedup_over_faiss", found["32 faiss"] / found["32"], "ratio", 4, "higher"),
        Row("filter_10pct_over_unfiltered", found["32 filtered"] / found["32"], "ratio", 0.25, "lower"),
    ], {"seconds": found, "faiss_threshold": default, "gb_per_s": vectors.nbytes / found[fastest] / 1e9}


def _large(sizes: Sizes, root: Path) -> tuple[list[Row], dict[str, Any]]:
    del sizes
    return large_rows(Large(), root)


PARTS: dict[str, Callable[[Sizes, Path], tuple[list[Row], dict[str, Any]]]] = {
    "flat": flat_rows, "catalogue": catalogue_rows, "approximate": approximate_rows,
}  # fmt: skip


def run_large(workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """All rows of `index-large`; the version stays in `benchmark-index-large` of a local workspace."""
    place = Location.of(workspace) / "benchmark-index-large"
    if place.is_local:
        place.make_dir()
    return _in_process("large", place.path if place.is_local else None)


def run(workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """All rows of `index`."""
    rows: list[Row] = []
    details: dict[str, Any] = {}
    for name in PARTS:
        found, details[name] = _in_process(name, None)
        rows += found
        console.print(f"{name}: " + ", ".join(f"{r.name} {r.value:.3g} {r.unit}" for r in found))
    return rows, details


def _in_process(name: str, directory: str | None) -> tuple[list[Row], dict[str, Any]]:
    """One part in a fresh process of one thread: libraries read their threads when they start."""
    command = [sys.executable, "-m", "jobs.benchmarks.index", name, *([directory] if directory else [])]
    done = subprocess.run(command, env=os.environ | ONE_THREAD, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout)
    return [Row(**row) for row in found["rows"]], found["details"]


def main() -> None:
    """One part, as JSON on stdout; a second argument is the directory for its files."""
    with tempfile.TemporaryDirectory() as root:
        rows, details = {**PARTS, "large": _large}[sys.argv[1]](Sizes(), Path(sys.argv[2] if len(sys.argv) > 2 else root))
    print(json.dumps({"rows": [asdict(row) for row in rows], "details": details}))


if __name__ == "__main__":
    main()
