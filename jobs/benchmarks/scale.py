"""More workers and more nodes: a specialists' run with 1, 2 and 4 workers over as many raylets, and whether the simulator foresees it.

Rows `predicted_over_measured_makespan/N`: the larger over the smaller of the two, N workers. The simulator's costs are measured on another
run, of one worker and other trainings. Rows `images_per_s_over_one_worker/N`: what more workers bring on this machine, whose cores
they share. The details hold predictions for clusters that can't be had here: docs/scale.md says by which assumptions.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
from dataclasses import asdict
from typing import Any

from fashion_dml.config import Generated, Ingest
from fashion_dml.storage import Location
from jobs.benchmarks import Row
from jobs.benchmarks.scale_table import table
from jobs.benchmarks.simulate import Costs, Nodes, simulate

WORKERS = (1, 2, 4)
IMAGES = 32  # of a step: 16 products x 2
EPOCHS = 4.0
CALIBRATION = {"a-and-b": [0, 1], "c-and-d": [2, 3], "e": [4], "f": [5]}
MEASURED = {"a-b-and-c": [0, 1, 2], "d-and-e": [3, 4], "f": [5]}


def prepared(workspace: str, name: str) -> tuple[str, list[str]]:
    """(a workspace with a generated dataset of 6 verticals and nothing else, its verticals)."""
    from fashion_dml.data.schema import Dataset
    from jobs.ingest import IngestSettings, ingest

    home = f"{workspace}/benchmark/scale"
    drawn = Generated(products_per_vertical=128, verticals=6, max_variants=3, test_share=0, image_height=96, image_width=96)
    ingest(
        IngestSettings(kind="generated", workspace=home, ingest=Ingest(generated=drawn, short_side=96, validation_share=0.05))
    )
    run = f"{home}/{name}"
    shutil.rmtree(run, ignore_errors=True)
    os.makedirs(run)
    os.symlink(f"{home}/dataset", f"{run}/dataset")
    return run, Dataset.open(Location.of(f"{home}/dataset")).verticals("train")


def measured(workspace: str, name: str, groups: dict[str, list[int]], workers: int) -> dict[str, Any]:
    """What scale_run tells of a run with so many workers, each on a raylet of its own."""
    run, verticals = prepared(workspace, name)
    asked = {
        "workspace": run, "workers": workers, "raylets": workers, "epochs": EPOCHS,
        "groups": {group: [verticals[i] for i in members] for group, members in groups.items()},
    }  # fmt: skip
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | {"RAY_USAGE_STATS_ENABLED": "0"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.benchmarks.scale_run", json.dumps(asked)],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the run with {workers} workers failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def costs_of(run: dict[str, Any]) -> Costs:
    """What a training costs here, from a run of one worker: two long trainings, the first on a cold worker, then two short ones."""
    ends = sorted(run["ended"].items(), key=lambda e: e[1])
    names, times = [n for n, _ in ends], [0.0, *(t for _, t in ends)]
    took = {name: times[i + 1] - times[i] for i, name in enumerate(names)}
    steps = run["steps"]
    cold, warm, *short = names
    short_s, short_n = statistics.mean(took[n] for n in short), statistics.mean(steps[n] for n in short)
    step = (took[warm] - short_s) / (steps[warm] - short_n)
    total = sum(steps.values())
    fixed = max(0.0, short_s - short_n * step)
    first = max(0.0, took[cold] - steps[cold] * step - fixed)
    busy = run["cpu"]["training"] - len(names) * fixed - first  # what isn't steps keeps about one core busy
    return Costs(
        image_s=step / IMAGES, image_cpu_s=max(step, busy / total) / IMAGES, fixed_s=fixed, first_s=first, start_s=run["start"]
    )


def cores_left(run: dict[str, Any]) -> float:
    """Cores of this machine that Ray's own processes don't take, by what they took in a run."""
    return max(0.5, (os.cpu_count() or 1) - run["cpu"]["rest"] / run["makespan"])


def run(workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """All rows of `scale`, and what they were computed from."""
    calibration = measured(workspace, "calibration", CALIBRATION, 1)
    costs, cores = costs_of(calibration), cores_left(calibration)
    rows: list[Row] = []
    details: dict[str, Any] = {"calibration": calibration, "costs": asdict(costs), "cores": cores, "runs": {}}
    rates: dict[int, float] = {}
    for workers in WORKERS:
        found = measured(workspace, f"workers-{workers}", MEASURED, workers)
        said = simulate(list(found["steps"].values()), IMAGES, costs, Nodes(workers, cores=cores))
        ratio = said.makespan / found["makespan"]
        rates[workers] = sum(found["steps"].values()) * IMAGES / found["makespan"]
        details["runs"][workers] = found | {"predicted": asdict(said)}
        rows.append(Row(f"predicted_over_measured_makespan/{workers}", max(ratio, 1 / ratio), "ratio", 1.2, "lower"))
    rows += [
        Row(f"images_per_s_over_one_worker/{w}", rates[w] / rates[WORKERS[0]], "ratio", None, "higher") for w in WORKERS[1:]
    ]
    details["predictions"] = table()
    return rows, details
