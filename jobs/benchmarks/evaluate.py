"""Exact metrics against the matrix product alone, and against pytorch-metric-learning's AccuracyCalculator.

Ratios are of seconds measured in turns in one process on the same threads, medians of the repeats. The product is the whole
float32 one, in blocks that stay in the cache and are overwritten; the metrics are R@1, 5, 10, 20, P@1, MAP@R and R-Precision of
every image against all others. `time_over_pml_full_map` has mAP too, over all relevant items. Against the calculator all
values must be equal to 1e-6, on data without near-ties, whose order is chance; it searches with whichever of its own two
ways (CustomKNN, FAISS) is faster. Memory is the peak of a fresh process above its state with torch and the inputs loaded.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fashion_dml.evaluation.columns import Columns
from fashion_dml.evaluation.dense import not_below
from fashion_dml.evaluation.metrics import measure
from fashion_dml.evaluation.neighbours import TIE, normalised
from fashion_dml.storage import UserError
from jobs.benchmarks import Row
from jobs.benchmarks.memory import resident
from jobs.common import console

DIM = 128
ROWS, COLUMNS = 960, 4032
THEIRS = {"precision_at_1": "P@1", "r_precision": "R-Precision", "mean_average_precision_at_r": "MAP@R"}


@dataclass(frozen=True)
class Sizes:
    """Images of each measurement."""

    items: int = 60_000
    max_bin: int = 20_000
    full_map: int = 5_000
    repeats: int = 3


def clusters(count: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors [count, 128] float32 and labels [count]: 2 to 9 images of a product, products of 200 styles.

    At noise 2 and 60,000 images R@1 is near 0.6.
    """
    rng = np.random.default_rng(seed)
    sizes = rng.integers(2, 10, count)
    labels = np.repeat(np.arange(count), sizes)[:count]
    centres = rng.normal(size=(labels.max() + 1, DIM))
    centres += rng.normal(size=(200, DIM))[rng.integers(0, 200, len(centres))]
    order = rng.permutation(count)
    return normalised((centres[labels] + noise * rng.normal(size=(count, DIM)))[order].astype(np.float32)), labels[order]


def without_near_ties(count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """The same, in which no right and wrong score of a query are within 2 TIE: images of which one is are drawn again."""
    vectors, labels = clusters(count, noise)
    rng = np.random.default_rng(1)
    for _ in range(30):
        tied = near_ties(vectors, labels)
        if not len(tied):
            return vectors, labels
        vectors[tied] = normalised(vectors[tied] + rng.normal(scale=0.01, size=(len(tied), DIM)).astype(np.float32))
    raise UserError(f"{len(tied)} of {count} images still have near-ties; choose less noise.")


def near_ties(vectors: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Images [T] with a wrong score within 2 TIE of a right one."""
    columns = Columns.of(vectors, labels, "cpu")
    products = columns.find(labels)
    found = []
    marks = torch.empty(128, len(columns.vectors), dtype=torch.bool)
    for start in range(0, len(vectors), 128):
        rows = np.arange(start, min(start + 128, len(vectors)))
        scores = torch.from_numpy(vectors[rows]) @ columns.vectors.T
        row, own = torch.arange(len(rows))[:, None], torch.from_numpy(columns.of_products(products[rows]))
        right = scores[row, own].masked_fill(own == columns.count, torch.inf)
        scores[row, own] = -torch.inf
        near = torch.zeros(len(rows), dtype=torch.int64)
        for limit in right.split(1, dim=1):
            low, high = (not_below(scores, limit + sign * 2 * TIE, marks[: len(rows)]) for sign in (-1, 1))
            near += low - high
        found.append(rows[near.numpy() > 0])
    return np.concatenate(found)


def product(vectors: torch.Tensor) -> None:
    """The whole similarity matrix, block by block."""
    buffer = torch.empty(ROWS * COLUMNS)
    for rows in vectors.split(ROWS):
        for columns in vectors.split(COLUMNS):
            torch.mm(rows, columns.T, out=buffer[: len(rows) * len(columns)].view(len(rows), len(columns)))


def in_turns(repeats: int, **work: Callable[[], Any]) -> dict[str, list[float]]:
    """Seconds of each, once to warm up and then `repeats` times, one after the other; `cpu NAME`: of all its threads."""
    found: dict[str, list[float]] = {name: [] for name in (*work, *(f"cpu {name}" for name in work))}
    for repeat in range(repeats + 1):
        for name, run_once in work.items():
            began, cpu = time.perf_counter(), time.process_time()
            run_once()
            if repeat:
                found[name].append(time.perf_counter() - began)
                found[f"cpu {name}"].append(time.process_time() - cpu)
    return found


def over_product(sizes: Sizes) -> tuple[list[Row], dict[str, Any]]:
    """Our metrics over the product alone; with mAP and MRR as a row without a goal."""
    vectors, labels = clusters(sizes.items, 2.0)
    own, whole = np.arange(len(labels)), torch.from_numpy(vectors)
    seconds = in_turns(
        sizes.repeats,
        product=lambda: product(whole),
        metrics=lambda: measure(vectors, labels, vectors, labels, exclude=own, whole_list=False),
        whole_list=lambda: measure(vectors, labels, vectors, labels, exclude=own),
    )
    values = measure(vectors, labels, vectors, labels, exclude=own, whole_list=False).summary()
    one = statistics.median(seconds["product"])
    return [
        Row("time_over_gemm", statistics.median(seconds["metrics"]) / one, "ratio", 1.2, "lower"),
        Row("time_over_gemm_whole_list", statistics.median(seconds["whole_list"]) / one, "ratio", None, "lower"),
    ], {"seconds": seconds, "values": values}


def over_calculator(sizes: Sizes, full_map: bool) -> tuple[list[Row], dict[str, Any]]:
    """Ours over the faster of the calculator's two ways, values equal."""
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN, FaissKNN

    vectors, labels = without_near_ties(sizes.full_map if full_map else sizes.max_bin, 1.5)
    named = {**THEIRS, **({"mean_average_precision": "mAP"} if full_map else {})}
    k = None if full_map else "max_bin_count"
    custom, faiss = (
        AccuracyCalculator(include=tuple(named), k=k, knn_func=knn)
        for knn in (CustomKNN(CosineSimilarity(), batch_size=256), FaissKNN())
    )
    given, own = (torch.from_numpy(vectors), torch.from_numpy(labels)), np.arange(len(labels))
    values: dict[str, dict[str, float]] = {}

    def keep(name: str, compute: Callable[[], dict[str, float]]) -> Callable[[], None]:
        return lambda: values.update({name: compute()})

    seconds = in_turns(
        sizes.repeats,
        custom=keep("custom", lambda: custom.get_accuracy(*given)),
        faiss=keep("faiss", lambda: faiss.get_accuracy(*given)),
        ours=keep("ours", lambda: measure(vectors, labels, vectors, labels, exclude=own, whole_list=full_map).summary()),
        product=lambda: product(given[0]),
    )
    for theirs, mine in named.items():
        for name in ("custom", "faiss"):
            if abs(values[name][theirs] - values["ours"][mine]) > 1e-6:
                raise UserError(
                    f"{mine} is {values['ours'][mine]!r}, and pytorch-metric-learning's {values[name][theirs]!r} ({name})."
                )
    best = min(statistics.median(seconds["custom"]), statistics.median(seconds["faiss"]))
    name, goal = ("time_over_pml_full_map", 0.2) if full_map else ("time_over_pml_max_bin", 0.7)
    return [Row(name, statistics.median(seconds["ours"]) / best, "ratio", goal, "lower")], {
        "seconds": seconds,
        "values": values,
    }


def extra_memory(sizes: Sizes) -> tuple[list[Row], dict[str, Any]]:
    """Peak of a fresh process that measures, above its state before."""
    vectors, labels = clusters(sizes.items, 2.0)
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "vectors.npy", vectors)
        np.save(Path(folder) / "labels.npy", labels)
        command = [sys.executable, "-m", "jobs.benchmarks.evaluate", folder]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    return [Row("extra_memory_mb", found["extra"] / 1e6, "MB", 500, "lower")], found


def run(workspace: str, sizes: Sizes = Sizes()) -> tuple[list[Row], dict[str, Any]]:
    """All rows of `evaluate`, and what they were computed from."""
    rows: list[Row] = []
    details: dict[str, Any] = {"sizes": asdict(sizes), "threads": torch.get_num_threads(), "cpus": os.cpu_count()}
    for name, subject in (
        ("gemm", lambda: over_product(sizes)),
        ("pml_max_bin", lambda: over_calculator(sizes, False)),
        ("pml_full_map", lambda: over_calculator(sizes, True)),
        ("memory", lambda: extra_memory(sizes)),
    ):
        found, details[name] = subject()
        rows += found
        console.print(f"{name}: " + ", ".join(f"{r.name} {r.value:.3g} {r.unit}" for r in found))
    return rows, details


def main(folder: str) -> None:
    """The process that `extra_memory` measures."""
    vectors, labels = np.load(f"{folder}/vectors.npy"), np.load(f"{folder}/labels.npy")
    before = resident("VmRSS")
    measure(vectors, labels, vectors, labels, exclude=np.arange(len(labels)), whole_list=False)
    first = resident("VmHWM")
    measure(vectors, labels, vectors, labels, exclude=np.arange(len(labels)))
    print(json.dumps({"extra": first - before, "extra_whole_list": resident("VmHWM") - before, "before": before}))


if __name__ == "__main__":
    main(sys.argv[1])
