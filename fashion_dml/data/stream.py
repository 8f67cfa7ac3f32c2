"""Executing a plan: batches of tensors for one worker, in the plan's order, through Ray Data or through threads.

Both executors read windows and give the same batches. With Ray Data a read task is a run of windows of one lane, so
a row group is read once, on any node; several epochs are one execution, since starting one costs seconds.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fashion_dml.config import Data
from fashion_dml.data.plan import Cursor, Plan, Window
from fashion_dml.data.read import Sources, decode_batch, read_window
from fashion_dml.storage import UserError

TASK_IMAGES = 2048  # images that one read task emits, at least: a task costs some 10 ms
BLOCK_BYTES = 4 << 20  # blocks reach the worker as they fill: small ones mean an early first batch
FEW_CPUS = 16


@dataclass
class Batch:
    """One worker's part of a global batch; rows of its lanes, lane after lane.

    images uint8 [n, H, W, 3]; labels int64 [n]; lane int64 [n]; row int64 [n] (position in the lane's batch);
    targets float32 [n, D] or None. epoch and step are the plan's.
    """

    images: Tensor
    labels: Tensor
    lane: Tensor
    row: Tensor
    targets: Tensor | None
    epoch: int
    step: int
    corrupt: list[str] = field(default_factory=list)


@dataclass
class StreamStats:
    """What the trainer sees of the stream: seconds it waited, images, and corrupt ones by id."""

    waited_seconds: float = 0.0
    images: int = 0
    corrupt: list[str] = field(default_factory=list)


def stream(
    plan: Plan,
    sources: Sources,
    settings: Data,
    *,
    start: Cursor,
    steps: int,
    rank: int = 0,
    workers: int = 1,
    stats: StreamStats | None = None,
) -> Iterator[Batch]:
    """`steps` batches for worker `rank` of `workers`, from `start` on.

    Raises UserError if a worker would get no lane, or when more than `data.max_corrupt` of the images are corrupt.
    """
    if workers > plan.lanes:
        raise UserError(
            f"{workers} workers share the {plan.lanes} lanes of {', '.join(plan.verticals)}: every worker needs one; lower "
            f"cluster.team, or raise data.lanes or ingest.min_row_groups."
        )
    lanes = list(range(rank, plan.lanes, workers))
    stats = stats if stats is not None else StreamStats()
    in_tasks = settings.executor == "ray" and decode_in_tasks(settings)
    tables = (_ray_tables if settings.executor == "ray" else _thread_tables)(
        plan, sources, settings, lanes, start, steps, in_tasks
    )
    produced = 0
    with closing(
        _ahead(_assemble(tables, lanes), lambda group: _tensors(group, settings, in_tasks), settings.prefetch_batches)
    ) as batches:
        while produced < steps:
            began = time.perf_counter()
            batch = next(batches, None)
            stats.waited_seconds += time.perf_counter() - began
            if batch is None:
                raise RuntimeError(f"the stream ended after {produced} of {steps} batches")
            produced += 1
            stats.images += len(batch.images)
            stats.corrupt += batch.corrupt
            if len(stats.corrupt) > max(10, settings.max_corrupt * stats.images):
                raise UserError(
                    f"{len(stats.corrupt)} of {stats.images} images are corrupt, more than data.max_corrupt = {settings.max_corrupt:.1%}; "
                    f"the last is {stats.corrupt[-1]!r}: ingest the dataset again."
                )
            yield batch


def decode_in_tasks(settings: Data) -> bool:
    """Whether Ray Data tasks decode: by setting, or when the cluster has CPUs to spare for it."""
    if settings.decode != "auto":
        return settings.decode == "task"
    import ray

    return ray.is_initialized() and ray.cluster_resources().get("CPU", 0) >= FEW_CPUS


def _runs(plan: Plan, lanes: list[int], start: Cursor, steps: int) -> list[list[Window]]:
    """Windows in runs of about TASK_IMAGES images of one lane, ordered so that all lanes advance together."""
    per_unit = plan.settings.images_per_product if plan.settings.mode == "products" else 1
    runs: list[tuple[tuple[int, int, int], list[Window]]] = []
    for lane in lanes:
        run: list[Window] = []
        images = 0
        for window in plan.windows(lane, start, steps):
            run.append(window)
            images += window.batches * window.units * per_unit
            if images >= TASK_IMAGES:
                runs.append(((run[0].epoch, run[0].first_step, lane), run))
                run, images = [], 0
        if run:
            runs.append(((run[0].epoch, run[0].first_step, lane), run))
    return [run for _, run in sorted(runs, key=lambda r: r[0])]


def _pixels(table: pa.Table, height: int, width: int) -> pa.Table:
    """The table with decoded pixels (one binary value a row) in place of encoded bytes, for decoding in tasks."""
    pixels, shown, corrupt = decode_batch(table, height, width)
    data = pa.array([p.tobytes() for p in pixels], pa.binary())
    bad = pa.array([i if i in corrupt else "" for i in table["image_id"].to_pylist()])
    moved = table.take(pa.array(shown)) if corrupt else table
    at = moved.column_names.index("image")
    return moved.set_column(at, "image", data).append_column("corrupt", bad)


def _thread_tables(
    plan: Plan, sources: Sources, settings: Data, lanes: list[int], start: Cursor, steps: int, in_tasks: bool
) -> Iterator[pa.Table]:
    """Windows read one run ahead in a thread."""
    runs = _runs(plan, lanes, start, steps)
    with closing(_ahead(iter(runs), lambda run: [t for w in run for t in read_window(plan, w, sources)], 1)) as ready:
        for tables in ready:
            yield from tables


def _ray_tables(
    plan: Plan, sources: Sources, settings: Data, lanes: list[int], start: Cursor, steps: int, in_tasks: bool
) -> Iterator[pa.Table]:
    """One Ray Data execution over all runs."""
    import ray
    from ray.data import DataContext, Datasource, ReadTask
    from ray.data.block import BlockMetadata

    runs = _runs(plan, lanes, start, steps)
    shared = ray.put(plan)
    size = (settings.height, settings.width) if in_tasks else None

    class PlanSource(Datasource):
        """A read task is a run of windows."""

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *args: object, **kwargs: object) -> list[ReadTask]:
            return [
                ReadTask(
                    _reader(shared, run, sources, size),
                    BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None),
                )
                for run in runs
            ]

    context = DataContext.get_current().copy()
    context.execution_options.preserve_order = True
    context.execution_options.verbose_progress = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.target_max_block_size = BLOCK_BYTES
    with DataContext.current(context):
        dataset = ray.data.read_datasource(PlanSource(), override_num_blocks=len(runs), num_cpus=0.25)
    yield from _whole(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=settings.prefetch_batches))


def _whole(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    """Batches as they were read, from blocks that may hold several of them or a part of one."""
    rest: pa.Table | None = None
    for block in blocks:
        rest = block if rest is None else pa.concat_tables([rest, block])
        while rest.num_rows and rest.num_rows >= (size := rest["size"][0].as_py()):
            yield rest.slice(0, size).combine_chunks()
            rest = rest.slice(size)
    if rest is not None and rest.num_rows:
        raise RuntimeError(f"the stream ended within a batch: {rest.num_rows} rows are left")


def _reader(shared: Any, run: list[Window], sources: Sources, size: tuple[int, int] | None) -> Callable[[], Iterator[pa.Table]]:
    def read() -> Iterator[pa.Table]:
        import ray

        plan = ray.get(shared)
        for window in run:
            for table in read_window(plan, window, sources):
                yield table if size is None else _pixels(table, *size)

    return read


def _assemble(tables: Iterable[pa.Table], lanes: list[int]) -> Iterator[list[pa.Table]]:
    """Batch t of every lane together: blocks come run by run, so those of a lane that is ahead wait here."""
    waiting: dict[int, list[pa.Table]] = {lane: [] for lane in lanes}
    for table in tables:
        waiting[table["lane"][0].as_py()].append(table)
        while all(waiting.values()):
            yield [waiting[lane].pop(0) for lane in lanes]


def _tensors(group: list[pa.Table], settings: Data, in_tasks: bool) -> Batch:
    """Decode (unless tasks did) and put the lanes of one step together."""
    images, labels, lane, row, targets, corrupt = [], [], [], [], [], []
    steps = {(t["epoch"][0].as_py(), t["step"][0].as_py()) for t in group}
    if len(steps) != 1:
        raise RuntimeError(f"lanes are out of step: {sorted(steps)}")
    for table in group:
        if in_tasks:
            flat = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8)
            pixels = flat.reshape(table.num_rows, settings.height, settings.width, 3)
            corrupt += [i for i in table["corrupt"].to_pylist() if i]
        else:
            pixels, shown, bad = decode_batch(table, settings.height, settings.width)
            if bad:
                corrupt += bad
                table = table.take(pa.array(shown))
        images.append(pixels)
        labels.append(table["label"].to_numpy())
        lane.append(table["lane"].to_numpy())
        row.append(np.arange(table.num_rows))
        if "target" in table.column_names:
            values = table["target"].combine_chunks()
            targets.append(np.asarray(values.flatten()).reshape(table.num_rows, -1))
    (epoch, step) = steps.pop()
    return Batch(
        torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        torch.from_numpy(np.concatenate(lane).astype(np.int64)), torch.from_numpy(np.concatenate(row)),
        torch.from_numpy(np.concatenate(targets)) if targets else None, epoch, step, corrupt,
    )  # fmt: skip


def _ahead(source: Iterator[Any], work: Callable[[Any], Any], ahead: int) -> Generator[Any]:
    """work(item) for every item, in order, computed in one thread up to `ahead` results before they are asked for."""
    ready: queue.Queue[tuple[bool, object]] = queue.Queue(maxsize=max(1, ahead))
    stop = threading.Event()

    def put(item: tuple[bool, object]) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in source:
                if not put((True, work(item))):
                    return
            put((False, None))
        except BaseException as error:  # handed to the consumer, which raises it
            put((False, error))

    with ThreadPoolExecutor(1, thread_name_prefix="stream") as pool:
        pool.submit(run)
        try:
            while True:
                more, value = ready.get()
                if more:
                    yield value
                elif isinstance(value, BaseException):
                    raise value
                else:
                    return
        finally:
            stop.set()
