"""Optimiser groups and the learning rate of a step."""

from __future__ import annotations

import math

import torch

from fashion_dml.config import Optim
from fashion_dml.training.task import Task


def create_optimizer(task: Task, settings: Optim) -> torch.optim.AdamW:
    """AdamW with the trunk at `learning_rate`, head and loss at `head_multiplier` times it; decay on matrices only.

    Raises AssertionError if a trainable parameter of the task is not in exactly one group (proxies are easily forgotten).
    """
    groups = []
    fast = settings.head_multiplier
    for module, factor in ((task.embedder.trunk, 1.0), (task.embedder.head, fast), (task.loss, fast)):
        trainable = [p for p in module.parameters() if p.requires_grad]
        for decayed, chosen in ((True, [p for p in trainable if p.ndim > 1]), (False, [p for p in trainable if p.ndim <= 1])):
            if chosen:
                rate = settings.learning_rate * factor
                groups.append(
                    {"params": chosen, "lr": rate, "peak": rate, "weight_decay": settings.weight_decay if decayed else 0.0}
                )
    listed = [id(p) for g in groups for p in g["params"]]  # type: ignore[attr-defined]
    wanted = {id(p) for p in task.parameters() if p.requires_grad}
    message = "every trainable parameter must be in exactly one optimizer group"
    assert len(listed) == len(set(listed)), message
    assert set(listed) == wanted, message
    return torch.optim.AdamW(groups, fused=True)


def rate(step: int, steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then cosine to zero."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    return 0.5 * (1 + math.cos(math.pi * (step - rising) / max(1, steps - rising)))


def set_rate(optimizer: torch.optim.Optimizer, share: float) -> None:
    """Give every group its share of its own peak."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak"] * share
