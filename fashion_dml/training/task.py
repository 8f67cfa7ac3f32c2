"""A task owns everything trainable or stateful; the loop only sees `task(batch) -> {"loss": ..., named parts}`."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fashion_dml.config import Loss
from fashion_dml.losses import create_loss
from fashion_dml.losses.distillation import DistillationLoss
from fashion_dml.models.embedder import Embedder
from fashion_dml.training.gather import gather, in_lane_order


class Task(nn.Module):
    """What the loop needs of a task: an embedder, a loss that may have parameters, and `forward`."""

    embedder: Embedder
    loss: nn.Module

    def forward(
        self, images: Tensor, labels: Tensor, lane: Tensor, row: Tensor, targets: Tensor | None = None
    ) -> dict[str, Tensor]:
        """images float [n, 3, H, W] in [0, 1]; labels, lane, row int64 [n]; targets float32 [n, E] to {"loss", named parts}."""
        raise TypeError(f"{type(self).__name__} has no forward")


class MetricTask(Task):
    """Metric learning on products: the loss sees the embeddings of all workers of the team."""

    def __init__(self, embedder: Embedder, settings: Loss, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        self.embedder = embedder
        self.loss = create_loss(settings)
        self.group = group

    def forward(
        self, images: Tensor, labels: Tensor, lane: Tensor, row: Tensor, targets: Tensor | None = None
    ) -> dict[str, Tensor]:
        """images float [n, 3, H, W] in [0, 1]; labels, lane, row int64 [n]."""
        embeddings = gather(self.embedder(images), self.group)
        labels, lane, row = gather(torch.stack([labels, lane, row], 1), self.group).unbind(1)
        order = in_lane_order(lane, row)
        parts: dict[str, Tensor] = self.loss(embeddings[order], labels[order])
        return parts


class DistillTask(Task):
    """Distillation: targets float32 [n, E] are the specialists' embeddings of the same images."""

    def __init__(self, embedder: Embedder, name: str, group: dist.ProcessGroup | None = None) -> None:
        super().__init__()
        self.embedder = embedder
        self.loss = DistillationLoss(name)
        self.group = group

    def forward(
        self, images: Tensor, labels: Tensor, lane: Tensor, row: Tensor, targets: Tensor | None = None
    ) -> dict[str, Tensor]:
        """images float [n, 3, H, W] in [0, 1]."""
        assert targets is not None
        # Gathered also for losses that are a mean over images: workers may have different numbers of them.
        embeddings, targets = gather(self.embedder(images), self.group), gather(targets, self.group)
        parts: dict[str, Tensor] = self.loss(embeddings, targets)
        return parts
