"""A task owns everything trainable or stateful; the loop only sees `task(batch) -> {"loss": ..., named parts}`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from fashion_dml.config import Data, Loss
from fashion_dml.data.plan import Near, Plan
from fashion_dml.data.read import Sources
from fashion_dml.losses import create_loss
from fashion_dml.losses.base import MetricLoss
from fashion_dml.losses.distillation import DistillationLoss
from fashion_dml.losses.lag import LagWeights
from fashion_dml.models.embedder import Embedder
from fashion_dml.training.centres import class_centres
from fashion_dml.training.gather import gather, in_lane_order
from fashion_dml.training.head_fit import fit_head
from fashion_dml.training.team import Team


class Task(nn.Module):
    """What the loop needs of a task: an embedder, a loss that may have parameters, and `forward`."""

    embedder: Embedder
    loss: nn.Module
    follows_validation = False  # whether `validated` is to be called
    begun = False  # whether `begin` found out where products are

    def forward(
        self, images: Tensor, labels: Tensor, lane: Tensor, row: Tensor, targets: Tensor | None = None, attributes: Tensor | None = None
    ) -> dict[str, Tensor]:  # fmt: skip
        """images float [n, 3, H, W] in [0, 1]; labels, lane, row int64 [n]; targets float32 [n, E]; attributes int8 [n, A].

        Returns {"loss", named parts}.
        """
        raise TypeError(f"{type(self).__name__} has no forward")

    def begin(self, plan: Plan, sources: Sources, data: Data, team: Team) -> None:
        """Called on every worker of a team where a training starts from nothing, before its first step."""

    def near(self) -> Near | None:
        """Where products are, for batches of hard classes; None if the task doesn't know."""
        return None

    def validated(self, recall: dict[str, float]) -> None:
        """Told on every worker of a team after a validation: R@1 of each vertical."""


class MetricTask(Task):
    """Metric learning on products: the loss sees the embeddings of all workers of the team, in one order.

    classes: int64 [C], sorted labels of the products trained on; attributes: the dataset's words. Losses that use neither
    need neither.
    """

    loss: MetricLoss

    def __init__(
        self, embedder: Embedder, settings: Loss, group: dist.ProcessGroup | None = None, *, classes: Tensor | None = None,
        attributes: tuple[str, ...] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.embedder = embedder
        self.loss = create_loss(
            settings, dim=embedder.dim, classes=classes, attributes=attributes, features=sum(embedder.widths)
        )
        self.group = group
        self.classes = classes

    def forward(
        self, images: Tensor, labels: Tensor, lane: Tensor, row: Tensor, targets: Tensor | None = None, attributes: Tensor | None = None
    ) -> dict[str, Tensor]:  # fmt: skip
        """As Task.forward; attributes are asked for by `loss.needs_attributes`."""
        features = self.embedder.features(images)
        embeddings = gather(self.embedder.project(features), self.group)
        labels, lane, row = gather(torch.stack([labels, lane, row], 1), self.group).unbind(1)
        order = in_lane_order(lane, row)
        extra = self.loss.local(features)
        if extra is not None:
            extra = gather(extra, self.group)[order]
        if attributes is not None:
            attributes = gather(attributes, self.group)[order]
        if targets is not None:
            targets = gather(targets, self.group)[order]
        return self.parts(embeddings[order], labels[order], attributes, extra, targets)

    def parts(
        self, embeddings: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None, targets: Tensor | None
    ) -> dict[str, Tensor]:
        """{"loss", named parts} of the gathered batch, in lane order."""
        found: dict[str, Tensor] = self.loss(embeddings, labels, attributes, extra)
        return found

    def begin(self, plan: Plan, sources: Sources, data: Data, team: Team) -> None:
        """Tells a loss that wants it where its classes are."""
        self.begun = self.loss.wants_centres
        if self.begun:
            assert self.classes is not None
            self.loss.start(class_centres(self.embedder, self.classes, plan, sources, data, team))

    def near(self) -> Near | None:
        found = self.loss.class_vectors()
        return None if found is None else Near(*(t.detach().cpu().numpy() for t in found))


class AnchoredTask(MetricTask):
    """Metric learning held by teachers: the loss, plus `weight` times the distance to the teachers' embeddings; ours."""

    def __init__(self, embedder: Embedder, settings: Loss, anchor: str, weight: float, **more: Any) -> None:
        """anchor: a distillation loss without parameters; more: as for MetricTask."""
        super().__init__(embedder, settings, **more)
        self.anchor, self.weight = DistillationLoss(anchor), weight

    def parts(
        self, embeddings: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None, targets: Tensor | None
    ) -> dict[str, Tensor]:
        """{"loss", "metric", "anchor", the loss's own parts}."""
        assert targets is not None
        found = super().parts(embeddings, labels, attributes, extra, targets)
        metric, anchor = found["loss"], self.anchor(embeddings, targets)["loss"]
        return {**found, "loss": metric + self.weight * anchor, "metric": metric.detach(), "anchor": anchor.detach()}


class DistillTask(Task):
    """Distillation: targets float32 [n, E] are the specialists' embeddings of the same images.

    views: what embeds the augmented images, float32 [n, 3, H, W] of labels int64 [n]; without it, targets come with the batch.
    turned: they have more dimensions than the student and are turned to its own, in which its head is then fitted, see `fit_head`.
    """

    loss: DistillationLoss

    def __init__(
        self, embedder: Embedder, name: str, group: dist.ProcessGroup | None = None, *, teacher_dim: int = 0, lag: LagWeights | None = None,
        views: Callable[[Tensor, Tensor], Tensor] | None = None, turned: bool = False,
    ) -> None:  # fmt: skip
        super().__init__()
        self.views = views
        self.embedder = embedder
        self.loss = DistillationLoss(name, embedder.dim, teacher_dim or embedder.dim, lag, turned=turned)
        self.group = group
        self.follows_validation = lag is not None

    def forward(
        self, images: Tensor, labels: Tensor, lane: Tensor, row: Tensor, targets: Tensor | None = None, attributes: Tensor | None = None
    ) -> dict[str, Tensor]:  # fmt: skip
        """As Task.forward."""
        if self.views is not None:
            targets = self.views(images, labels)
        assert targets is not None
        # Gathered also for losses that are a mean over images: workers may have different numbers of them.
        embeddings, targets = gather(self.embedder(images), self.group), gather(targets, self.group)
        parts: dict[str, Tensor] = self.loss(embeddings, targets, gather(labels, self.group) if self.loss.lag else None)
        return parts

    def begin(self, plan: Plan, sources: Sources, data: Data, team: Team) -> None:
        """Turns the teachers' embeddings to the student's dimensions, where they have more."""
        if self.loss.basis is not None:
            assert self.views is not None
            self.loss.basis.copy_(fit_head(self.embedder, self.views, len(self.loss.basis), plan, sources, data, team))

    def validated(self, recall: dict[str, float]) -> None:
        if self.loss.lag is not None:
            self.loss.lag.update(recall)
