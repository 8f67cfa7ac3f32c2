"""Losses of specialists and joint model, by the name that `loss.name` gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fashion_dml.config import Loss
from fashion_dml.losses.attributes import chosen_words
from fashion_dml.losses.base import MetricLoss
from fashion_dml.losses.cascade import CascadeLoss
from fashion_dml.losses.focus_ranking import FocusRankingLoss
from fashion_dml.losses.granularity import GranularityLoss
from fashion_dml.losses.hard_triplet import HardTripletLoss
from fashion_dml.losses.memory import MemoryBank
from fashion_dml.losses.multi_objective import MultiObjectiveLoss
from fashion_dml.losses.pml import PREFIX, PmlLoss
from fashion_dml.losses.triplet import TripletLoss
from fashion_dml.storage import UserError


@dataclass(frozen=True)
class About:
    """What a loss may need to know of dataset and model."""

    dim: int  # D
    classes: Tensor  # int64 [C], sorted labels of the training products
    attributes: tuple[str, ...]  # words of the vocabulary, as "colour=red"
    features: int  # F, of the trunk's pooled features


def _granularity(settings: Loss, about: About, memory: MemoryBank | None) -> MetricLoss:
    chosen = settings.granularity
    if chosen.form != "deviance" or chosen.head_weight:
        if not about.attributes:
            raise UserError(
                "loss.name = granularity needs attributes and the dataset has none; ingest some, "
                "or set loss.granularity.form = deviance and loss.granularity.head_weight = 0."
            )
        if chosen.head_weight and not about.features:
            raise UserError("loss.granularity.head_weight is above 0, but the model gives no features to an attribute head.")
    if memory is not None and chosen.form != "deviance":
        raise UserError("loss.memory keeps no attributes; set loss.granularity.form = deviance or loss.memory.size = 0.")
    return GranularityLoss(chosen, chosen_words(about.attributes, chosen.columns), about.features, memory)


LOSSES: dict[str, Callable[[Loss, About, MemoryBank | None], MetricLoss]] = {
    "triplet": lambda settings, about, memory: TripletLoss(settings, memory),
    "hard_triplet": lambda settings, about, memory: HardTripletLoss(settings.margin, memory),
    "granularity": _granularity,
    "multi_objective": lambda settings, about, memory: MultiObjectiveLoss(
        settings.multi_objective, about.classes, about.dim, memory
    ),
    "cascade": lambda settings, about, memory: CascadeLoss(settings.cascade, about.dim),
    "focus_ranking": lambda settings, about, memory: FocusRankingLoss(settings.focus_ranking, memory),
}
WITHOUT_MEMORY = ("cascade",)


def create_loss(
    settings: Loss, *, dim: int = 0, classes: Tensor | None = None, attributes: tuple[str, ...] = (), features: int = 0
) -> MetricLoss:
    """The loss that `settings.name` names; see MetricLoss for what it takes and gives.

    dim: D of the embeddings; classes: int64 [C], sorted unique labels of the training products; attributes: the
    dataset's words; features: F of the trunk. The triplet loss without memory needs none of them.

    Raises UserError for an unknown name, and for settings that the dataset or the model can't serve.
    """
    about = About(dim, torch.zeros(0, dtype=torch.int64) if classes is None else classes, attributes, features)
    other = settings.name.startswith(PREFIX)
    if not other and settings.name not in LOSSES:
        raise UserError(f"loss.name = {settings.name!r} is not known; known are {', '.join(LOSSES)}, pml:NAME.")
    if settings.miner and not other:
        raise UserError(f"loss.miner = {settings.miner!r} goes with loss.name = pml:NAME only; leave it out.")
    memory = None
    if settings.memory.size:
        if other or settings.name in WITHOUT_MEMORY:
            raise UserError(f"loss.memory doesn't go with loss.name = {settings.name!r}; set loss.memory.size = 0.")
        memory = MemoryBank(settings.memory, dim)
    return PmlLoss(settings, about.classes, dim) if other else LOSSES[settings.name](settings, about, memory)
