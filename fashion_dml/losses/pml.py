"""Any loss of pytorch-metric-learning, with one of its miners."""

from __future__ import annotations

import inspect
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from fashion_dml.config import Loss
from fashion_dml.losses.base import MetricLoss
from fashion_dml.storage import UserError

PREFIX = "pml:"


def _library() -> tuple[ModuleType, ModuleType]:
    try:
        from pytorch_metric_learning import losses, miners
    except ImportError as error:
        raise UserError(
            "loss.name = pml:... needs pytorch-metric-learning, which is not installed; run pip install 'fashion-dml[bench]'."
        ) from error
    return losses, miners


def _create(module: ModuleType, setting: str, name: str, filled: dict[str, Any], given: dict[str, Any]) -> nn.Module:
    """An instance of a class of the library, `filled` where its constructor asks for that, `given` by the user."""
    known = [n for n, c in vars(module).items() if inspect.isclass(c) and issubclass(c, nn.Module) and not n.startswith("Base")]
    if name not in known:
        folded = {n.lower(): n for n in known}
        near = [folded[n] for n in get_close_matches(name.lower(), folded, n=3, cutoff=0.5)]
        told = f"near are {', '.join(near)}" if near else f"known are {', '.join(sorted(known))}"
        raise UserError(f"{setting}: pytorch-metric-learning has no {name!r}; {told}.")
    cls = getattr(module, name)
    asked = inspect.signature(cls.__init__).parameters
    try:
        made: nn.Module = cls(**{k: v for k, v in filled.items() if k in asked}, **given)
    except (TypeError, ValueError, AssertionError) as error:
        raise UserError(f"{setting}: {name} can't be made with {given} ({error}).") from error
    return made


class PmlLoss(MetricLoss):
    """`pml:NAME`: the library's loss, float32, with `loss.miner` before it if that is set.

    num_classes and embedding_size are filled in; labels of losses with classes become 0 ... C - 1. What the library does
    for a batch without pairs (0) and with NaN is its own. A miner may draw at random: use such only with one worker.
    """

    classes: Tensor

    def __init__(self, settings: Loss, classes: Tensor, dim: int) -> None:
        """classes: int64 [C], sorted labels of the training products. Raises UserError for unknown names and arguments."""
        super().__init__()
        losses, miners = _library()
        filled = {"num_classes": len(classes), "embedding_size": dim}
        both = filled.keys() & settings.arguments.keys()
        if both:
            raise UserError(f"loss.arguments: {', '.join(sorted(both))} is filled in; leave it out.")
        self.inner = _create(losses, "loss.name", settings.name.removeprefix(PREFIX), filled, settings.arguments)
        self.miner = _create(miners, "loss.miner", settings.miner, {}, settings.miner_arguments) if settings.miner else None
        self.of_classes = hasattr(self.inner, "num_classes")
        self.register_buffer("classes", classes.clone())

    def compute(self, x: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None) -> dict[str, Tensor]:
        """{"loss"}; raises ValueError for a label that isn't among the classes of a loss that has some."""
        if self.of_classes:
            index = torch.searchsorted(self.classes, labels).clamp_(max=len(self.classes) - 1)
            if bool((wrong := self.classes[index] != labels).any()):
                raise ValueError(f"label {int(labels[wrong][0])} is not among the {len(self.classes)} training products")
            labels = index
        return {"loss": self.inner(x, labels, None if self.miner is None else self.miner(x, labels))}
