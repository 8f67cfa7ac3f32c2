"""How we run Ray Data: read tasks of our own, and executions that print nothing and leave the CPU to others.

The context goes along to every task, so whatever stands here is imported by the processes that read: no torch, which would take
longer to import than a task takes to read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pyarrow as pa

# What whoever starts Ray sets before that. The processes that read and decode are Ray's idle workers between two trainings, and Ray ends
# those beyond the number of cores after one idle second: each stream then begins with processes that first import pyarrow and Ray Data.
IDLE_READERS = {"RAY_idle_worker_killing_time_threshold_ms": "300000"}


class Unhurried:
    """An execution callback of Ray Data that pauses after each step of its scheduling loop.

    The loop waits for a task that has something to give. When the trainer is slower than the stream, all tasks have, and none may give
    it: the loop then turns without end in a thread of the trainer's process, holds Python's lock most of the time, and a
    training step on a CPU takes three times as long.
    """

    PAUSE = 0.02  # seconds: a step takes a millisecond, and prefetched batches last longer

    def on_execution_step(self, executor: Any) -> None:
        time.sleep(self.PAUSE)

    def before_execution_starts(self, executor: Any) -> None:
        """Nothing to do."""

    def after_execution_succeeds(self, executor: Any) -> None:
        """Nothing to do."""

    def after_execution_fails(self, executor: Any, error: Exception) -> None:
        """Nothing to do."""


def quiet_context() -> Any:
    """A copy of Ray Data's context whose executions print nothing and leave the CPU to the trainer."""
    from ray.data import DataContext

    context = DataContext.get_current().copy()
    context.custom_execution_callback_classes = [*context.custom_execution_callback_classes, Unhurried]  # type: ignore[list-item]
    context.execution_options.verbose_progress = False
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    # In place of one whose cause, a UserError perhaps, is lost between processes.
    context.raise_original_map_exception = True
    # Actors that hold a model are large by design, and cluster.cpus_per_worker says how many share a node.
    context.issue_detectors_config.high_memory_detector_config.detection_time_interval_s = -1
    return context


def task_source(tasks: list[Callable[[], Iterator[pa.Table]]]) -> Any:
    """A Ray Data source whose read tasks are these functions."""
    from ray.data import Datasource, ReadTask
    from ray.data.block import BlockMetadata

    class TaskSource(Datasource):
        """The tables that functions yield; unlike Ray's own sources, nothing is packed or cut."""

        def estimate_inmemory_data_size(self) -> int | None:
            return None

        def get_read_tasks(self, parallelism: int, *args: object, **kwargs: object) -> list[ReadTask]:
            unknown = BlockMetadata(num_rows=None, size_bytes=None, input_files=None, exec_stats=None)
            return [ReadTask(task, unknown) for task in tasks]

    return TaskSource()
