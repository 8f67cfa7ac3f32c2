"""The stream against its limits: the bare loop, a torch DataLoader, training on synthetic images; memory and start-up.

A rate is the images of all workers over the seconds of the slowest, each from its first batch on. Ratios of rates are medians over turns,
in each of which both sides are measured right after one another, in alternating order; that of memory is of the medians of fresh processes.
"""

from __future__ import annotations

import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import ray
import torch
from torch.utils.data import DataLoader, IterableDataset

from fashion_dml.config import Augment, Cluster, Data, Generated, Ingest, Loss, Model, Optim
from fashion_dml.data.augment import augment, draws
from fashion_dml.data.batch import Batch
from fashion_dml.data.plan import Cursor, Plan, PlanSettings
from fashion_dml.data.read import Sources, decode_batch, read_window
from fashion_dml.data.schema import Dataset
from fashion_dml.data.stream import StreamStats, stream
from fashion_dml.models.embedder import Embedder
from fashion_dml.training.optim import create_optimizer
from fashion_dml.training.task import MetricTask
from jobs.benchmarks import Row
from jobs.common import console
from jobs.ingest import IngestSettings, ingest

WORKERS = 2
REPEATS = 3
PRODUCTS = 60
STEPS, TURNS = 120, 6
TRAIN_STEPS = 20
# A real training is slower than its stream, which then waits with all it may hold: so here, with far more to come than fits
# (a step reads some 0.3 MB) and after the steps in which a list of thousands of read tasks is made.
TO_COME, WARM_STEPS = 500, 10
MANY_PRODUCTS = 10_000_000


def dataset_of(workspace: str, products: int) -> str:
    """A generated dataset of 4 verticals, made once; returns its address."""
    out = f"{workspace}/benchmark/products-{products}"
    settings = Ingest(generated=Generated(products_per_vertical=products, verticals=4, test_share=0), validation_share=0)
    ingest(IngestSettings(kind="generated", workspace=f"{workspace}/benchmark", out=out, ingest=settings))
    return out


def plan_of(address: str, products_per_batch: int = 16) -> tuple[Plan, Sources]:
    dataset = Dataset.open(address)
    products = dataset.products.filter(pc.field("split") == "train")
    settings = PlanSettings("vertical-wise", WORKERS, 2048, 0, products_per_batch=products_per_batch, images_per_product=2)
    return Plan(products, settings), Sources(f"{address}/images", "train")


def timed(batches: Iterator[Any], size: Callable[[Any], int]) -> tuple[int, float]:
    """Images after the first batch, and their seconds."""
    next(batches)
    first = time.perf_counter()
    images = sum(size(b) for b in batches)
    return images, time.perf_counter() - first


def rate(workers: Sequence[tuple[int, float]]) -> float:
    """Images/s of workers side by side, from the images and seconds of each."""
    return sum(images for images, _ in workers) / max(seconds for _, seconds in workers)


def _images(batch: Batch) -> int:
    return len(batch.images)


@ray.remote(num_cpus=0.5)
class StreamWorker:
    """One of two training workers, without the training."""

    def __init__(self, address: str) -> None:
        torch.set_num_threads(1)
        self.plan, self.sources = plan_of(address)

    def _stream(self, executor: str, rank: int, *, early: bool) -> Generator[Batch]:
        data = Data(executor=executor)
        return stream(self.plan, self.sources, data, start=Cursor(), steps=STEPS, rank=rank, workers=WORKERS, early=early)

    def timed(self, executor: str, rank: int) -> tuple[int, float]:
        """Images and seconds of an executor that reads everything itself."""
        return timed(self._stream(executor, rank, early=False), _images)

    def first(self, rank: int) -> float:
        """Seconds to the first batch, as trainings begin."""
        began = time.perf_counter()
        with closing(self._stream("ray", rank, early=True)) as batches:
            next(batches)
            return time.perf_counter() - began

    def peak(self, steps: int) -> int:
        """Peak resident bytes of this process after streaming."""
        for _ in stream(self.plan, self.sources, Data(), start=Cursor(), steps=steps):
            continue
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class PlanDataset(IterableDataset[tuple[torch.Tensor, torch.Tensor]]):
    """The same lanes and decoding for a torch DataLoader: worker w of 2 yields the batches of lane w."""

    def __init__(self, address: str, steps: int, data: Data) -> None:
        self.address, self.steps, self.data = address, steps, data

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        info = torch.utils.data.get_worker_info()
        assert info is not None
        plan, sources = plan_of(self.address)
        for window in plan.windows(info.id, Cursor(), self.steps):
            for table in read_window(plan, window, sources):
                pixels, _, _ = decode_batch(table, self.data.height, self.data.width)
                yield torch.from_numpy(pixels), torch.from_numpy(table["label"].to_numpy().copy())


def stream_rates(address: str) -> tuple[list[Row], dict[str, list[float]]]:
    """Ray Data against the bare loop and against a DataLoader, in turns."""
    workers = [StreamWorker.remote(address) for _ in range(WORKERS)]  # type: ignore[attr-defined]

    def both(executor: str) -> float:
        return rate(ray.get([w.timed.remote(executor, r) for r, w in enumerate(workers)]))

    def loader() -> float:
        batches = DataLoader(PlanDataset(address, STEPS, Data()), batch_size=None, num_workers=WORKERS, prefetch_factor=4)
        return rate([timed(iter(batches), lambda b: len(b[0]))])

    both("ray"), both("threads")  # warm up: imports, file cache
    found: dict[str, list[float]] = {n: [] for n in ("ray", "threads", "dataloader", "over_bare", "over_dataloader", "first")}
    for turn in range(TURNS):
        for side in ("threads", "ray", "dataloader")[:: 1 if turn % 2 else -1]:  # the machine's own drift falls on all
            found[side].append(loader() if side == "dataloader" else both(side))
        found["first"].append(max(ray.get([w.first.remote(r) for r, w in enumerate(workers)])))
        found["over_bare"].append(found["ray"][-1] / found["threads"][-1])
        found["over_dataloader"].append(found["ray"][-1] / found["dataloader"][-1])
    for worker in workers:
        ray.kill(worker)
    return [
        Row("ray_data_over_bare", statistics.median(found["over_bare"]), "ratio", 0.90, "higher"),
        Row("ray_data_over_dataloader", statistics.median(found["over_dataloader"]), "ratio", 0.90, "higher"),
        Row("first_batch_s", statistics.median(found["first"]), "s", None, "lower"),
    ], found


@ray.remote(num_cpus=0.5)
class Trainer:
    """Training steps on the stream or on synthetic images of the same shape."""

    def __init__(self, address: str) -> None:
        torch.set_num_threads(max(1, (os.cpu_count() or 1)))
        self.plan, self.sources = plan_of(address)
        self.data = Data(lanes=WORKERS)
        embedder = Embedder(Model(frozen_stages=4), self.data.height, self.data.width).to(memory_format=torch.channels_last)
        self.task = MetricTask(embedder, Loss())
        self.optimizer = create_optimizer(self.task, Optim())

    def _step(self, batch: Batch) -> None:
        uniform = draws(batch.lane, batch.row, seed=0, epoch=batch.epoch, step=batch.step)
        parts = self.task(augment(batch.images, Augment(), uniform), batch.labels, batch.lane, batch.row)
        self.optimizer.zero_grad(set_to_none=True)
        parts["loss"].backward()
        self.optimizer.step()

    def run(self, synthetic: bool) -> tuple[float, float]:
        """(images/s after the first steps, seconds waited for data meanwhile)."""
        stats = StreamStats()
        steps = TO_COME * TRAIN_STEPS
        with closing(
            stream(self.plan, self.sources, self.data, start=Cursor(), steps=steps, stats=stats, early=False)
        ) as streamed:
            batches: Iterator[Batch] = streamed
            if synthetic:
                one = next(streamed)
                streamed.close()
                batches = (replace(one, step=s) for s in itertools.count())
            self.task.train()
            for batch in itertools.islice(batches, WARM_STEPS):
                self._step(batch)
            stats.waited_seconds = 0.0
            began, images = time.perf_counter(), 0
            for batch in itertools.islice(batches, TRAIN_STEPS):
                self._step(batch)
                images += len(batch.images)
            return images / (time.perf_counter() - began), stats.waited_seconds


def train_rates(address: str) -> tuple[list[Row], dict[str, list[float]]]:
    """Training end to end against the same step on images that are in memory already."""
    trainer = Trainer.remote(address)  # type: ignore[attr-defined]
    found: dict[str, list[float]] = {"stream": [], "synthetic": [], "waited": []}
    for turn in range(TURNS):
        for synthetic in (True, False) if turn % 2 else (False, True):  # in turns: the machine's own drift falls on both
            images_per_s, waited = ray.get(trainer.run.remote(synthetic))
            found["synthetic" if synthetic else "stream"].append(images_per_s)
            if not synthetic:
                found["waited"].append(waited)
    ray.kill(trainer)
    ratio = statistics.median(a / b for a, b in zip(found["stream"], found["synthetic"], strict=True))
    return [Row("train_over_synthetic", ratio, "ratio", 0.95, "higher")], found


def memory_ratio(small: str, large: str) -> tuple[list[Row], dict[str, list[float]]]:
    """Peak memory of a worker that streams ten times the data, over that of one with one time; a fresh process each."""
    peaks: dict[str, list[float]] = {small: [], large: []}
    for _ in range(REPEATS):
        for address in (small, large):
            worker = StreamWorker.remote(address)  # type: ignore[attr-defined]
            plan, _ = plan_of(address)
            peaks[address].append(ray.get(worker.peak.remote(plan.steps(0))))
            ray.kill(worker)
    ratio = statistics.median(peaks[large]) / statistics.median(peaks[small])
    return [Row("worker_memory_10x_over_1x", ratio, "ratio", 1.05, "lower")], {"small": peaks[small], "large": peaks[large]}


def plan_memory() -> tuple[list[Row], dict[str, Any]]:
    """Peak memory and seconds of a process that builds a plan over ten million products and draws its first windows."""
    out = subprocess.run([sys.executable, "-m", "jobs.benchmarks.stream"], capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    return [Row("plan_10m_products_gib", found["bytes"] / 2**30, "GiB", 2.0, "lower")], found


def many_products(count: int) -> Any:
    """A products table as an ingest would write it: 64 products a row group, 128 row groups a shard."""
    import pyarrow as pa

    index = np.arange(count, dtype=np.int64)
    rows = (2 + index % 3).astype(np.int32)
    group = index // 64
    starts = np.cumsum(rows) - rows
    first = (starts - starts[(group * 64).astype(np.int64)]).astype(np.int32)
    vertical = pa.DictionaryArray.from_arrays(
        pa.array((group // 128 % 8).astype(np.int8)), pa.array([f"v{i}" for i in range(8)])
    )
    return pa.table(
        {"label": index, "vertical": vertical, "shard": (group // 1024).astype(np.int32),
         "row_group": (group % 1024).astype(np.int32), "first_row": first, "rows": rows}
    )  # fmt: skip


def run(workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """All rows of `stream`, and what they were computed from."""
    small, large = dataset_of(workspace, PRODUCTS), dataset_of(workspace, 10 * PRODUCTS)
    rows: list[Row] = []
    details: dict[str, Any] = {"cluster": Cluster().model_dump(), "turns": TURNS}
    for name, measure in (
        ("stream", lambda: stream_rates(small)),
        ("train", lambda: train_rates(small)),
        ("memory", lambda: memory_ratio(small, large)),
        ("plan", plan_memory),
    ):
        found, detail = measure()
        rows += found
        details[name] = detail
        console.print(f"{name}: " + ", ".join(f"{r.name} {r.value:.3g} {r.unit}" for r in found))
    return rows, details


def main() -> None:
    """The process that `plan_memory` measures."""
    table = many_products(MANY_PRODUCTS)
    began = time.perf_counter()
    plan = Plan(table, PlanSettings("vertical-wise", 64, 2048, 0))
    windows = [next(plan.windows(lane, Cursor(), 10)) for lane in range(plan.lanes)]
    picked = sum(len(p) for w in windows for p in plan.picks(w))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"bytes": peak, "seconds": time.perf_counter() - began, "picked": picked, "steps": plan.steps(0)}))


if __name__ == "__main__":
    main()
