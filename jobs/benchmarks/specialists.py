"""ONE run of all specialists against the least its workers could take, and against a job for each; how soon a job trains.

Two workers on two raylets of this machine train eight generated verticals with EfficientNet-Lite0. A step's seconds are those of that
run, the median of the times between two reports with no validation or checkpoint between them, so other work on the machine slows both
sides alike, and steps that are slower while a stream starts count as what they are: a cost of one more training.

Row `makespan_over_ideal`: from the first training's begin to the last one's end, over the sum of all steps' seconds / workers. Row
`seconds_per_added_specialist`: of its worker, beside its steps: model, plan, first batch, validations, checkpoints, publishing; the
median of those that weren't a worker's first. Row `time_over_a_job_each`: submission to the last end, over what a run for each specialist
takes, as many at a time as there are workers; so many such runs are measured, side by side on a Ray each, and the others are taken to cost
what these do. Ray's own start is in neither.
Rows `seconds_to_first_step/...`: `ray job submit` of `jobs.train_specialists` on a Ray that is up, until it tells of the first step
(it looks every second), and the same step in a plain process with torch's DataLoader, without Ray.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fashion_dml.config import Data, Generated, Model
from fashion_dml.storage import UserError
from jobs.benchmarks import Row
from jobs.benchmarks.scale import catalogue, measured, settings_of
from jobs.benchmarks.scale_costs import intervals, parts, times
from jobs.benchmarks.scale_run import Record, Run, raylets

ROOT = Path(__file__).resolve().parents[2]
MODEL, DATA = Model(weights="none", frozen_stages=4), Data(height=96, width=72)
RAY = str(Path(sys.executable).parent / "ray")
WAIT_S = 300  # for a first step
READY_S = 60  # for a cluster to take jobs


@dataclass(frozen=True)
class Sizes:
    """products: of a vertical; epochs: passes of a specialist; turns: starts of each kind."""

    products: int = 64
    verticals: int = 8
    epochs: int = 100
    keep_every: int = 50
    products_per_batch: int = 16
    workers: int = 2
    turns: int = 3


def overheads(record: Record, step_seconds: float) -> dict[str, float]:
    """Seconds of each training beside its steps, of those that follow another one on their worker."""
    first, last = _of_kind(record, "take"), _of_kind(record, "end")
    later = {name for name, at in first.items() if any(end <= at for end in last.values())}
    return {name: last[name] - first[name] - record.trainings[name][0] * step_seconds for name in sorted(later)}


def _of_kind(record: Record, kind: str) -> dict[str, float]:
    return {e.name: e.at for e in record.events if e.kind == kind}


def together(record: Record, apart: Sequence[Record], sizes: Sizes) -> tuple[list[Row], dict[str, Any]]:
    """The rows of one run of all, with what they were computed from. apart: runs of one specialist each, of the same length, side by side."""
    costs, took = parts(record, sizes.keep_every), times(record)
    step = statistics.median((b.at - a.at) / (b.step - a.step) for a, b in intervals(record, sizes.keep_every)["step"])
    single = [times(r) for r in apart]
    steps = {name: n for name, (n, _) in record.trainings.items()}
    ideal = sum(steps.values()) * step / sizes.workers
    beside = overheads(record, step)
    each = statistics.fmean(t.startup + t.makespan for t in single) * len(steps) / sizes.workers
    rows = [
        Row("makespan_over_ideal", took.makespan / ideal, "ratio", 1.15, "lower"),
        Row("seconds_per_added_specialist", statistics.median(beside.values()), "s", 3.0, "lower"),
        Row("time_over_a_job_each", (took.startup + took.makespan) / each, "ratio", None, "lower"),
    ]
    return rows, {
        "steps": steps, "step_s": step, "ideal_s": ideal, "makespan_s": took.makespan, "startup_s": took.startup,
        "beside_steps_s": beside, "apart": [asdict(t) for t in single], "parts": asdict(costs),
    }  # fmt: skip


def takes_jobs(url: str) -> None:
    """Wait until the Ray at `url` has run a job. Raises UserError."""
    end = time.monotonic() + READY_S
    while (
        done := subprocess.run(
            [RAY, "job", "submit", "--address", url, "--", "true"], capture_output=True, text=True, check=False
        )
    ).returncode:
        if time.monotonic() > end:
            raise UserError(f"The Ray at {url} took no job within {READY_S} s: {done.stderr.strip()[-200:]}")


def submitted(url: str, workspace: str) -> float:
    """Seconds from `ray job submit` to its word of the first step, on the Ray at `url`; the job is then stopped."""
    job = f"first-step-{os.getpid()}-{time.monotonic_ns()}"
    at = ["--address", url]
    submit = [RAY, "job", "submit", *at, "--submission-id", job, "--log-style=record", "--working-dir", str(ROOT), "--"]
    train = [sys.executable, "-m", "jobs.train_specialists", "--workspace", workspace, "--specialists.joint=false"]
    size = [f"--data.height={DATA.height}", f"--data.width={DATA.width}"]
    model = [f"--model.trunk={MODEL.trunk}", f"--model.weights={MODEL.weights}"]
    began = time.monotonic()
    process = subprocess.Popen(
        [*submit, *train, *size, *model], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=ROOT
    )
    late = threading.Timer(WAIT_S, process.kill)  # so that a job that says nothing ends the wait, too
    late.start()
    assert process.stdout is not None
    seen: list[str] = []
    try:
        for line in process.stdout:
            seen.append(line)
            if ": step " in line:
                return time.monotonic() - began
        raise UserError(f"The job ended, or trained nothing within {WAIT_S} s: {''.join(seen[-3:]).strip()}")
    finally:
        late.cancel()
        subprocess.run([RAY, "job", "stop", *at, job], capture_output=True, check=False)
        process.wait()


def plain(workspace: str, sizes: Sizes) -> float:
    """Seconds until a process that trains with torch alone has made its first step."""
    began = time.monotonic()
    what = [f"{workspace}/dataset", MODEL.trunk, *map(str, (DATA.height, DATA.width, sizes.products_per_batch))]
    command = [sys.executable, "-m", "jobs.benchmarks.plain_step", *what]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"The plain process failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return float(done.stdout.split()[-1]) - began


def first_steps(sizes: Sizes) -> tuple[list[Row], dict[str, Any]]:
    """Rows of how soon training begins, in turns."""
    seconds: dict[str, list[float]] = defaultdict(list)
    # This process joins no cluster. The directory is one where no training was begun.
    with raylets(sizes.workers, join=False) as url, tempfile.TemporaryDirectory() as fresh:
        takes_jobs(url)
        for turn in range(sizes.turns):
            home = f"{fresh}/{turn}"
            catalogue(f"{home}/dataset", 0, Generated(products_per_vertical=sizes.products, verticals=2, test_share=0))
            seconds["submit"].append(submitted(url, home))
            seconds["plain torch"].append(plain(home, sizes))
    rows = [Row(f"seconds_to_first_step/{name}", statistics.median(s), "s", None, "lower") for name, s in seconds.items()]
    return rows, dict(seconds)


def run(workspace: str, sizes: Sizes = Sizes()) -> tuple[list[Row], dict[str, Any]]:
    """All rows of `specialists`."""
    home = f"{workspace}/benchmark/specialists"

    def prepared(verticals: int, workers: int, models: str) -> Run:
        generated = Generated(products_per_vertical=sizes.products, verticals=verticals, test_share=0)
        dataset = catalogue(f"{home}/{verticals}/dataset", 0, generated)
        settings = settings_of(workers, {}, sizes.epochs, sizes.products_per_batch, sizes.keep_every, MODEL, DATA)
        return Run(dataset, f"{home}/{models}", settings, raylets=workers)

    record = measured(prepared(sizes.verticals, sizes.workers, "models"))
    alone = [prepared(1, 1, f"models-{i}") for i in range(sizes.workers)]
    with ThreadPoolExecutor(sizes.workers) as pool:
        apart = list(pool.map(measured, alone))
    rows, details = together(record, apart, sizes)
    begun, starts = first_steps(sizes)
    return rows + begun, details | {"seconds_to_first_step": starts}
