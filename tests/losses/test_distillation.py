"""Distillation losses against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fashion_dml.losses.distillation import DistillationLoss


def unit(n: int, dim: int, seed: int) -> np.ndarray:
    x = np.random.default_rng(seed).normal(size=(n, dim))
    return x / np.linalg.norm(x, axis=1, keepdims=True)


def l2(s: np.ndarray, t: np.ndarray) -> float:
    return float(np.mean([np.sum((a - b) ** 2) for a, b in zip(s, t, strict=True)]))


def cosine(s: np.ndarray, t: np.ndarray) -> float:
    return float(np.mean([1 - np.dot(a, b) for a, b in zip(s, t, strict=True)]))


def relational(s: np.ndarray, t: np.ndarray) -> float:
    n = range(len(s))
    return float(np.mean([(np.dot(s[i], s[j]) - np.dot(t[i], t[j])) ** 2 for i in n for j in n]))


FORMULAS = {"l2": l2, "cosine": cosine, "relational": relational}


@pytest.mark.parametrize("name", FORMULAS)
def test_equals_numpy(name: str) -> None:
    s, t = unit(9, 6, 0), unit(9, 6, 1)
    found = DistillationLoss(name)(torch.from_numpy(s), torch.from_numpy(t))["loss"]
    assert found.dtype == torch.float32
    assert float(found) == pytest.approx(FORMULAS[name](s, t), rel=1e-5)


def test_relational_takes_other_dimensions_and_ignores_rotation() -> None:
    s, t = unit(9, 6, 0), unit(9, 11, 1)
    loss = DistillationLoss("relational")
    assert float(loss(torch.from_numpy(s), torch.from_numpy(t))["loss"]) == pytest.approx(relational(s, t), rel=1e-5)
    turned = t @ np.linalg.qr(np.random.default_rng(2).normal(size=(11, 11)))[0]
    assert float(loss(torch.from_numpy(turned), torch.from_numpy(t))["loss"]) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("name", ["l2", "cosine"])
def test_other_losses_refuse_other_dimensions(name: str) -> None:
    with pytest.raises(ValueError, match=r"\(9, 6\) and teacher \(9, 11\) differ; distill.loss = relational"):
        DistillationLoss(name)(torch.from_numpy(unit(9, 6, 0)), torch.from_numpy(unit(9, 11, 1)))


@pytest.mark.parametrize("name", FORMULAS)
def test_gradient_pulls_the_student_to_its_teacher(name: str) -> None:
    raw = torch.from_numpy(unit(8, 4, 0)).float().requires_grad_(True)
    teacher = torch.from_numpy(unit(8, 4, 1)).float().requires_grad_(True)
    optimizer = torch.optim.Adam([raw], 0.05)
    loss = DistillationLoss(name)
    first = float(loss(F.normalize(raw, dim=1), teacher)["loss"].detach())
    for _ in range(300):
        optimizer.zero_grad()
        value = loss(F.normalize(raw, dim=1), teacher.detach())["loss"]
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 0.02 * first


@pytest.mark.parametrize("name", FORMULAS)
def test_stays_in_float32_under_autocast(name: str) -> None:
    s, t = (torch.from_numpy(unit(9, 6, seed)).float() for seed in (0, 1))
    plain = DistillationLoss(name)(s, t)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(DistillationLoss(name)(s, t)["loss"], plain)
