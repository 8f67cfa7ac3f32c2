"""Workers that train together take the step that one worker takes with all lanes: real gloo processes."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import nn
from torch.multiprocessing import ProcessExitedException
from torch.nn.parallel import DistributedDataParallel
from train_helpers import DATA, embedder, metric_plan, metric_task, products, recipe, run_training, sources, together

from fashion_dml.config import Augment, Granularity, Loss, Memory
from fashion_dml.data.augment import augment, draws
from fashion_dml.data.plan import Cursor, Plan, PlanSettings
from fashion_dml.data.schema import Dataset
from fashion_dml.data.stream import stream
from fashion_dml.training.gather import from_first, gather, in_lane_order
from fashion_dml.training.task import AnchoredTask, DistillTask, Task
from fashion_dml.training.team import Team

LANES = (4, 5)  # even and uneven on 2 and 4 workers, uneven on 3
LOSSES = ("l2", "relational", "l2+relational", "projection")
METHODS: dict[str, tuple[Loss, dict[str, Any]]] = {
    "triplet": (Loss(margin=0.3), {}),
    "granularity": (Loss(name="granularity", granularity=Granularity(form="B", g="predicted")), {}),
    "shuffled": (Loss(name="granularity", granularity=Granularity(form="C", g="shuffled", head_weight=0)), {}),
    "multi_objective": (Loss(name="multi_objective"), {}),
    "cascade": (Loss(name="cascade"), {"taps": (2, 3), "dim": 24}),
    "focus_ranking": (Loss(name="focus_ranking"), {}),
    "memory": (Loss(margin=0.3, mining="all", memory=Memory(size=64)), {}),
}
ROUNDING = 1e-5


def numbers(*shape: int, seed: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gather_rows(team: Team) -> dict[str, Any]:
    """Each rank brings rank + 1 rows; the loss weighs every gathered element differently."""
    rows = numbers(team.rank + 1, 3, seed=team.rank).requires_grad_(True)
    bias = torch.zeros(sum(range(team.size + 1)), 3, requires_grad=True)
    shift = bias * 1  # made before, so its backward runs after the gather's, on the same tensor of gradients
    found = gather(rows, team.group)
    ((found + shift) * numbers(*found.shape, seed=99)).sum().backward()
    labels = gather(torch.full((team.rank + 1,), team.rank), team.group)
    return {"found": found.detach(), "rows": rows.grad, "bias": bias.grad, "labels": labels}


def one_step(task: Task, plan: Plan, dataset: Dataset, team: Team, dim: int | None = None) -> dict[str, Any]:
    """Loss and gradient of the plan's second step on this worker's lanes."""
    module: nn.Module = task.train()
    if team.group is not None:
        module = DistributedDataParallel(task, process_group=team.group, broadcast_buffers=False)
    start = plan.cursor(1)
    read = replace(sources(dataset), attributes=True)
    batch = next(stream(plan, read, DATA, start=start, steps=1, rank=team.rank, workers=team.size))
    images = augment(batch.images, Augment(), draws(batch.lane, batch.row, seed=0, epoch=batch.epoch, step=batch.step))
    teachers = (
        [numbers(dim, seed=int(100 * lane + row)) for lane, row in zip(batch.lane, batch.row, strict=True)] if dim else []
    )
    targets = nn.functional.normalize(torch.stack(teachers), dim=1) if dim else None
    parts = module(images, batch.labels, batch.lane, batch.row, targets, batch.attributes)
    parts["loss"].backward()
    gradient = torch.cat([p.grad.flatten() for p in task.parameters() if p.grad is not None])
    return {"gradient": gradient, "images": len(images), **{k: v.detach() for k, v in parts.items()}}


def steps_of_all_tasks(team: Team, dataset: Dataset) -> dict[str, Any]:
    found = {}
    for lanes in LANES:
        for name, (loss, model) in METHODS.items():
            task = metric_task(embedder(dataset, **model), dataset, loss, team)
            found[f"{name} {lanes}"] = one_step(task, metric_plan(dataset, lanes), dataset, team)
        held = AnchoredTask(embedder(dataset), Loss(margin=0.3), "l2+relational", 0.5, group=team.group)
        found[f"anchored {lanes}"] = one_step(held, metric_plan(dataset, lanes), dataset, team, 16)
        settings = PlanSettings("images", lanes, DATA.window_images, 0, images_per_batch=6)
        for name in LOSSES:
            dim = 24 if name in ("relational", "projection") else 16
            torch.manual_seed(2)
            student = DistillTask(embedder(dataset), name, team.group, teacher_dim=dim)
            found[f"{name} {lanes}"] = one_step(student, Plan(products(dataset), settings), dataset, team, dim)
    return found


def everything(team: Team, dataset: Dataset, output: Path) -> dict[str, Any]:
    losses: list[float] = []
    made = recipe(steps=4, checkpoint_every=1)  # every step that is kept is reported
    done = run_training(dataset, output, made, team=team, lanes=4, report=lambda p: losses.append(p.get("loss", 0)))
    return {"rows": gather_rows(team), "steps": steps_of_all_tasks(team, dataset), "losses": losses, "images": done["images"]}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("trained")


@pytest.fixture(scope="module", params=[2, 3, 4], ids="{0} workers".format)
def workers(request: pytest.FixtureRequest, small: Dataset, trained: Path) -> list[dict[str, Any]]:
    """What 2, 3 and 4 processes found; started once for all tests."""
    return together(request.param, everything, small, trained / str(request.param))


@pytest.fixture(scope="module")
def alone(small: Dataset) -> dict[str, Any]:
    return steps_of_all_tasks(Team(), small)


def test_rows_come_rank_after_rank_on_every_worker(workers: list[dict[str, Any]]) -> None:
    expected = torch.cat([numbers(rank + 1, 3, seed=rank) for rank in range(len(workers))])
    labels = torch.cat([torch.full((rank + 1,), rank) for rank in range(len(workers))])
    for worker in workers:
        assert torch.equal(worker["rows"]["found"], expected)
        assert torch.equal(worker["rows"]["labels"], labels)


def test_gradients_of_a_row_are_summed_over_workers(workers: list[dict[str, Any]]) -> None:
    """Every worker has the same loss, so each row's gradient is R times its own; other leaves keep their own."""
    weights = numbers(sum(range(len(workers) + 1)), 3, seed=99)
    parts = weights.split([rank + 1 for rank in range(len(workers))])
    for worker, own in zip(workers, parts, strict=True):
        torch.testing.assert_close(worker["rows"]["rows"], len(workers) * own)
        torch.testing.assert_close(worker["rows"]["bias"], weights)


@pytest.mark.parametrize("lanes", LANES)
@pytest.mark.parametrize("name", [*METHODS, "anchored", *LOSSES])
def test_a_step_is_that_of_one_worker_with_all_lanes(
    name: str, lanes: int, workers: list[dict[str, Any]], alone: dict[str, Any]
) -> None:
    """Also where lanes don't divide evenly, and workers bring different numbers of images."""
    one, many = alone[f"{name} {lanes}"], [w["steps"][f"{name} {lanes}"] for w in workers]
    assert sum(m["images"] for m in many) == one["images"]
    scale = one["gradient"].norm()
    assert scale > 0
    for found in many:
        assert torch.equal(found["loss"], many[0]["loss"])
        assert float(found["loss"]) == pytest.approx(float(one["loss"]), rel=ROUNDING)
        assert float((found["gradient"] - one["gradient"]).norm() / scale) <= ROUNDING
        if name == "triplet":
            assert int(found["triplets"]) == int(one["triplets"]) > 10


def test_training_together_follows_training_alone(workers: list[dict[str, Any]], small: Dataset, tmp_path: Path) -> None:
    """Four lanes are uneven on three workers. Adam's first steps blow rounding up, so the losses agree to fewer digits."""
    losses: list[float] = []
    made = recipe(steps=4, checkpoint_every=1)
    done = run_training(small, tmp_path, made, lanes=4, report=lambda p: losses.append(p.get("loss", 0)))
    assert len(losses) == 5
    assert workers[0]["losses"] == pytest.approx(losses, rel=1e-3)
    assert all(w["losses"] == [] for w in workers[1:])
    assert [w["images"] for w in workers] == [done["images"]] * len(workers)


def cut_down(team: Team, dataset: Dataset, output: Path, die_in_step: int) -> None:
    """The last rank kills itself, as a lost node would."""

    def kill(*_: Any) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    mine = die_in_step if team.rank == team.size - 1 else None
    run_training(dataset, output, team=team, lanes=4, die_in_step=mine, die=kill)


def going_on(team: Team, dataset: Dataset, output: Path) -> int:
    return int(run_training(dataset, output, team=team, lanes=4)["step"])


@pytest.mark.parametrize("workers", [1, 3])
def test_a_run_stopped_on_two_workers_goes_on_with_another_number(workers: int, small: Dataset, tmp_path: Path) -> None:
    """Same images in every step, and the losses of a run on one worker that nothing stopped."""
    run_training(small, tmp_path / "alone", lanes=4)
    with pytest.raises(ProcessExitedException, match="SIGKILL"):
        together(2, cut_down, small, tmp_path / "stopped", 8)
    manifest = json.loads((tmp_path / "stopped" / "last" / "manifest.json").read_text())
    assert manifest["step"] == 5  # the checkpoint before
    assert not (tmp_path / "stopped" / "model").exists()
    assert together(workers, going_on, small, tmp_path / "stopped") == [12] * workers
    one, other = (pq.read_table(tmp_path / name / "model" / "curve.parquet") for name in ("alone", "stopped"))
    for exact in ("step", "images", "digest"):
        assert one[exact].equals(other[exact])
    assert len(one) == len(set(one["digest"].to_pylist())) == 12
    assert other["loss"].to_pylist() == pytest.approx(one["loss"].to_pylist(), rel=5e-3)


def test_a_worker_alone_gathers_nothing() -> None:
    rows = torch.ones(2, 3)
    assert gather(rows, None) is rows


def test_lane_order_is_that_of_one_worker(small: Dataset) -> None:
    """Rows of ranks (lanes 0, 2) and (lane 1), gathered rank after rank, go back to lane after lane."""
    plan = metric_plan(small, 3)
    one = next(stream(plan, sources(small), DATA, start=Cursor(), steps=1))
    parts = [next(stream(plan, sources(small), DATA, start=Cursor(), steps=1, rank=r, workers=2)) for r in (0, 1)]
    order = in_lane_order(torch.cat([p.lane for p in parts]), torch.cat([p.row for p in parts]))
    assert order.tolist() != sorted(order.tolist())
    assert torch.equal(torch.cat([p.labels for p in parts])[order], one.labels)
    assert torch.equal(torch.cat([p.images for p in parts])[order], one.images)


def told(team: Team) -> torch.Tensor:
    return torch.tensor(from_first({"bags": 0.5 + team.rank}, team.group, team.device)["bags"])


def test_what_the_first_worker_holds_is_told_to_all() -> None:
    assert [float(t) for t in together(2, told)] == [0.5, 0.5]
    assert from_first({"bags": 1.0}, None, torch.device("cpu")) == {"bags": 1.0}
