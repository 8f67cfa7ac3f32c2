"""After distillation: metric learning held by the teachers, and the choice between the models on validation products."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from fashion_dml.config import Data
from fashion_dml.data.plan import Plan
from fashion_dml.data.read import Sources
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, require_manifest, sha256_json
from fashion_dml.training.assignments import NO_PART_OF_A_KEY, plan_for
from fashion_dml.training.curve import FILE
from fashion_dml.training.loop import Recipe, Report, finished, train
from fashion_dml.training.start import metric_task, trainable
from fashion_dml.training.stopping import Ask
from fashion_dml.training.task import AnchoredTask, MetricTask
from fashion_dml.training.team import Team
from fashion_dml.training.validation import Validation

if TYPE_CHECKING:
    from fashion_dml.training.distill import DistillSettings

DISTILLED, FINETUNED, BLENDED = "distilled", "finetuned", "blended"
FIGURES = ("steps", "images", "waited", "best", "best_step", "validations", "kept", "corrupt")


def finetune_data(settings: DistillSettings) -> Data:
    """The data section with the input size of the fine-tuning."""
    f, d = settings.finetune, settings.data
    return d.model_copy(update={"height": f.height or d.height, "width": f.width or d.width})


def finetune_plan(dataset: Dataset, settings: DistillSettings) -> Plan:
    """Batches of products of all verticals, as the joint model's."""
    return plan_for(dataset, tuple(dataset.verticals("train")), settings)


def finetune_recipe(distilled: Recipe, settings: DistillSettings) -> Recipe:
    """The fine-tuning of the student that the recipe `distilled` makes."""
    f, data = settings.finetune, finetune_data(settings)
    batches = settings.specialists.model_dump(mode="json", exclude=NO_PART_OF_A_KEY | {"optim", "augment", "keep"})
    config = {
        "finetune": f.model_dump(mode="json", exclude={"blend"}), "loss": settings.loss.model_dump(mode="json"), "batches": batches,
        "anchor": settings.distill.loss, "model": settings.model.model_dump(mode="json"), "seed": settings.seed,
        "data": data.model_dump(mode="json", include={"height", "width", "lanes", "window_images"}),
    }  # fmt: skip
    inputs = {DISTILLED: distilled.key}
    return Recipe(
        FINETUNED, f.steps, settings.seed, f.optim, f.augment, data, f.validate_every, f.checkpoint_every, f.keep,
        sha256_json([config, inputs]), config, inputs, settings.specialists.refresh_every,
    )  # fmt: skip


def unified_key(last: Recipe, settings: DistillSettings) -> str:
    """The key of the unified model, by the recipe of its last training."""
    return sha256_json([last.key, BLENDED]) if settings.finetune.steps and settings.finetune.blend else last.key


def anchored_task(start: Embedder, dataset: Dataset, settings: DistillSettings, team: Team = Team()) -> MetricTask:
    """The task, with the weights of a model. Raises UserError where loss, model, input size and dataset don't fit."""
    embedder = trainable(start, settings.model, finetune_data(settings))
    make = partial(AnchoredTask, anchor=settings.distill.loss, weight=settings.finetune.anchor)
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
    task = anchored_task(load_model(unified / DISTILLED / "model").module, dataset, settings, team)
    sources = Sources(
        str(dataset.location / "images"), "train", targets, task.loss.needs_attributes, settings.cluster.data_labels
    )
    validation = Validation(dataset, dataset.verticals("train"), recipe.data) if team.rank == 0 else None
    train(recipe, task, finetune_plan(dataset, settings), sources, validation, unified / FINETUNED, team, report, asks)


def blend(recipe: Recipe, unified: Location, start: Location, dataset: Dataset, settings: DistillSettings, team: Team) -> None:
    """Publish in `blended/model` the mean of the weights of the model at `start` and of the fine-tuned one; on one worker.

    Distillation and fine-tuning lead from the one to the other, and weights between the ends of such a path are often better than
    either (Wortsman 2022, Model soups, arXiv 2203.05482; half of the way as in WiSE-FT, arXiv 2109.01903).
    """
    began = time.monotonic()
    first, last, known = load_model(start), load_model(unified / FINETUNED / "model"), finished(unified / FINETUNED, recipe.key)
    assert known is not None
    theirs, embedder = first.module.state_dict(), last.module
    embedder.load_state_dict(
        {n: w.lerp(theirs[n], 0.5) if w.is_floating_point() else w for n, w in embedder.state_dict().items()}
    )
    validation = Validation(dataset, dataset.verticals("train"), recipe.data)
    found = validation.recall(embedder.to(team.device), team.device)
    mean = sum(found.values()) / len(found) if found else -1.0
    figures = {f: known[f] for f in FIGURES} | {
        "validations": [{"step": recipe.steps, "R@1": mean, "verticals": found}], "best": mean, "best_step": recipe.steps, "kept": "last"
    }  # fmt: skip
    save_model(
        unified / BLENDED / "model", embedder.cpu(), config=known["config"], inputs={"start": first.sha256, FINETUNED: last.sha256},
        seconds=time.monotonic() - began, files={FILE: (unified / FINETUNED / "model" / FILE).read_bytes()}, key=recipe.key,
        name=BLENDED, **figures,
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
