"""Optimizer groups hold every trainable parameter once, and the schedule has its shape."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from fashion_dml.config import Loss, Model, Optim
from fashion_dml.models.embedder import Embedder
from fashion_dml.training.optim import create_optimizer, rate, set_rate
from fashion_dml.training.task import MetricTask

SETTINGS = Optim(learning_rate=1e-3, head_multiplier=7.0, weight_decay=0.02)


def task(**model: object) -> MetricTask:
    return MetricTask(Embedder(Model(**{"trunk": "test_efficientnet", "weights": "none", "dim": 8, **model}), 32, 32), Loss())


def test_every_parameter_has_the_rate_and_decay_of_its_kind() -> None:
    made = task()
    made.loss.register_parameter("proxies", nn.Parameter(torch.zeros(5, 8)))
    made.loss.register_parameter("temperature", nn.Parameter(torch.zeros(())))
    found = {id(p): g for g in create_optimizer(made, SETTINGS).param_groups for p in g["params"]}
    assert len(found) == len(list(made.parameters()))
    for name, parameter in made.named_parameters():
        group = found[id(parameter)]
        assert group["lr"] == group["peak"] == pytest.approx(1e-3 if ".trunk." in name else 7e-3)
        assert group["weight_decay"] == (0.02 if parameter.ndim > 1 else 0)


@pytest.mark.parametrize("stages", [1, 4, 6])
def test_frozen_parameters_are_in_no_group(stages: int) -> None:
    made = task(frozen_stages=stages)
    listed = {id(p) for g in create_optimizer(made, SETTINGS).param_groups for p in g["params"]}
    frozen = {id(p) for p in made.parameters() if not p.requires_grad}
    assert frozen
    assert not frozen & listed
    assert len(frozen) + len(listed) == len(list(made.parameters()))


@pytest.mark.parametrize("place", ["embedder", ""])
def test_a_forgotten_parameter_stops_the_start(place: str) -> None:
    """Proxies, say, that hang on the task or the embedder instead of on the loss, trunk or head."""
    made = task()
    made.get_submodule(place).register_parameter("proxies", nn.Parameter(torch.zeros(5, 8)))
    with pytest.raises(AssertionError, match="every trainable parameter must be in exactly one optimizer group"):
        create_optimizer(made, SETTINGS)


def test_a_parameter_in_two_places_stops_the_start() -> None:
    made = task()
    made.loss.register_parameter("proxies", made.embedder.head.weight)
    with pytest.raises(AssertionError, match="exactly one optimizer group"):
        create_optimizer(made, SETTINGS)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.35, 1.0])
@pytest.mark.parametrize("steps", [1, 2, 10, 200])
def test_schedule_rises_linearly_to_one_and_falls_as_a_cosine(steps: int, warmup: float) -> None:
    shares = [rate(step, steps, warmup) for step in range(steps)]
    rising = max(1, round(warmup * steps))
    assert max(shares) == shares[rising - 1] == 1
    assert all(share == pytest.approx((i + 1) / rising) for i, share in enumerate(shares[:rising]))
    assert all(0 < share <= 1 for share in shares)
    falling = shares[rising:]
    assert falling == sorted(falling, reverse=True)
    if len(falling) > 2:
        middle = rate(rising + (steps - rising) // 2, steps, warmup)
        assert middle == pytest.approx(0.5, abs=1.6 / (steps - rising))
    assert rate(steps, steps, warmup) == pytest.approx(0, abs=1e-12) or rising == steps


def test_set_rate_scales_each_group_from_its_own_peak() -> None:
    optimizer = create_optimizer(task(), SETTINGS)
    set_rate(optimizer, 0.5)
    set_rate(optimizer, 0.25)
    assert {round(g["lr"], 9) for g in optimizer.param_groups} == {0.25e-3, 1.75e-3}


def test_without_the_trunk_only_head_and_loss_have_a_rate() -> None:
    made = task()
    made.loss.register_parameter("proxies", nn.Parameter(torch.zeros(5, 8)))
    optimizer = create_optimizer(made, SETTINGS)
    set_rate(optimizer, 0.5, trunk=False)
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in made.named_parameters():
        assert rates[id(parameter)] == (0 if ".trunk." in name else pytest.approx(3.5e-3))
    set_rate(optimizer, 0.5)
    assert min(g["lr"] for g in optimizer.param_groups) == pytest.approx(5e-4)
