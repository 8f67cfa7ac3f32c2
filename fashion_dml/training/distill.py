"""Distillation: one data-parallel Ray Train run over all verticals, from the specialists to one model."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import torch

from fashion_dml.data.read import Sources
from fashion_dml.data.schema import Dataset
from fashion_dml.losses.lag import LagWeights
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model
from fashion_dml.storage import Location, UserError, require_manifest
from fashion_dml.training import finetune, tracking
from fashion_dml.training.assignments import FROM_JOINT, INITIAL
from fashion_dml.training.average import mean_of
from fashion_dml.training.loop import train
from fashion_dml.training.queue import Queue
from fashion_dml.training.recipe import Recipe, finished
from fashion_dml.training.signals import Listener
from fashion_dml.training.specialists import DAMAGED, sentence, start_together, watched
from fashion_dml.training.start import trainable
from fashion_dml.training.stopping import Ask, Stopped
from fashion_dml.training.student import (
    BLENDED,
    DISTILLED,
    FINETUNED,
    UNIFIED,
    DistillSettings,
    begun_from,
    distill_plan,
    finetune_plan,
    recipes_for,
    unified_key,
)
from fashion_dml.training.task import DistillTask
from fashion_dml.training.teachers import Teacher, check_fresh, read_teachers
from fashion_dml.training.team import Team
from fashion_dml.training.validation import Validation
from fashion_dml.training.views import check_sizes, classes_of, view_teachers
from fashion_dml.training.workers import check_lanes, check_norms, companion, fit, join_team


def lag_weights(dataset: Dataset, teachers: dict[str, Teacher], strength: float) -> LagWeights:
    """Weights of verticals by what their teachers reached on validation products when they were trained."""
    recall: dict[str, float] = {}
    for vertical, teacher in teachers.items():
        manifest = require_manifest(Location.of(teacher.model), made_by="python -m jobs.train_specialists")
        kept = [v for v in manifest["validations"] if manifest["kept"] == "last" or v["step"] == manifest["best_step"]]
        if kept and vertical in kept[-1]["verticals"]:
            recall[vertical] = kept[-1]["verticals"][vertical]
    return LagWeights(classes_of(dataset), recall, strength)


def run(settings: DistillSettings, watch: Callable[[Any, threading.Event], None]) -> dict[str, Any]:
    """Train the unified model unless it is finished; returns the manifest of `unified/model`."""
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(workspace / "dataset")
    teachers = read_teachers(workspace, dataset.verticals("train"))
    check_fresh(teachers)
    dims = {t.dim for t in teachers.values()}
    if len(dims) > 1:
        raise UserError(f"The teachers have {sorted(dims)} dimensions; train all specialists with one model.dim.")
    if dims != {settings.model.dim} and settings.distill.loss not in ("relational", "projection"):
        raise UserError(
            f"The teachers have {dims.pop()} dimensions, model.dim is {settings.model.dim}; "
            f"make them equal or use distill.loss = relational or projection."
        )
    if settings.distill.targets == "view":
        check_sizes(teachers, settings)
    recipes = recipes_for(dataset, teachers, settings)
    output, key = workspace / UNIFIED, unified_key(recipes[-1], settings)
    if (known := finished(output, key)) is not None:
        return known
    lanes = [("the student", distill_plan(dataset, settings).lanes)]
    if settings.finetune.steps:
        finetune.check(dataset, settings)
        lanes.append(("its fine-tuning", finetune_plan(dataset, settings).lanes))
    tracking.check(settings.tracking)
    check_norms(settings.model, settings.cluster, settings.cluster.most)
    check_lanes(lanes, "cluster.workers", settings.cluster.most)
    queue = companion(Queue)  # hands out nothing: it tells how the training goes
    with watched(queue, watch, settings.cluster):
        fit(_worker, {"settings": settings, "queue": queue}, settings.cluster, name=UNIFIED)
    ended = ray.get(queue.state.remote())[1]
    if ended:
        raise UserError(f"The unified model failed: {next(iter(ended.values()))}")
    names = (DISTILLED, FINETUNED, *(BLENDED,) * settings.finetune.blend)
    done = finetune.choose(output, key, names) if settings.finetune.steps else finished(output, key)
    if done is None:
        raise RuntimeError(f"the run ended without {output / 'model'}")
    return done


def _worker(config: dict[str, Any]) -> None:
    settings, queue = config["settings"], config["queue"]
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(workspace / "dataset")
    team = join_team(settings.cluster, ray.train.get_context().get_world_size())
    assert team is not None
    start = INITIAL if settings.distill.start == "initial" else FROM_JOINT
    start_together(dataset, workspace / "specialists", {INITIAL: settings} if start == INITIAL else {}, team.rank, queue)
    if ray.get(queue.state.remote())[1]:
        return
    teachers = read_teachers(workspace, dataset.verticals("train"))
    targets = {v: t.embeddings for v, t in teachers.items()}
    distilled, *after = recipes_for(dataset, teachers, settings)
    unified = workspace / UNIFIED
    asks = Listener(queue)
    try:
        distill(distilled, unified / DISTILLED if after else unified, dataset, teachers, settings, team, queue, asks)
        for recipe in after:
            finetune.finetune(
                recipe, unified, dataset, targets, settings, team, lambda progress: queue.report.remote(progress), asks
            )
            if settings.finetune.blend and team.rank == 0:
                finetune.blend(recipe, unified, workspace / "specialists" / start, dataset, settings, team)
    except Stopped:
        return
    except (UserError, *DAMAGED) as error:
        failure = sentence(error)
        ray.get(queue.end.remote(UNIFIED, failure))
        raise UserError(failure) from error


def begun(home: Location, settings: DistillSettings) -> Embedder:
    """The model that the student starts as, of those under `home`: the initial one, or the mean of the joint models it begins with."""
    if settings.distill.start == "initial":
        return load_model(home / INITIAL).module
    return mean_of(*(load_model(home / name / "model").module for name in begun_from(settings)))


def distill(
    recipe: Recipe, output: Location, dataset: Dataset, teachers: dict[str, Teacher], settings: DistillSettings,
    team: Team, queue: Any, asks: Callable[[], Ask],
) -> None:  # fmt: skip
    """Distil on this worker of the team, unless it is done. Raises Stopped where that is asked for."""
    if finished(output, recipe.key) is not None:
        return
    torch.manual_seed(settings.seed)
    workspace = Location.of(settings.workspace)
    embedder = trainable(begun(workspace / "specialists", settings), settings.model, settings.data)
    (dim,) = {t.dim for t in teachers.values()}
    turned = settings.distill.teachers == "joined" and settings.distill.loss != "relational"
    lag = lag_weights(dataset, teachers, settings.distill.lag) if settings.distill.lag else None
    views, targets = None, None
    if settings.distill.targets == "view":
        views = view_teachers(dataset, teachers, workspace / "specialists" / FROM_JOINT, settings, team.device)
    else:
        targets = {v: t.embeddings for v, t in teachers.items()}
    task = DistillTask(
        embedder,
        settings.distill.loss,
        team.group,
        teacher_dim=views.dim if views else dim,
        lag=lag,
        views=views,
        turned=turned,
    )
    sources = Sources(str(dataset.location / "images"), "train", targets, labels=settings.cluster.data_labels)
    validation = Validation(dataset, dataset.verticals("train"), settings.data) if team.rank == 0 else None
    train(
        recipe, task, distill_plan(dataset, settings), sources, validation, output, team,
        lambda progress: queue.report.remote(progress), asks,
    )  # fmt: skip
