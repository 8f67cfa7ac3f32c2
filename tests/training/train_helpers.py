"""Small trainings on the CPU, and real processes that train together."""

from __future__ import annotations

import datetime
import multiprocessing
import os
import signal
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from fashion_dml.config import Augment, Data, Loss, Model, Optim
from fashion_dml.data.deal import Mode
from fashion_dml.data.plan import Cursor, Plan, PlanSettings
from fashion_dml.data.read import Sources
from fashion_dml.data.schema import Dataset
from fashion_dml.data.stream import stream
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.head import pca_head
from fashion_dml.storage import Location
from fashion_dml.training.loop import train
from fashion_dml.training.recipe import Recipe
from fashion_dml.training.stopping import Ask, nobody_asks
from fashion_dml.training.task import MetricTask
from fashion_dml.training.team import Team
from fashion_dml.training.validation import Validation

DATA = Data(height=32, width=32, executor="threads", decode="worker", window_images=32)
MODEL = Model(trunk="test_efficientnet", weights="none", dim=16)


def products(dataset: Dataset, split: str = "train") -> Any:
    import pyarrow.compute as pc

    return dataset.products.filter(pc.field("split") == split)


def sources(dataset: Dataset) -> Sources:
    return Sources(str(dataset.location / "images"), "train")


def metric_plan(dataset: Dataset, lanes: int = 2, mode: Mode = "vertical-wise") -> Plan:
    return Plan(products(dataset), PlanSettings(mode, lanes, DATA.window_images, 0, products_per_batch=4, neighbours=1))


def metric_task(made: Embedder, dataset: Dataset, loss: Loss, team: Team) -> MetricTask:
    classes = torch.tensor(sorted(set(products(dataset)["label"].to_pylist())))
    torch.manual_seed(1)  # proxies are drawn
    return MetricTask(made, loss, team.group, classes=classes, attributes=tuple(dataset.attributes))


def embedder(dataset: Dataset, seed: int = 0, **settings: Any) -> Embedder:
    """Random trunk, whitened head: embeddings that differ, so that distances are not lost in rounding."""
    torch.manual_seed(seed)
    made = Embedder(MODEL.model_copy(update=settings), 32, 32).eval()
    plan = Plan(products(dataset), PlanSettings("images", 1, 512, 0, images_per_batch=32))
    batch = next(stream(plan, sources(dataset), DATA, start=Cursor(), steps=1))
    with torch.no_grad():
        pca_head(made.head, made.features(batch.images.permute(0, 3, 1, 2)))
    return made


def recipe(steps: int = 12, key: str = "key", **changes: Any) -> Recipe:
    settings: dict[str, Any] = {
        "name": "dresses", "steps": steps, "seed": 0, "optim": Optim(learning_rate=1e-3), "augment": Augment(), "data": DATA,
        "validate_every": 6, "checkpoint_every": 5, "keep": "last", "key": key, "config": {}, "inputs": {},
    }  # fmt: skip
    return Recipe(**{**settings, **changes})


class Interrupted(Exception):
    """Stands for whatever ends a process."""


def run_training(
    dataset: Dataset, output: Path | Location, made: Recipe | None = None, *, die_in_step: int | None = None,
    report: Callable[[dict[str, Any]], None] = lambda progress: None, model: dict[str, Any] | None = None,
    team: Team = Team(), lanes: int = 2, loss: Loss = Loss(margin=0.3), mode: Mode = "vertical-wise", die: Callable[[], None] | None = None,
    asks: Callable[[], Ask] = nobody_asks,
) -> dict[str, Any]:  # fmt: skip
    """One specialist; `die_in_step` counts the forward passes of this call, `die` ends it (by an exception if None)."""
    task = metric_task(embedder(dataset, **(model or {})), dataset, loss, team)
    passes = 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1
        if passes == die_in_step:
            if die is not None:
                die()
            raise Interrupted

    task.register_forward_pre_hook(count)
    validation = Validation(dataset, dataset.verticals("train"), DATA) if team.rank == 0 else None
    plan = metric_plan(dataset, lanes, mode)
    read = replace(sources(dataset), attributes=task.loss.needs_attributes)
    return train(made or recipe(), task, plan, read, validation, Location.of(output), team, report, asks)


def dies_in_publish(name: str, renames: int) -> None:
    """SIGKILL of this process when `publish` of a directory of that name has done so many of its two renames of directories."""
    replace, done = os.replace, 0

    def replaced(source: Any, target: Any) -> None:
        nonlocal done
        replace(source, target)
        done += os.path.isdir(target) and Path(source).name.startswith((name, f".{name}."))
        if done == renames:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replaced


def _rank(rank: int, world: int, home: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
    torch.set_num_threads(1)
    wait = datetime.timedelta(seconds=120)
    dist.init_process_group("gloo", init_method=f"file://{home}/meeting", rank=rank, world_size=world, timeout=wait)
    team = Team(rank, world, dist.new_group(list(range(world))))
    torch.save(function(team, *args), f"{home}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def together(world: int, function: Callable[..., Any], *args: Any) -> list[Any]:
    """function(team, *args) of `world` new processes joined by gloo; their results, by rank."""
    with tempfile.TemporaryDirectory() as home:
        # Forked from a process that has imported torch: to import it takes each of them seconds.
        multiprocessing.set_forkserver_preload([__name__])
        mp.start_processes(_rank, (world, home, function, args), nprocs=world, start_method="forkserver")
        return [torch.load(f"{home}/{rank}.pt", weights_only=True) for rank in range(world)]
