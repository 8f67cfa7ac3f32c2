"""One run of specialists on raylets of its own, with what happened when: the process that `jobs.benchmarks.scale` starts.

    python -m jobs.benchmarks.scale_run FILE
    python -m jobs.benchmarks.scale_run --idle 3            prints the cores that three raylets take while nothing runs

Reads a `Run` from a JSON file; the last line it prints is a `Record` as JSON. Each raylet is a process with one CPU, so the workers stand on
different ones; the machine's cores are shared by all.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import ray
from ray.cluster_utils import Cluster

from fashion_dml.config import validate
from fashion_dml.data.ray_data import IDLE_READERS
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import Location, UserError
from fashion_dml.training.assignments import Assignment, TrainSettings, assignments
from fashion_dml.training.queue import Queue
from fashion_dml.training.specialists import train_queue
from jobs.benchmarks.ports import free_port
from jobs.common import connect

SAMPLE_S = 0.25
SETTLE_S, IDLE_S = 15.0, 15.0  # a raylet's helpers start for some seconds
STORE_BYTES = 64 << 20


@dataclass(frozen=True)
class Run:
    """settings: of `TrainSettings`, as nested values; home: where the models go, emptied before; store: measure that too."""

    dataset: str
    home: str
    settings: dict[str, Any]
    raylets: int
    store: bool = False


@dataclass(frozen=True)
class Event:
    """kind: take, step (reported from `step` on), end."""

    at: float
    kind: str
    name: str
    step: int = 0


@dataclass
class Record:
    """Seconds are those of time.time(). cpu: (when, core seconds of Ray's processes so far); trainings: name -> (steps, images)."""

    submitted: float
    trainings: dict[str, tuple[int, int]]
    events: list[Event] = field(default_factory=list)
    cpu: list[tuple[float, float]] = field(default_factory=list)
    store_bytes_s: float = 0.0
    failures: dict[str, str] = field(default_factory=dict)

    def as_json(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def of(cls, text: str) -> Record:
        found = json.loads(text)
        events, cpu = [Event(**e) for e in found["events"]], [(at, used) for at, used in found["cpu"]]
        trainings = {name: (steps, images) for name, (steps, images) in found["trainings"].items()}
        return cls(**{**found, "events": events, "cpu": cpu, "trainings": trainings})


class TimedQueue(Queue):
    """The queue, which also notes when trainings are taken, get on and end."""

    def __init__(self, todo: Sequence[Assignment] = ()) -> None:
        super().__init__(todo)
        self._events: list[Event] = []

    def take(self, team: int | None, turn: int) -> Assignment | None:
        found = super().take(team, turn)
        if found is not None:
            self._events.append(Event(time.time(), "take", found.name))
        return found

    def report(self, progress: dict[str, Any]) -> None:
        super().report(progress)
        if not progress.get("done"):
            self._events.append(Event(time.time(), "step", progress["name"], progress["step"]))

    def end(self, name: str, failure: str | None) -> None:
        super().end(name, failure)
        self._events.append(Event(time.time(), "end", name))

    def events(self) -> list[Event]:
        return self._events


@contextlib.contextmanager
def raylets(count: int, *, join: bool = True) -> Iterator[str]:
    """A Ray cluster of so many raylets on this machine; yields its dashboard's URL. It ends with the block, and nobody else's does.

    join: this process, which must be in no other, joins it.
    """
    os.environ.update(IDLE_READERS)
    cluster = Cluster()
    try:
        for number in range(count):  # the agent, which takes jobs, has a port of its own beside other Rays of this machine
            head: dict[str, Any] = {"include_dashboard": True, "dashboard_port": 0} if number == 0 else {}
            cluster.add_node(num_cpus=1, dashboard_agent_listen_port=free_port(), **head)
        if join:
            os.environ["RAY_ADDRESS"] = cluster.address
            connect()
        yield f"http://{cluster.webui_url}"
    finally:
        if join:
            ray.shutdown()
        cluster.shutdown()


class CpuTime:
    """Core seconds of this process's descendants, noted now and then by a thread."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, float]] = []
        self._seen: dict[int, float] = {}
        self._total = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> CpuTime:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_S):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    used = sum(process.cpu_times()[:2])
                    self._total += used - self._seen.get(process.pid, 0.0)
                    self._seen[process.pid] = used
            self.noted.append((time.time(), self._total))


def measure(run: Run) -> Record:
    """Train all specialists of the run. Raises UserError when one fails."""
    settings = validate(TrainSettings, run.settings)
    dataset = Dataset.open(run.dataset)
    shutil.rmtree(run.home, ignore_errors=True)
    todo = assignments(dataset, settings, joint=False)
    starts = {a.initial: a.settings for a in todo}
    with raylets(run.raylets), CpuTime() as cpu:
        record = Record(time.time(), {a.name: (a.recipe.steps, a.images) for a in todo})

        def watch(queue: Any, stop: threading.Event) -> None:
            stop.wait()
            record.events = ray.get(queue.events.remote())

        record.failures = train_queue(TimedQueue, (todo,), starts, settings.cluster, dataset, Location.of(run.home), watch)
        if run.store:
            record.store_bytes_s = _store()
    if record.failures:
        raise UserError("; ".join(f"{name}: {failure}" for name, failure in record.failures.items()))
    record.cpu = cpu.noted
    return record


def idle_cores(count: int) -> float:
    """Cores that so many raylets take, with their helpers, while nothing runs on them."""
    with raylets(count), CpuTime() as cpu:
        time.sleep(SETTLE_S + IDLE_S)
    settled = [noted for noted in cpu.noted if noted[0] >= cpu.noted[-1][0] - IDLE_S]
    return (settled[-1][1] - settled[0][1]) / (settled[-1][0] - settled[0][0])


def _store() -> float:
    """Bytes/s that the object store takes: the second of two puts, since the first also gets its pages."""
    pixels = np.zeros(STORE_BYTES, np.uint8)
    for _ in range(2):
        began = time.perf_counter()
        held = ray.put(pixels)
        seconds = time.perf_counter() - began
        del held
    return STORE_BYTES / seconds


if __name__ == "__main__":
    if sys.argv[1] == "--idle":
        print(idle_cores(int(sys.argv[2])))
    else:
        print(measure(Run(**json.loads(Path(sys.argv[1]).read_text()))).as_json())
