"""Optimiser groups and the learning rate of a step."""

from __future__ import annotations

import math

import torch

from fashion_dml.config import Optim
from fashion_dml.training.task import Task


def create_optimizer(task: Task, settings: Optim) -> torch.optim.AdamW:
    """AdamW with the trunk at `learning_rate`, head and loss at `head_multiplier` times it; decay on matrices only.

    A loss may name other multiples for parameters of its own (proxies).

    Raises AssertionError if a trainable parameter of the task is not in exactly one group (proxies are easily forgotten).
    """
    multiple: dict[str, float] = getattr(task.loss, "rate_multipliers", dict)()
    factors = [(p, 1.0, True) for p in task.embedder.trunk.parameters()]
    factors += [(p, settings.head_multiplier, False) for p in task.embedder.head.parameters()]
    factors += [(p, multiple.get(name, settings.head_multiplier), False) for name, p in task.loss.named_parameters()]
    groups: dict[tuple[float, bool, bool], list[torch.nn.Parameter]] = {}
    for parameter, factor, trunk in factors:
        if parameter.requires_grad:
            groups.setdefault((factor, parameter.ndim > 1, trunk), []).append(parameter)
    listed = [id(p) for parameters in groups.values() for p in parameters]
    wanted = {id(p) for p in task.parameters() if p.requires_grad}
    message = "every trainable parameter must be in exactly one optimizer group"
    assert len(listed) == len(set(listed)), message
    assert set(listed) == wanted, message
    return torch.optim.AdamW(
        [
            {"params": parameters, "lr": settings.learning_rate * factor, "peak": settings.learning_rate * factor,
             "weight_decay": settings.weight_decay if decayed else 0.0, "trunk": trunk}
            for (factor, decayed, trunk), parameters in groups.items()
        ],
        fused=True,
    )  # fmt: skip


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def set_rate(optimizer: torch.optim.Optimizer, share: float, *, trunk: bool = True) -> None:
    """Give every group its share of its own peak; without `trunk` that of the trunk is 0."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share if trunk or not group["trunk"] else 0.0
