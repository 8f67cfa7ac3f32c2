"""After distillation: metric learning held by the teachers, and the choice between the models on validation products."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from fashion_dml.data.read import Sources
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, require_manifest
from fashion_dml.training.average import mean_of
from fashion_dml.training.curve import FILE
from fashion_dml.training.loop import Report, train
from fashion_dml.training.recipe import Recipe, finished
from fashion_dml.training.start import metric_task, trainable
from fashion_dml.training.stopping import Ask
from fashion_dml.training.student import BLENDED, DISTILLED, FINETUNED, DistillSettings, finetune_data, finetune_plan
from fashion_dml.training.task import AnchoredTask, MetricTask
from fashion_dml.training.team import Team
from fashion_dml.training.validation import Validation

FIGURES = ("steps", "images", "waited", "best", "best_step", "validations", "kept", "corrupt")


def anchored_task(start: Embedder, dataset: Dataset, settings: DistillSettings, team: Team = Team()) -> MetricTask:
    """The task, with the weights of a model; without an anchor it takes no targets. Raises UserError where loss, model, input size and dataset don't fit."""
    embedder = trainable(start, settings.model, finetune_data(settings))
    f = settings.finetune
    make = partial(AnchoredTask, anchor=settings.distill.loss, weight=f.anchor) if f.anchor else MetricTask
    return metric_task(embedder, dataset, tuple(dataset.verticals("train")), settings, team, make)


def check(dataset: Dataset, settings: DistillSettings) -> None:
    """Raise UserError, before any worker starts, where the fine-tuning can't be."""
    model = settings.model.model_copy(update={"weights": "none"})
    anchored_task(Embedder(model, settings.data.height, settings.data.width), dataset, settings)


def finetune(
    recipe: Recipe,
    unified: Location,
    dataset: Dataset,
    targets: dict[str, str],
    settings: DistillSettings,
    team: Team,
    report: Report,
    asks: Callable[[], Ask],
) -> None:
    """Train on this worker of the team; the model is published in `finetuned/model`. Raises Stopped where that is asked for."""
    torch.manual_seed(settings.seed)  # what a loss draws shall not hang on whether the distillation was done in this process
    task = anchored_task(load_model(unified / DISTILLED / "model").module, dataset, settings, team)
    sources = Sources(
        str(dataset.location / "images"),
        "train",
        targets if settings.finetune.anchor else None,
        task.loss.needs_attributes,
        settings.cluster.data_labels,
    )
    validation = Validation(dataset, dataset.verticals("train"), recipe.data) if team.rank == 0 else None
    train(recipe, task, finetune_plan(dataset, settings), sources, validation, unified / FINETUNED, team, report, asks)


def blend(recipe: Recipe, unified: Location, start: Location, dataset: Dataset, settings: DistillSettings, team: Team) -> None:
    """Publish in `blended/model` the middle between the model at `start` and the fine-tuned one, see `mean_of`; on one worker."""
    began = time.monotonic()
    first, last, known = load_model(start), load_model(unified / FINETUNED / "model"), finished(unified / FINETUNED, recipe.key)
    assert known is not None
    embedder = mean_of(last.module, first.module)
    validation = Validation(dataset, dataset.verticals("train"), recipe.data)
    found = validation.recall(embedder.to(team.device), team.device)
    mean = sum(found.values()) / len(found) if found else -1.0
    figures = {f: known[f] for f in FIGURES} | {
        "validations": [{"step": recipe.steps, "R@1": mean, "verticals": found}], "best": mean, "best_step": recipe.steps, "kept": "last"
    }  # fmt: skip
    save_model(
        unified / BLENDED / "model", embedder.cpu(), config=known["config"],
        inputs=known["inputs"] | {"start": first.sha256, FINETUNED: last.sha256}, seconds=time.monotonic() - began,
        files={FILE: (unified / FINETUNED / "model" / FILE).read_bytes()}, key=recipe.key, name=BLENDED, **figures,
    )  # fmt: skip


def validated(manifest: dict[str, Any]) -> float:
    """Mean R@1 on validation products of what was kept; -1 where nothing was validated."""
    if manifest["kept"] == "best":
        return float(manifest["best"])
    return float(manifest["validations"][-1]["R@1"]) if manifest["validations"] else -1.0


def choose(unified: Location, key: str, names: tuple[str, ...] = (DISTILLED, FINETUNED)) -> dict[str, Any]:
    """Publish the best of these in `unified/model`, the first at a tie; returns its manifest."""
    found = {n: require_manifest(unified / n / "model", made_by="python -m jobs.distill") for n in names}
    recalls = {name: validated(manifest) for name, manifest in found.items()}
    chosen = max(names, key=lambda name: recalls[name])
    directory, manifest = unified / chosen / "model", found[chosen]
    save_model(
        unified / "model", load_model(directory).module, config=manifest["config"], inputs=manifest["inputs"],
        seconds=sum(m["seconds"] for m in found.values()), files={FILE: (directory / FILE).read_bytes()}, key=key, name="unified",
        chosen=chosen, candidates=recalls, **{f: manifest[f] for f in FIGURES},
    )  # fmt: skip
    return require_manifest(unified / "model", made_by="python -m jobs.distill")
