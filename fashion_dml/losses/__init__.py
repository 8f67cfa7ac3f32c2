"""Losses of specialists and joint model, by the name that `loss.name` gives."""

from __future__ import annotations

from torch import nn

from fashion_dml.config import Loss
from fashion_dml.losses.triplet import TripletLoss
from fashion_dml.storage import UserError

LOSSES: dict[str, type[TripletLoss]] = {"triplet": TripletLoss}


def create_loss(settings: Loss) -> nn.Module:
    """The loss of that name; it maps unit embeddings [B, D] and labels [B] to a dict with "loss"."""
    if settings.name not in LOSSES:
        raise UserError(f"loss.name = {settings.name!r} is not known; known are {', '.join(LOSSES)}.")
    return LOSSES[settings.name](settings)
