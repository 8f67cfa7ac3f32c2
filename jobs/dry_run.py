"""`python -m jobs.pipeline --dry-run`: the stages, what of them is there, their sizes, and about how long they take here."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fashion_dml.config import Data, JobSettings
from fashion_dml.data.schema import SPLITS, Dataset
from fashion_dml.storage import Location, read_manifest
from fashion_dml.training.assignments import TrainSettings, assignments
from fashion_dml.training.recipe import finished
from fashion_dml.training.student import (
    UNIFIED,
    DistillSettings,
    distill_plan,
    finetune_data,
    finetune_plan,
    further_teachers,
    recipes_for,
    unified_key,
)
from fashion_dml.training.teachers import read_teachers
from jobs.common import console, print_table
from jobs.embed import EmbedSettings
from jobs.ingest import IngestSettings, read_source

TRIAL_IMAGES, TRIALS = 32, 3
MODELS = 4  # that an evaluation embeds with: pretrained trunk, specialists, joint model, unified model


@dataclass(frozen=True)
class Stage:
    """A line of the table; seconds None: not estimated."""

    name: str
    state: str
    size: str
    seconds: float | None


def rates(settings: TrainSettings) -> tuple[float, float, str]:
    """(training, embedding) images a second of this machine, and of what of it, by a short trial with random weights."""
    import torch  # not where nothing is timed

    from fashion_dml.models.embedder import Embedder

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    height, width = settings.data.height, settings.data.width
    model = Embedder(settings.model.model_copy(update={"weights": "none"}), height, width).to(device)
    model.to(memory_format=torch.channels_last)
    images = torch.rand(TRIAL_IMAGES, 3, height, width, device=device).contiguous(memory_format=torch.channels_last)

    def train() -> None:
        model.train()
        model(images).sum().backward()

    def embed() -> None:
        with torch.inference_mode():
            model.eval()(images)

    def rate(work: Callable[[], None]) -> float:
        work()
        seconds = []
        for _ in range(TRIALS):
            began = time.perf_counter()
            work()
            if device.type == "cuda":
                torch.cuda.synchronize()
            seconds.append(time.perf_counter() - began)
        return TRIAL_IMAGES / statistics.median(seconds)

    of = "this machine's GPU" if device.type == "cuda" else f"all {torch.get_num_threads()} cores of this machine"
    return rate(train), rate(embed), of


def stages_of(workspace: Location, stages: dict[str, JobSettings], speeds: tuple[float, float]) -> list[Stage]:
    """The lines. Raises UserError for settings or a source that can't be. speeds: images a second, see `rates`."""
    training, embedding = speeds
    found = []
    ingest, settings, embed = stages["ingest"], stages["distill"], stages["embed"]
    assert isinstance(ingest, IngestSettings)
    assert isinstance(settings, DistillSettings)
    assert isinstance(embed, EmbedSettings)
    known = read_manifest(workspace / "dataset")
    if known is None:
        rows, _, _, origin = read_source(ingest)
        found.append(Stage("ingest", "to do", f"{rows.num_rows:,} images of {origin}", None))
        console.print("The sizes of what follows come from the dataset: run the stage ingest (jobs.ingest), then this again.")
        search = settings.specialists.grouping == "searched"
        asked = [name for name in stages if name != "ingest" and (search or name != "group_verticals")]
        return found + [Stage(name, "to do", "", None) for name in asked]
    found.append(Stage("ingest", "complete" if _same(known, ingest) else "to do again", f"{known['images']:,} images", 0.0))
    dataset = Dataset.open(workspace / "dataset")
    settings, line = _grouped(workspace, settings)
    found.append(line)
    todo = assignments(dataset, settings, joint=settings.specialists.joint)
    left = [a for a in todo if finished(workspace / "specialists" / a.name, a.recipe.key) is None]
    images = sum(a.images for a in left)
    seconds = sum(a.images * _pixels(a.settings.data) for a in left) / _pixels(settings.data) / training
    size = f"{len(todo) - len(left)} of {len(todo)} trainings finished, {sum(a.recipe.steps for a in left):,} steps, {images:,} images to go"
    found.append(Stage("train_specialists", "to do" if left else "complete", size, seconds))
    counted = dataset.products.group_by("split").aggregate([("rows", "sum")]).to_pylist()
    catalogue = dict.fromkeys(SPLITS, 0) | {row["split"]: row["rows_sum"] for row in counted}
    passes = 2 if embed.embed.mirror else 1
    teachers = (workspace / "teachers" / "manifest.json").is_file() and not left
    found.append(
        Stage(
            "embed",
            _state(teachers),
            f"{catalogue['train']:,} images",
            0.0 if teachers else passes * catalogue["train"] / embedding,
        )
    )
    found.append(_distill(workspace, dataset, settings, speeds, mirror=embed.embed.mirror, done=teachers))
    measured = catalogue["test"] + catalogue["query"] + catalogue["gallery"]
    found.append(Stage("evaluate", "as needed", f"{measured:,} images of each model", MODELS * measured / embedding))
    found.append(Stage("build_index", "as needed", f"{sum(catalogue.values()):,} images", sum(catalogue.values()) / embedding))
    return found


def _grouped(workspace: Location, settings: DistillSettings) -> tuple[DistillSettings, Stage]:
    """The settings to size the trainings by, and the search's line: before it has found groups, each vertical stands alone."""
    if settings.specialists.grouping == "given":
        return settings, Stage("group_verticals", "not asked for", "", 0.0)
    if read_manifest(workspace / "groups") is not None:
        return settings, Stage("group_verticals", "complete or as needed", "", 0.0)
    alone = settings.specialists.model_copy(update={"grouping": "given"})
    line = Stage("group_verticals", "to do", "what follows counts a specialist a vertical", None)
    return settings.model_copy(update={"specialists": alone}), line


def _same(known: dict[str, Any], settings: IngestSettings) -> bool:
    return bool(known["config"] == settings.model_dump(mode="json", include={"seed", "kind", "ingest"}))


def _pixels(data: Data) -> int:
    """Of a photo; a step takes time in proportion."""
    return data.height * data.width


def _state(done: bool) -> str:
    return "complete" if done else "to do"


def _distill(
    workspace: Location, dataset: Dataset, settings: DistillSettings, speeds: tuple[float, float], *, mirror: bool, done: bool
) -> Stage:
    training, embedding = speeds
    plan = distill_plan(dataset, settings)
    per_step = plan.images_per_step(0)
    steps = settings.distill.steps or max(
        1, round(sum(a.images for a in assignments(dataset, settings, joint=False)) / per_step)
    )
    f = settings.finetune
    finer = f.steps * finetune_plan(dataset, settings).images_per_step(0) if f.steps else 0
    scale = _pixels(finetune_data(settings)) / _pixels(settings.data)
    size = f"{steps:,} steps, {steps * per_step:,} images" + (
        f"; fine-tuning {f.steps:,} steps, {finer:,} images" if finer else ""
    )
    complete = False
    if done:
        last = recipes_for(dataset, read_teachers(workspace, dataset.verticals("train")), settings)[-1]
        complete = finished(workspace / UNIFIED, unified_key(last, settings)) is not None
    passes = (2 if mirror else 1) * (1 + len(further_teachers(settings))) if settings.distill.targets == "view" else 0
    views = passes * steps * per_step / embedding
    return Stage("distill", _state(complete), size, 0.0 if complete else (steps * per_step + finer * scale) / training + views)


def dry_run(workspace: Location, stages: dict[str, JobSettings]) -> list[Stage]:
    """Print the table; nothing is written."""
    settings = stages["distill"]
    assert isinstance(settings, DistillSettings)
    training, embedding, device = rates(settings)
    found = stages_of(workspace, stages, (training, embedding))
    rows = [(s.name, s.state, s.size, "" if s.seconds is None else _clock(s.seconds)) for s in found]
    print_table(f"What the pipeline would do in {workspace}", ("stage", "state", "size", "about"), rows)
    console.print(
        f"[dim]by a trial on {device}: {training:.0f} images/s trained, {embedding:.0f} embedded; start-up of half a minute a stage, "
        "validation and checkpoints come on top[/dim]"
    )
    return found


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
