"""Main directions of several teachers and the head fitted to them, against numpy and by several workers."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from train_helpers import DATA, MODEL, Interrupted, embedder, products, recipe, sources, together

from fashion_dml.data.plan import Plan, PlanSettings
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.storage import Location
from fashion_dml.training import head_fit
from fashion_dml.training.head_fit import RIDGE, fit_head, solve
from fashion_dml.training.loop import train
from fashion_dml.training.task import DistillTask
from fashion_dml.training.team import Team
from fashion_dml.training.views import ViewTeachers, classes_of


def image_plan(dataset: Dataset) -> Plan:
    return Plan(products(dataset), PlanSettings("images", 2, DATA.window_images, 0, images_per_batch=4))


def teachers(dataset: Dataset) -> ViewTeachers:
    """Two models side by side, 32 dimensions of which few matter."""
    first, second = embedder(dataset, 1), embedder(dataset, 2)
    return ViewTeachers(classes_of(dataset), dict.fromkeys(dataset.verticals("train"), first), further=[second])


def fitted(team: Team, dataset: Dataset) -> list[Tensor]:
    student, teach = embedder(dataset, 3), teachers(dataset)
    basis = fit_head(student, teach, teach.dim, image_plan(dataset), sources(dataset), DATA, team)
    return [basis, student.head.weight.detach(), student.head.bias.detach()]


def test_solution_is_that_of_ridge_regression() -> None:
    rng = np.random.default_rng(0)
    x, t = rng.normal(size=(40, 7)) + 2, rng.normal(size=(40, 5)) * [3, 1, 2, 0.1, 0.2]
    both = torch.from_numpy(np.hstack([x, t]))
    basis, weight, bias = solve(torch.tensor([40.0]).double(), both.sum(0), both.T @ both, 7, 3)
    _, _, directions = np.linalg.svd(t)
    np.testing.assert_allclose(np.abs(basis.numpy().T @ directions[:3].T), np.eye(3), atol=1e-9)
    wanted, centred = t @ basis.numpy(), x - x.mean(0)
    # Ridge regression is least squares with a row more for each feature.
    extra = np.sqrt(40 * RIDGE * centred.var(0).mean()) * np.eye(7)
    expected, *_ = np.linalg.lstsq(
        np.vstack([centred, extra]), np.vstack([wanted - wanted.mean(0), np.zeros((7, 3))]), rcond=None
    )
    np.testing.assert_allclose(weight.numpy().T, expected, atol=1e-9)
    np.testing.assert_allclose(bias.numpy(), wanted.mean(0) - x.mean(0) @ expected, atol=1e-9)


def test_the_fitted_head_is_nearer_to_the_teachers(small: Dataset) -> None:
    student, teach, plan = embedder(small, 3).train(), teachers(small), image_plan(small)
    images = torch.rand(48, 3, 32, 32)
    labels = torch.from_numpy(products(small)["label"].to_numpy()[:1].repeat(48))
    task = DistillTask(student, "l2", teacher_dim=teach.dim, views=teach, turned=True)
    place = torch.arange(48)

    def loss() -> Tensor:
        with torch.no_grad():
            found: Tensor = task(images, labels, place, place)["loss"]
        return found

    before = loss()
    task.begin(plan, sources(small), DATA, Team())
    assert student.training
    basis = task.loss.basis
    assert basis is not None
    torch.testing.assert_close(basis.T @ basis, torch.eye(16), atol=1e-5, rtol=0)
    assert loss() < 0.7 * before
    wanted = F.normalize(teach(images, labels) @ basis, dim=1)
    torch.testing.assert_close(loss(), (student(images) - wanted).square().sum(1).mean())


def test_several_workers_find_the_same(small: Dataset) -> None:
    found = together(3, fitted, small)
    for rank in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(rank, found[0], strict=True))
    alone = fitted(Team(), small)
    products_of = [f[0].abs().T @ f[0].abs() for f in (found[0], alone)]  # directions are found up to their sign
    torch.testing.assert_close(*products_of, atol=1e-3, rtol=0)


def test_no_more_photos_are_looked_at_than_asked_for(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_fit, "SAMPLE", 5)
    seen, teach = [], teachers(small)

    def counted(images: Tensor, labels: Tensor) -> Tensor:
        seen.append(len(images))
        return teach(images, labels)

    plan = image_plan(small)
    fit_head(embedder(small, 3), counted, teach.dim, plan, sources(small), DATA, Team())
    assert 5 <= sum(seen) < int(plan.rows.sum())


def test_a_training_that_goes_on_keeps_its_basis(small: Dataset, tmp_path: Path) -> None:
    made = recipe(steps=6, checkpoint_every=3)

    def run(output: Path, die: int | None = None) -> DistillTask:
        teach, passes = teachers(small), []
        torch.manual_seed(0)
        task = DistillTask(Embedder(MODEL, 32, 32), "l2", teacher_dim=teach.dim, views=teach, turned=True)

        def count(*_: object) -> None:
            passes.append(1)
            if len(passes) == die:
                raise Interrupted

        task.register_forward_pre_hook(count)
        train(made, task, image_plan(small), sources(small), None, Location.of(output), Team(), lambda progress: None)
        return task

    with pytest.raises(Interrupted):
        run(tmp_path / "stopped", die=5)
    states = [run(tmp_path / name).state_dict() for name in ("stopped", "whole")]
    assert "loss.basis" in states[0]
    assert all(torch.equal(v, states[1][k]) for k, v in states[0].items())
