"""Triplet loss with negatives mined in the batch."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_dml.config import Loss
from fashion_dml.losses.base import MetricLoss
from fashion_dml.losses.memory import MemoryBank
from fashion_dml.losses.pairs import Pairs, find_pairs
from fashion_dml.losses.rows import over_rows

FAR = 8.0  # beyond any cosine, and any margin, which is at most 4; finite, so that FAR * 0 is 0


class TripletLoss(MetricLoss):
    """max(0, m + d_ap - d_an) on squared distances of unit vectors, averaged over the triplets that count.

    After FaceNet (Schroff 2015, arXiv 1503.03832, section 3.2) and Song 2017 (arXiv 1707.05929). With d = 2 - 2 S:

    - semi-hard: all triplets with d_ap < d_an < d_ap + m, each anchor-positive pair against every such negative;
    - batch-hard: per anchor its farthest positive and nearest negative (Hermans 2017, arXiv 1703.07737);
    - all: every triplet with a positive loss.

    With a soft margin a triplet costs log(1 + exp(d_ap - d_an)) (Hermans 2017, section 2). It has no margin at which it
    is 0, so batch-hard and all then count every triplet, semi-hard those named above.

    For K images a product a block of rows b takes [b, K - 1, B]: nothing of size B^3, nor of B^2.
    """

    def __init__(self, settings: Loss, memory: MemoryBank | None = None) -> None:
        super().__init__(memory)
        self.margin, self.mining, self.soft = settings.margin, settings.mining, settings.soft_margin

    def compute(self, x: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None) -> dict[str, Tensor]:
        """{"loss", "triplets": how many count}."""
        reference, all_labels = self.recall(x, labels)
        pairs = find_pairs(labels, all_labels)
        if pairs.width == 0:
            return {"loss": x.sum() * 0, "triplets": torch.zeros((), dtype=torch.int64, device=x.device)}
        if self.mining == "batch-hard":
            total, triplets = over_rows(lambda s, rows: self._hardest(s, rows, pairs), x, reference)
        else:
            total, triplets = over_rows(lambda s, rows: self._all(s, rows, pairs), x, reference, depth=pairs.width)
        return {"loss": total / triplets.clamp_min(1), "triplets": triplets}

    def _all(self, s: Tensor, rows: slice, pairs: Pairs) -> tuple[tuple[Tensor, ...], Tensor]:
        positive = pairs.of(s, rows, FAR)
        s.scatter_(1, pairs.group[rows], -FAR)
        violation = torch.add((self.margin - 2 * positive)[:, :, None], s[:, None, :], alpha=2)  # [b, Q, R]
        if self.soft and self.mining == "all":
            counted = violation > self.margin - FAR
        else:
            counted = violation > 0
            if self.mining == "semi-hard":
                counted &= violation < self.margin  # d_an > d_ap
        weight = counted.to(s.dtype)
        if self.soft:
            violation -= self.margin
            penalty = F.softplus(violation, threshold=40)
            total = torch.dot(penalty.flatten(), weight.flatten())
            weight *= violation.sigmoid_()
        else:
            # Multiplied rather than selected: faster, and NaN * 0 is NaN, so a diverged model doesn't read as loss 0.
            total = torch.dot(violation.flatten(), weight.flatten())
        gradient = weight.sum(1) if pairs.width > 1 else weight[:, 0]
        gradient.scatter_add_(1, pairs.positive[rows], -weight.sum(2))
        return (total, counted.count_nonzero()), gradient.mul_(2)

    def _hardest(self, s: Tensor, rows: slice, pairs: Pairs) -> tuple[tuple[Tensor, ...], Tensor]:
        positive, which = pairs.of(s, rows, FAR).min(1)
        s.scatter_(1, pairs.group[rows], -FAR)
        negative, nearest = s.max(1)
        violation = 2 * (negative - positive)
        counted = violation > (-FAR if self.soft else -self.margin)  # FAR: of one without positives or negatives
        weight = counted.to(s.dtype)
        if self.soft:
            total = torch.dot(F.softplus(violation, threshold=40), weight)
            weight *= violation.sigmoid()
        else:
            total = torch.dot(violation + self.margin, weight)
        gradient = torch.zeros_like(s)
        gradient.scatter_(1, nearest[:, None], 2 * weight[:, None])
        farthest = pairs.positive[rows].gather(1, which[:, None])
        return (total, counted.count_nonzero()), gradient.scatter_add_(1, farthest, -2 * weight[:, None])
