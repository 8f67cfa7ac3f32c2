"""The training loop, the same for specialists, joint model and student; it knows no Ray."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.distributed as dist
from timm.layers import convert_sync_batchnorm
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from fashion_dml.config import Optim
from fashion_dml.data.augment import augment, draws
from fashion_dml.data.batch import Batch
from fashion_dml.data.plan import Near, Plan
from fashion_dml.data.read import Sources
from fashion_dml.data.stream import StreamStats, stream
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, UserError, read_manifest, recover
from fashion_dml.training import checkpoint, tracking
from fashion_dml.training.average import Average
from fashion_dml.training.board import Board
from fashion_dml.training.checkpoint import Progress
from fashion_dml.training.curve import FILE, Curve
from fashion_dml.training.gather import from_first
from fashion_dml.training.optim import create_optimizer, rate, set_rate
from fashion_dml.training.recipe import Recipe
from fashion_dml.training.stopping import Ask, Stopped, nobody_asks
from fashion_dml.training.task import Task
from fashion_dml.training.team import Team
from fashion_dml.training.validation import Validation

CHECK_EVERY = 10  # steps between looks at the loss: each one waits for the device
Report = Callable[[dict[str, Any]], None]


def train(
    recipe: Recipe,
    task: Task,
    plan: Plan,
    sources: Sources,
    validation: Validation | None,
    output: Location,
    team: Team,
    report: Report,
    asks: Callable[[], Ask] = nobody_asks,
) -> dict[str, Any]:
    """Train to the recipe's last step, going on from `output/last` if there is one; publish `output/model`.

    `validation` is None on all ranks but 0, whose `asks` counts. Returns the manifest's figures. Raises UserError when the loss is
    not finite, and Stopped, with a checkpoint of the last step, when that is asked for.
    """
    embedder, device = task.embedder, team.device
    for name in ("last", "best", "model"):
        recover(output / name)
    task.to(device).to(memory_format=torch.channels_last)
    optimizer = create_optimizer(task, recipe.optim)
    progress = checkpoint.load(output / "last", embedder, task.loss, optimizer, recipe.key)
    if progress is None:
        progress = Progress()
        task.begin(plan, sources, recipe.data, team)
    average = None
    # The others' weights are the same. Before the layers hold a process group, which can't be copied.
    if recipe.optim.average and team.rank == 0:
        average = Average(embedder, recipe.optim.average, progress.average)
        progress.average = average.embedder.state_dict()
    chosen = embedder if average is None else average.embedder
    if embedder.settings.batch_norm == "live" and team.group is not None and device.type == "cuda":
        convert_sync_batchnorm(embedder.trunk, team.group)  # timm's: torch's would drop the activation in its norm layers
    if recipe.optim.compile:
        embedder.trunk.compile()
    module: nn.Module = task
    if team.group is not None:
        devices = [device.index] if device.type == "cuda" else None
        module = DistributedDataParallel(task, device_ids=devices, process_group=team.group, broadcast_buffers=False)
    half = mixed(recipe.optim, device)
    stats = StreamStats()
    curve = Curve(progress.curve)
    task.train()
    began, before = time.monotonic(), progress.seconds
    with contextlib.ExitStack() as closing:
        board = None
        if team.rank == 0:
            board = closing.enter_context(
                Board(output / "logs", tracking.Run(recipe, output) if recipe.tracking.mlflow else None)
            )
        for batch in _batches(recipe, task, plan, sources, team, progress, stats):
            o = recipe.optim
            set_rate(optimizer, rate(progress.step, recipe.steps, o.warmup), trunk=progress.step >= o.head_first * recipe.steps)
            uniform = draws(batch.lane, batch.row, seed=recipe.seed, epoch=batch.epoch, step=batch.step)
            images = augment(batch.images.to(device, non_blocking=True), recipe.augment, uniform)
            given = (batch.labels, batch.lane, batch.row, batch.targets, batch.attributes)
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                parts = module(images, *(None if t is None else t.to(device) for t in given))
            optimizer.zero_grad(set_to_none=True)
            parts["loss"].backward()
            torch.nn.utils.clip_grad_norm_(task.parameters(), recipe.optim.clip)
            optimizer.step()
            progress.step += 1
            if average is not None:
                average.update(embedder, progress.step)
            curve.add(parts["loss"], batch, stats.last_wait)
            last = progress.step == recipe.steps
            validates, saves = (
                progress.step % every == 0 or last for every in (recipe.validate_every, recipe.checkpoint_every)
            )
            asked = _asked(asks, team, device, progress.step)
            saves = saves or asked != ""
            # Nothing broken is validated or kept; the first step tells that all is under way.
            if progress.step == 1 or progress.step % CHECK_EVERY == 0 or validates or saves:
                curve.settle(team.group)
                values = {name: float(value.detach()) for name, value in parts.items()}
                if not math.isfinite(values["loss"]):
                    raise UserError(
                        f"{recipe.name}: the loss is {values['loss']} at step {progress.step}; lower optim.learning_rate or look at its photos."
                    )
                progress.seconds, progress.curve = before + time.monotonic() - began, curve.columns
                if board is not None:
                    report(_told(recipe, progress) | {"loss": values["loss"]})
                    board.step(values, optimizer.param_groups[0]["lr"], stats.last_wait, progress.step)
            if validates:
                recall = _validate(recipe, chosen, validation, output, team, progress, board)
                if task.follows_validation:
                    task.validated(from_first(recall, team.group, device))
            if saves and team.rank == 0:
                checkpoint.save(output / "last", embedder, task.loss, optimizer, progress, recipe.key)
                if board is not None:
                    board.save()
            if asked == "stop" and not last:
                raise Stopped(f"{recipe.name} stopped at step {progress.step} of {recipe.steps}")
    if team.rank == 0:
        _publish(recipe, chosen, output, progress, curve, stats)
        report(_told(recipe, progress) | {"done": True, "seconds": progress.seconds})
    if team.group is not None:
        dist.barrier(team.group)
    return {**vars(progress), "images": curve.images}


def _asked(asks: Callable[[], Ask], team: Team, device: torch.device, step: int) -> Ask:
    """What the first worker of the team is asked; a team looks now and then, since its workers must agree on the step."""
    if team.group is not None and step % CHECK_EVERY:
        return ""
    return from_first(asks(), team.group, device)


def _batches(
    recipe: Recipe, task: Task, plan: Plan, sources: Sources, team: Team, progress: Progress, stats: StreamStats
) -> Iterator[Batch]:
    """The batches from `progress.step` on. Hard classes: streams of `refresh` steps, each by where products are at its start.

    A checkpoint keeps that, so a training that goes on in the middle sees the same batches.
    """
    hard = plan.settings.mode == "hard-classes"
    while progress.step < recipe.steps:
        end, near = recipe.steps, None
        if hard:
            if progress.step % recipe.refresh == 0 and (progress.step or task.begun):  # else nothing is known yet
                found = task.near()
                progress.near = None if found is None else {n: torch.from_numpy(values) for n, values in vars(found).items()}
            end = min(end, (progress.step // recipe.refresh + 1) * recipe.refresh)
            near = None if progress.near is None else Near(progress.near["labels"].numpy(), progress.near["vectors"].numpy())
        yield from stream(
            plan, sources, recipe.data, start=plan.cursor(progress.step), steps=end - progress.step,
            rank=team.rank, workers=team.size, stats=stats, near=near,
        )  # fmt: skip


def _told(recipe: Recipe, progress: Progress) -> dict[str, Any]:
    return {"name": recipe.name, "step": progress.step, "steps": recipe.steps, "best": progress.best}


def mixed(settings: Optim, device: torch.device) -> bool:
    """Whether to use bf16: asked for, or the GPU has it."""
    if settings.amp != "auto":
        return settings.amp == "bf16"
    return device.type == "cuda" and torch.cuda.is_bf16_supported()


def _validate(
    recipe: Recipe,
    embedder: Embedder,
    validation: Validation | None,
    output: Location,
    team: Team,
    progress: Progress,
    board: Board | None,
) -> dict[str, float]:
    """R@1 on validation products, on rank 0; the best model so far is kept in `output/best`, at a tie the later one."""
    if team.rank != 0 or validation is None or not validation.images:
        return {}
    recalls = validation.recall(embedder, team.device)
    mean = sum(recalls.values()) / len(recalls)
    progress.validations.append({"step": progress.step, "R@1": mean, "verticals": recalls})
    if board is not None:
        board.add("validation/R@1", mean, progress.step)
        for vertical, value in recalls.items():
            board.add(f"validation/{vertical}/R@1", value, progress.step)
    if mean >= progress.best:
        progress.best, progress.best_step = mean, progress.step
        save_model(output / "best", embedder, key=recipe.key, step=progress.step)
    return recalls


def _publish(
    recipe: Recipe, embedder: Embedder, output: Location, progress: Progress, curve: Curve, stats: StreamStats
) -> None:
    """The model that later stages use, with the figures of its training."""
    chosen = embedder
    best = read_manifest(output / "best") if recipe.keep == "best" else None
    if best is not None and best["key"] == recipe.key:  # one of other settings may lie there, if nothing was validated
        chosen = load_model(output / "best").module
    save_model(
        output / "model", chosen, config=recipe.config, inputs=recipe.inputs, seconds=progress.seconds, key=recipe.key, name=recipe.name,
        steps=recipe.steps, images=curve.images, waited=curve.waits(), best=progress.best, best_step=progress.best_step,
        validations=progress.validations, kept=recipe.keep, corrupt=stats.corrupt[:20], files={FILE: curve.parquet()},
    )  # fmt: skip
