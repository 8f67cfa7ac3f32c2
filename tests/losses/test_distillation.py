"""Distillation losses against numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fashion_dml.losses.distillation import DistillationLoss
from fashion_dml.losses.lag import LagWeights, numbered


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


def both(s: np.ndarray, t: np.ndarray) -> float:
    return l2(s, t) + relational(s, t)


FORMULAS = {"l2": l2, "cosine": cosine, "relational": relational, "l2+relational": both}


@pytest.mark.parametrize("name", FORMULAS)
def test_equals_numpy(name: str) -> None:
    s, t = unit(9, 6, 0), unit(9, 6, 1)
    found = DistillationLoss(name)(torch.from_numpy(s), torch.from_numpy(t))["loss"]
    assert found.dtype == torch.float64
    assert float(found) == pytest.approx(FORMULAS[name](s, t), rel=1e-9)
    leaf = torch.from_numpy(s).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda x: DistillationLoss(name)(x, torch.from_numpy(t))["loss"], leaf)


def test_relational_takes_other_dimensions_and_ignores_rotation() -> None:
    s, t = unit(9, 6, 0), unit(9, 11, 1)
    loss = DistillationLoss("relational")
    assert float(loss(torch.from_numpy(s), torch.from_numpy(t))["loss"]) == pytest.approx(relational(s, t), rel=1e-5)
    turned = t @ np.linalg.qr(np.random.default_rng(2).normal(size=(11, 11)))[0]
    assert float(loss(torch.from_numpy(turned), torch.from_numpy(t))["loss"]) == pytest.approx(0, abs=1e-10)


@pytest.mark.parametrize("name", ["l2", "cosine"])
def test_a_turned_teacher_counts_by_its_part_in_the_basis(name: str) -> None:
    s, t = unit(9, 4, 0), unit(9, 11, 1)
    loss = DistillationLoss(name, 4, 11, turned=True)
    basis = np.linalg.qr(np.random.default_rng(2).normal(size=(11, 4)))[0]
    assert loss.basis is not None
    loss.basis.copy_(torch.from_numpy(basis))
    part = t @ loss.basis.double().numpy()
    part /= np.linalg.norm(part, axis=1, keepdims=True)
    assert float(loss(torch.from_numpy(s), torch.from_numpy(t))["loss"]) == pytest.approx(FORMULAS[name](s, part), rel=1e-6)
    assert list(loss.state_dict()) == ["basis"]
    assert list(DistillationLoss(name).state_dict()) == []
    with pytest.raises(ValueError, match="a teacher of 4 dimensions can't be turned to 11"):
        DistillationLoss(name, 11, 4, turned=True)


@pytest.mark.parametrize("name", ["l2", "cosine", "l2+relational"])
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


def test_projection_takes_other_dimensions_and_is_learned() -> None:
    """Teachers that are a turned and padded student: only the map has to be found, and it is in the state."""
    torch.manual_seed(0)
    s = torch.from_numpy(unit(64, 6, 0)).float()
    turn = torch.from_numpy(np.linalg.qr(np.random.default_rng(2).normal(size=(11, 11)))[0]).float()[:6]
    teacher = s @ turn
    loss = DistillationLoss("projection", student_dim=6, teacher_dim=11)
    weight = loss.state_dict()["projection.weight"]
    assert weight.shape == (11, 6)
    expected = l2(F.normalize(s @ weight.T, dim=1).double().numpy(), teacher.double().numpy())
    first = loss(s, teacher)["loss"].detach()
    assert float(first) == pytest.approx(expected, rel=1e-5)
    optimizer = torch.optim.Adam(loss.parameters(), 0.02)
    for _ in range(300):
        optimizer.zero_grad()
        value = loss(s, teacher)["loss"]
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 1e-3 * float(first)
    other = DistillationLoss("projection", student_dim=6, teacher_dim=11)
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(s, teacher)["loss"], loss(s, teacher)["loss"])


def test_projection_has_the_gradient_of_finite_differences() -> None:
    loss = DistillationLoss("projection", student_dim=3, teacher_dim=5).double()
    s, t = torch.from_numpy(unit(4, 3, 0)).requires_grad_(True), torch.from_numpy(unit(4, 5, 1))
    weight = loss.state_dict(keep_vars=True)["projection.weight"]
    assert torch.autograd.gradcheck(lambda x, _: loss(x, t)["loss"], (s, weight))


def test_projection_asks_for_dimensions() -> None:
    with pytest.raises(ValueError, match="projection needs the dimensions"):
        DistillationLoss("projection")


def lag(strength: float = 10.0) -> LagWeights:
    classes = {"bags": torch.tensor([3, 5]), "hats": torch.tensor([8]), "shoes": torch.tensor([4, 5])}
    return LagWeights(classes, {"bags": 0.9, "shoes": 0.5}, strength)


def test_weights_follow_how_far_a_vertical_is_behind() -> None:
    weights, labels = lag(), torch.tensor([5, 4, 3, 8, 5])
    assert weights(labels).tolist() == [1] * 5
    weights.update({"bags": 0.6, "shoes": 0.7, "hats": 0.1})
    # 5 is a product of bags and shoes; shoes are ahead; hats had no teacher to compare with
    assert weights(labels).tolist() == pytest.approx([4, 1, 4, 1, 4])
    other = lag()
    other.load_state_dict(weights.state_dict())
    assert torch.equal(other(labels), weights(labels))
    weights.update({"bags": 0.95})
    assert weights(labels).tolist() == [1] * 5


def test_a_product_of_two_verticals_counts_for_the_first() -> None:
    labels, vertical = numbered({"bags": torch.tensor([5, 3]), "hats": torch.tensor([8]), "shoes": torch.tensor([4, 5])})
    assert (labels.tolist(), vertical.tolist()) == ([3, 4, 5, 8], [0, 2, 0, 1])


@pytest.mark.parametrize("name", ["l2", "cosine"])
def test_weighed_mean_equals_numpy(name: str) -> None:
    s, t = unit(4, 6, 0), unit(4, 6, 1)
    weights, labels = lag(), torch.tensor([3, 4, 8, 5])
    weights.update({"bags": 0.7})
    loss = DistillationLoss(name, lag=weights)
    found = loss(torch.from_numpy(s), torch.from_numpy(t), labels)["loss"]
    each = [FORMULAS[name](s[i : i + 1], t[i : i + 1]) for i in range(4)]
    assert float(found) == pytest.approx(np.average(each, weights=[3, 1, 1, 3]), rel=1e-6)
    assert "lag.weight" in loss.state_dict()
