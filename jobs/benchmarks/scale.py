"""How well a run's makespan is predicted: specialists with 1, 2 and 4 workers on raylets of this machine, and what GPUs would take.

Rows `predicted_over_measured_makespan/W`: the larger of predicted over measured and its inverse. The prediction knows the cost of a step
and of what surrounds it from a run of one worker on another catalogue (other products, verticals and lengths), how many cores there are,
how much cores that are all busy slow each other down from steps run side by side, and what a raylet more takes of them from raylets that
idle; the rest is `fashion_dml.training.simulate`. Machines that others share change their pace within minutes, so the same steps are
timed before and after every run, and costs are those of the pace at which a run ran (`pace_over_calibration` in the details). The
makespan is from the first training's begin, all workers standing, to the last published model; the start-up before it stands in the details.
Rows `images_per_s_over_one_worker/W`: of the same trainings; workers share the machine's cores, so this says what a core more is worth.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import torch

from fashion_dml.config import Data, Generated, Ingest, Model
from fashion_dml.data.ingest import finish, prepare
from fashion_dml.data.schema import Dataset
from fashion_dml.data.shards import write_part
from fashion_dml.data.sources.generated.source import read_generated
from fashion_dml.storage import Location, UserError, read_manifest
from fashion_dml.training.simulate import simulate
from jobs.benchmarks import Row
from jobs.benchmarks.scale_costs import Parts, Times, decode_seconds, free_cores, jobs_of, parts, side_by_side, times
from jobs.benchmarks.scale_run import Record, Run
from jobs.benchmarks.scale_table import ScaleSettings, markdown, predictions
from jobs.common import console

MODEL = Model(trunk="test_efficientnet", weights="none", dim=64)
DATA = Data(height=64, width=64, lanes=2)
LIMIT = 1.2  # predicted over measured, either way
RAYLETS = (1, 4)  # that idle, to see what one more takes
PACE_TURNS = 60  # steps on every core at once, before and after each run
DRAFT_S = 900  # a run that takes longer hangs


@dataclasses.dataclass(frozen=True)
class Sizes:
    """products: of a vertical; epochs: passes of a specialist; workers: of the runs that are predicted."""

    products: int = 64
    epochs: int = 40
    calibration_epochs: int = 30
    keep_every: int = 50
    products_per_batch: int = 16
    workers: tuple[int, ...] = (1, 2, 4)


def catalogue(out: str, seed: int, generated: Generated, short_side: int = 128) -> str:
    """A generated dataset, made once; returns its address."""
    location = Location.of(out)
    settings = Ingest(generated=generated, validation_share=0.1, short_side=short_side)
    config = {"seed": seed, "ingest": settings.model_dump(mode="json")}
    known = read_manifest(location)
    if known is None or known["config"] != config:
        rows, reader = read_generated(generated, seed)
        prepared = prepare(rows, "the generated catalogue", settings, seed, {})
        reports = [write_part(location, w.part, w.rows, reader, settings, w.images_per_group, w.key) for w in prepared.work]
        finish(location, prepared, reports, settings, config, {}, 0.0)
    return out


def settings_of(
    workers: int,
    groups: dict[str, list[str]],
    epochs: int,
    batch: int,
    keep_every: int,
    model: Model = MODEL,
    data: Data = DATA,
) -> dict[str, Any]:
    """Of one run, batch: products of a lane's; a worker takes most of its raylet's CPU, and the rest is for reading."""
    return {
        "data": data.model_dump(mode="json"), "model": model.model_dump(mode="json"),
        "specialists": {
            "epochs": epochs, "min_steps": 1, "products_per_batch": batch, "groups": groups, "joint": False,
            "validate_every": keep_every, "checkpoint_every": keep_every,
        },
        "cluster": {"workers": workers, "cpus_per_worker": 0.75, "threads_per_worker": 1, "max_failures": 0},
    }  # fmt: skip


def measured(run: Run) -> Record:
    """The record of a run in processes of its own. Raises UserError when it fails."""
    with tempfile.TemporaryDirectory() as home:
        file = Path(home) / "run.json"
        file.write_text(json.dumps(dataclasses.asdict(run)))
        return Record.of(_apart(str(file)))


def raylet_cores() -> float:
    """Cores that one raylet more takes while nothing runs on it."""
    few, many = RAYLETS
    return max(0.0, float(_apart("--idle", str(many))) - float(_apart("--idle", str(few)))) / (many - few)


def _apart(*arguments: str) -> str:
    """The last line that `scale_run` prints in a process of its own. Raises UserError when it fails."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    command = [sys.executable, "-m", "jobs.benchmarks.scale_run", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=clean, check=False, timeout=DRAFT_S)
    if done.returncode:
        raise UserError(f"A run on raylets failed: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")
    return done.stdout.strip().splitlines()[-1]


def files_of(dataset: str, most: int = 200) -> list[bytes]:
    """Image files of a dataset's first part."""
    part = sorted(Path(dataset, "images").rglob("*.parquet"))[0]
    found: list[bytes] = pq.read_table(part, columns=["image"])["image"].to_pylist()
    return found[:most]


def run(workspace: str, sizes: Sizes = Sizes()) -> tuple[list[Row], dict[str, Any]]:
    """All rows of `scale`, and what they were computed from."""
    home = f"{workspace}/benchmark/scale"
    generated = Generated(products_per_vertical=sizes.products, verticals=8, test_share=0)
    other = catalogue(
        f"{home}/calibration",
        1,
        generated.model_copy(update={"verticals": 3, "products_per_vertical": sizes.products * 5 // 4}),
    )
    tall = Generated(products_per_vertical=20, verticals=1, test_share=0, image_height=384, image_width=256)
    large = catalogue(f"{home}/large", 2, tall, short_side=256)
    dataset = catalogue(f"{home}/dataset", 0, generated)
    names = _verticals(dataset)
    kept = sizes.products_per_batch, sizes.keep_every
    groups = {"three": names[:3], "two": names[3:5]}
    batch = DATA.lanes * sizes.products_per_batch * 2
    cores = os.cpu_count() or 1
    alone, together = (side_by_side(MODEL, DATA.height, DATA.width, batch, n) for n in (1, cores))
    console.print(f"a step of {batch} images: {1000 * alone:.0f} ms, {1000 * together:.0f} ms on every core at once")

    def pace() -> float:
        """Seconds of a step on every core at once, now."""
        return side_by_side(MODEL, DATA.height, DATA.width, batch, cores, PACE_TURNS)

    pair = {"pair": _verticals(other)[:2]}
    paces = [pace()]
    calibration = measured(
        Run(other, f"{home}/models", settings_of(1, pair, sizes.calibration_epochs, *kept), raylets=1, store=True)
    )
    paces.append(pace())
    costs = parts(calibration, sizes.keep_every)
    capacity, each = free_cores(alone, together, cores, costs), raylet_cores()
    console.print(
        f"one worker on another catalogue: {_told(costs)}; {capacity:.2f} cores when all are busy, {each:.2f} less for each raylet more"
    )
    found = {}
    for n in sizes.workers:
        found[n] = measured(Run(dataset, f"{home}/models", settings_of(n, groups, sizes.epochs, *kept), raylets=n))
        paces.append(pace())
    around = [(before + after) / 2 for before, after in itertools.pairwise(paces)]
    slower = {n: around[i + 1] / around[0] for i, n in enumerate(sizes.workers)}
    rows, shown = compared(found, costs, capacity, sizes.keep_every, each, slower)
    details: dict[str, Any] = {
        "step_alone_s": alone, "step_on_every_core_s": together, "free_cores": capacity, "raylet_cores": each, "parts": dataclasses.asdict(costs),
        "calibration": _details(calibration, costs, sizes.keep_every), "runs": shown,
        "decode_s": {f"{DATA.height}x{DATA.width}": decode_seconds(files_of(dataset), DATA.height, DATA.width),
                     "224x224 of 384x256": decode_seconds(files_of(large), 224, 224)},
        "store_bytes_s": calibration.store_bytes_s, "torch": torch.__version__,
    }  # fmt: skip
    table = predictions(ScaleSettings())
    console.print(markdown(table))
    return rows, details | {"predictions": [p.as_dict() for p in table]}


def compared(
    found: dict[int, Record], costs: Parts, capacity: float, keep_every: int, raylet: float, slower: dict[int, float]
) -> tuple[list[Row], dict[str, Any]]:
    """Rows of the runs by workers, each on a raylet of its own, and what they were computed from.

    raylet: cores that one more takes; slower: by workers, how many times longer a step took around the run than around the
    calibration.
    """
    rows, more, shown = [], [], {}
    first = times(next(iter(found.values())))
    for workers, record in found.items():
        predicted = simulate(
            jobs_of(record, costs, keep_every), workers, {"cores": max(0.1, capacity - raylet * (workers - 1))}
        )
        took = times(record)
        ratio = slower[workers] * predicted.makespan / took.makespan
        rows.append(Row(f"predicted_over_measured_makespan/{workers}", max(ratio, 1 / ratio), "ratio", LIMIT, "lower"))
        if workers > 1:
            name = f"images_per_s_over_one_worker/{workers}"
            more.append(Row(name, first.makespan / took.makespan, "ratio", None, "higher"))
        begun = min(e.at for e in record.events if e.kind == "take")
        shown[str(workers)] = _details(record, parts(record, keep_every), keep_every) | {
            "predicted_over_measured": ratio, "pace_over_calibration": slower[workers],
            "predicted_ends": {name: slower[workers] * end for name, end in predicted.ends.items()},
            "ends": {e.name: round(e.at - begun, 2) for e in record.events if e.kind == "end"},
        }  # fmt: skip
        console.print(
            f"{workers} workers: {took.makespan:.1f} s after {took.startup:.1f} s, a step {slower[workers]:.2f} times the calibration's, "
            f"predicted over measured {ratio:.2f}"
        )
    return rows + more, shown


def _verticals(dataset: str) -> list[str]:
    return Dataset.open(dataset).verticals("train")


def _details(record: Record, costs: Parts, keep_every: int) -> dict[str, Any]:
    took: Times = times(record)
    images = sum(images for _, images in record.trainings.values())
    return {
        "startup_s": took.startup, "makespan_s": took.makespan, "images_per_s": images / took.makespan,
        "trainings": record.trainings, "parts": dataclasses.asdict(costs),
    }  # fmt: skip


def _told(costs: Parts) -> str:
    return ", ".join(
        f"{name} {part.seconds:.3g} s ({part.cores:.3g} core s)" for name, part in ((f.name, getattr(costs, f.name)) for f in dataclasses.fields(costs))
    )  # fmt: skip
