"""Executing a plan: batches of tensors for one worker, in the plan's order, through Ray Data or through threads.

Both executors read windows and give the same batches. With Ray Data a read task is a run of windows of one lane, so
a row group is read once, on any node; several epochs are one execution, since starting one costs seconds. Meanwhile a thread
of the worker reads what comes first.
"""

from __future__ import annotations

import heapq
import itertools
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from fashion_dml.config import Data
from fashion_dml.data.ahead import ahead
from fashion_dml.data.batch import Batch, to_batch
from fashion_dml.data.placement import selector
from fashion_dml.data.plan import Cursor, Near, Plan, Window
from fashion_dml.data.ray_data import quiet_context, task_source
from fashion_dml.data.read import Sources, read_window, with_pixels
from fashion_dml.storage import UserError

TASK_IMAGES = 2048  # images that one read task emits, where memory allows: a task costs some 10 ms
BLOCK_BYTES = 4 << 20  # blocks reach the worker as they fill: small ones mean an early first batch
EXECUTION_TASKS = 4096  # read tasks of one Ray Data execution: all are listed when it starts, and starting costs a second
ENCODED_BYTES = (8 << 20) // 256  # of a stored image, at most on average: the limits of a row group
FEW_CPUS = 16


@dataclass
class StreamStats:
    """What the trainer sees of the stream: seconds it waited, in all and for the last batch, images, corrupt ones by id."""

    waited_seconds: float = 0.0
    last_wait: float = 0.0
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
    near: Near | None = None,
    early: bool = True,
) -> Generator[Batch]:
    """`steps` batches for worker `rank` of `workers`, from `start` on; `near` is for plans of hard classes.

    early: while Ray Data starts, a thread of this process reads the first run of each lane, where that fits `data.prefetch_bytes`; not
    where tasks decode, since one thread would be slower, nor where `sources.labels` says which nodes read. Raises UserError if a
    worker would get no lane, or when more than `data.max_corrupt` of the images are corrupt.
    """
    if workers > plan.lanes:
        few = plan.lanes < plan.settings.lanes  # row groups, so that more lanes can't be had by asking for them
        raise UserError(
            f"{workers} workers share the {plan.lanes} lanes of {', '.join(plan.verticals)}: every worker needs one; lower "
            f"cluster.team, or {'train them with other verticals in a group' if few else 'raise data.lanes'}."
        )
    lanes = list(range(rank, plan.lanes, workers))
    stats = stats if stats is not None else StreamStats()
    in_tasks = settings.executor == "ray" and decode_in_tasks(settings)
    pixels = settings.height * settings.width * 3
    room = settings.prefetch_bytes // (len(lanes) * (pixels if in_tasks else ENCODED_BYTES))
    runs = _runs(plan, lanes, start, steps, min(TASK_IMAGES, room))
    read = (plan, near, sources)
    if settings.executor != "ray":
        tables = _thread_tables(*read, runs)
    else:
        first: list[Run] = []
        if early and not in_tasks and not sources.labels:
            first = list(itertools.islice(runs, len(lanes)))
            if max((_images(plan, run) for run in first), default=0) > room:
                first, runs = [], itertools.chain(first, runs)
        tables = _one_while_other_starts(_early_tables(*read, first), _ray_tables(*read, runs, settings, in_tasks))
    of_step = len(lanes) * plan.images_per_step(start.epoch) // plan.lanes * pixels
    ready = max(1, min(settings.prefetch_batches, settings.prefetch_bytes // of_step))
    produced = 0
    with closing(ahead(_assemble(tables, lanes), lambda group: to_batch(group, settings, in_tasks), ready)) as batches:
        while produced < steps:
            began = time.perf_counter()
            batch = next(batches, None)
            stats.last_wait = time.perf_counter() - began
            stats.waited_seconds += stats.last_wait
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
    """Whether Ray Data tasks decode: by setting, or when the cluster has CPUs to spare for it.

    A worker's own thread keeps pixels, several times the bytes of a JPEG, out of the object store; tasks spread the decoding
    over all nodes. Either way the batches are the same.
    """
    if settings.decode != "auto":
        return settings.decode == "task"
    import ray

    return ray.is_initialized() and ray.cluster_resources().get("CPU", 0) >= FEW_CPUS


Run = list[Window]


def _runs(plan: Plan, lanes: list[int], start: Cursor, steps: int, images: int) -> Iterator[Run]:
    """Windows in runs of at most about `images` images of one lane, but one window at least; made as they are asked for.

    Ordered so that all lanes advance together.
    """
    of_lanes = (_lane_runs(plan, lane, start, steps, images) for lane in lanes)
    return heapq.merge(*of_lanes, key=lambda run: (run[0].epoch, run[0].first_step, run[0].lane))


def _lane_runs(plan: Plan, lane: int, start: Cursor, steps: int, images: int) -> Iterator[Run]:
    run: Run = []
    filled = 0
    for window in plan.windows(lane, start, steps):
        size = _images(plan, [window])
        if run and filled + size > images:
            yield run
            run, filled = [], 0
        run.append(window)
        filled += size
    if run:
        yield run


def _images(plan: Plan, run: Run) -> int:
    return sum(window.batches * window.units * plan.images_per_unit for window in run)


def _early_tables(plan: Plan, near: Near | None, sources: Sources, runs: list[Run]) -> Iterator[pa.Table]:
    """Runs of several lanes, a batch of each in turn, so that few wait for others; a window is read when it is needed."""
    lanes = [itertools.chain.from_iterable(read_window(plan, w, sources, near) for w in run) for run in runs]
    for tables in itertools.zip_longest(*lanes):
        yield from (table for table in tables if table is not None)


def _one_while_other_starts(one: Iterator[pa.Table], other: Generator[pa.Table]) -> Generator[pa.Table]:
    """All of one, then all of the other, whose first table is made in a thread meanwhile."""
    with closing(other), ThreadPoolExecutor(1, thread_name_prefix="stream-starts") as pool:
        begun = pool.submit(next, other, None)
        yield from one
        if (table := begun.result()) is not None:
            yield table
            yield from other


def _thread_tables(plan: Plan, near: Near | None, sources: Sources, runs: Iterator[Run]) -> Generator[pa.Table]:
    """Windows read one run ahead in a thread."""
    with closing(ahead(runs, lambda run: [t for w in run for t in read_window(plan, w, sources, near)], 1)) as ready:
        for tables in ready:
            yield from tables


def _ray_tables(
    plan: Plan, near: Near | None, sources: Sources, runs: Iterator[Run], settings: Data, in_tasks: bool
) -> Generator[pa.Table]:
    """Ray Data executions over all runs, one after the other; several epochs of a small dataset are one execution."""
    import ray
    from ray.data import DataContext, ExecutionResources

    if (first := next(runs, None)) is None:  # a short stream, read early as a whole
        return
    runs = itertools.chain([first], runs)
    shared = ray.put((plan, near))
    size = (settings.height, settings.width) if in_tasks else None
    blocks = max(1, min(settings.prefetch_batches, settings.prefetch_bytes // BLOCK_BYTES))
    context = quiet_context()
    context.execution_options.preserve_order = True
    context.execution_options.resource_limits = ExecutionResources.for_limits(object_store_memory=settings.prefetch_bytes)
    context.target_max_block_size = BLOCK_BYTES
    where = selector(sources.labels)
    while tasks := [_reader(shared, run, sources, size) for run in itertools.islice(runs, EXECUTION_TASKS)]:
        with DataContext.current(context):
            dataset = ray.data.read_datasource(task_source(tasks), override_num_blocks=len(tasks), num_cpus=0.25, **where)
        yield from _whole(dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=blocks))


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

        plan, near = ray.get(shared)
        for window in run:
            for table in read_window(plan, window, sources, near):
                yield table if size is None else with_pixels(table, *size)

    return read


def _assemble(tables: Iterable[pa.Table], lanes: list[int]) -> Iterator[list[pa.Table]]:
    """Batch t of every lane together: blocks come run by run, so those of a lane that is ahead wait here."""
    waiting: dict[int, list[pa.Table]] = {lane: [] for lane in lanes}
    for table in tables:
        waiting[table["lane"][0].as_py()].append(table)
        while all(waiting.values()):
            yield [waiting[lane].pop(0) for lane in lanes]
