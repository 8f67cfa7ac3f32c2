"""Costs of the parts of a training on this machine: from the record of a run of one worker, and from parts run alone."""

from __future__ import annotations

import bisect
import itertools
import statistics
import time
from collections import defaultdict
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from typing import Any

import torch

from fashion_dml.config import Model
from fashion_dml.data.decode import decode
from fashion_dml.models.embedder import Embedder
from fashion_dml.storage import UserError
from fashion_dml.training.simulate import Job, Phase
from jobs.benchmarks.scale_run import Event, Record

TURNS = 12  # of a quick look


@dataclass(frozen=True)
class Part:
    """What something takes of one worker alone: seconds, and core seconds of all its processes."""

    seconds: float
    cores: float

    def phase(self, times: float = 1.0) -> Phase:
        return Phase(times * self.seconds, {"cores": self.cores / self.seconds if self.seconds else 0.0})


@dataclass(frozen=True)
class Parts:
    """Of a training: before its first step on a new worker (first) and on one that has trained (later), a step, a validation
    with its checkpoint, and from the last step to the published model."""

    first: Part
    later: Part
    step: Part
    keep: Part
    publish: Part


@dataclass(frozen=True)
class Times:
    """Of a run, seconds: from submission to the first training's begin, and from there to the last one's end."""

    startup: float
    makespan: float


def times(record: Record) -> Times:
    """When a run's trainings began and ended."""
    begun = min(e.at for e in record.events if e.kind == "take")
    ended = max(e.at for e in record.events if e.kind == "end")
    return Times(begun - record.submitted, ended - begun)


def intervals(record: Record, keep_every: int) -> dict[str, list[tuple[Event, Event]]]:
    """The times between two events of a training, by what was done in them: step, or what else `Parts` names."""
    found: dict[str, list[tuple[Event, Event]]] = defaultdict(list)
    by_name: dict[str, list[Event]] = defaultdict(list)
    for event in record.events:
        by_name[event.name].append(event)
    for number, events in enumerate(sorted(by_name.values(), key=lambda events: events[0].at)):
        for a, b in itertools.pairwise(events):
            kind = "step"
            if a.kind == "take":
                kind = "later" if number else "first"
            elif b.kind == "end":
                kind = "publish"
            elif a.step % keep_every == 0:
                kind = "keep"
            found[kind].append((a, b))
    return found


def parts(record: Record, keep_every: int) -> Parts:
    """The costs that a run of one worker shows. It must have trained twice at least, and both with and without validations."""
    found = {  # seconds, core seconds, steps
        kind: [(b.at - a.at, _cpu(record, b.at) - _cpu(record, a.at), b.step - a.step if b.step else 0) for a, b in pairs]
        for kind, pairs in intervals(record, keep_every).items()
    }
    if missing := {"first", "later", "step", "keep", "publish"} - set(found):
        raise UserError(f"The run shows no {', '.join(sorted(missing))}: let it train longer, and more than one training.")
    steps = sum(n for *_, n in found["step"])
    step = Part(sum(s for s, *_ in found["step"]) / steps, sum(c for _, c, _ in found["step"]) / steps)

    def beyond(kind: str) -> Part:
        """The mean of a part, less the steps that it holds."""
        several = found[kind]
        return Part(
            max(0.0, statistics.fmean(s - n * step.seconds for s, _, n in several)),
            max(0.0, statistics.fmean(c - n * step.cores for _, c, n in several)),
        )

    return Parts(beyond("first"), beyond("later"), step, beyond("keep"), beyond("publish"))


def _cpu(record: Record, at: float) -> float:
    """Core seconds until then, between two samples by a straight line."""
    i = bisect.bisect_left(record.cpu, (at, 0.0))
    if not 0 < i < len(record.cpu):
        return record.cpu[min(i, len(record.cpu) - 1)][1]
    (t0, c0), (t1, c1) = record.cpu[i - 1], record.cpu[i]
    return c0 + (c1 - c0) * (at - t0) / (t1 - t0)


def jobs_of(record: Record, costs: Parts, keep_every: int) -> list[Job]:
    """The trainings of a run (its steps and images only, not its times) at these costs."""
    found = []
    for name, (steps, images) in record.trainings.items():
        work = (costs.step.phase(steps), costs.keep.phase((steps - 1) // keep_every), costs.publish.phase())
        found.append(Job(name, images, work, (costs.first.phase(),), (costs.later.phase(),)))
    return found


def free_cores(alone: float, together: float, cores: int, costs: Parts) -> float:
    """How many cores' work the machine does when all are busy, in cores as busy as in the run that the costs are from.

    alone, together: seconds of a step in one process, and in a process on every core at once. A core next to busy ones does
    less; how much less is taken to grow with the share of the others that are busy.
    """
    lost = max(1.0, together / alone) - 1
    others = min(1.0, max(0.0, costs.step.cores / costs.step.seconds - 1) / (cores - 1)) if cores > 1 else 0.0
    return cores * (1 + lost * others) / (1 + lost)


def side_by_side(model: Model, height: int, width: int, batch: int, processes: int, turns: int = TURNS) -> float:
    """Median seconds of a forward and backward pass, one thread each, in so many processes at once."""
    context = get_context("spawn")
    ready, results = context.Barrier(processes), context.SimpleQueue()
    running = [
        context.Process(target=_steps, args=(model, height, width, batch, turns, ready, results), daemon=True)
        for _ in range(processes)
    ]
    for process in running:
        process.start()
    found = [results.get() for _ in running]
    for process in running:
        process.join()
    return statistics.median(found)


def _steps(model: Model, height: int, width: int, batch: int, turns: int, ready: Barrier, results: Any) -> None:
    torch.set_num_threads(1)
    embedder = Embedder(model, height, width).train().to(memory_format=torch.channels_last)
    images = torch.rand(batch, 3, height, width).contiguous(memory_format=torch.channels_last)
    seconds = []
    for turn in range(turns + 2):
        if turn == 2:
            ready.wait()
        began = time.perf_counter()
        embedder(images).sum().backward()
        seconds.append(time.perf_counter() - began)
    results.put(statistics.median(seconds[2:]))


def decode_seconds(files: list[bytes], height: int, width: int) -> float:
    """Median core seconds to make an image's file pixels."""
    seconds = []
    for data in files:
        began = time.perf_counter()
        decode(data, height, width)
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)
