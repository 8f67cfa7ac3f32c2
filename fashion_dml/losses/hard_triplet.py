"""Triplets of each anchor's farthest positive and nearest negative, on plain distances."""

from __future__ import annotations

import torch
from torch import Tensor

from fashion_dml.losses.base import MetricLoss
from fashion_dml.losses.memory import MemoryBank
from fashion_dml.losses.pairs import Pairs, find_pairs
from fashion_dml.losses.rows import over_rows

NONE = 8.0  # beyond any cosine: of a row without positives or without negatives
SAME = 1e-6  # a squared distance that rounding gives to the same vector: its square root has no gradient


class HardTripletLoss(MetricLoss):
    """max(0, m + d_ap - d_an) with d = ||a - b||, each anchor with its farthest positive and its nearest negative.

    Hermans 2017 (arXiv 1703.07737, section 2: batch hard, on distances that are not squared), averaged over the triplets with a loss. Where
    `triplet` with batch-hard mining takes squares, whose gradient fades with the distance, here a pair that is near is pulled or pushed
    as hard as one that is far. m: `loss.margin`, here a distance of unit vectors, 0-2.
    """

    def __init__(self, margin: float, memory: MemoryBank | None = None) -> None:
        super().__init__(memory)
        self.margin = margin

    def compute(self, x: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None) -> dict[str, Tensor]:
        """{"loss", "triplets": how many count}."""
        reference, all_labels = self.recall(x, labels)
        pairs = find_pairs(labels, all_labels)
        if pairs.width == 0:
            return {"loss": x.sum() * 0, "triplets": torch.zeros((), dtype=torch.int64, device=x.device)}
        total, triplets = over_rows(lambda s, rows: self._term(s, rows, pairs), x, reference)
        return {"loss": total / triplets.clamp_min(1), "triplets": triplets}

    def _term(self, s: Tensor, rows: slice, pairs: Pairs) -> tuple[tuple[Tensor, ...], Tensor]:
        positive, which = pairs.of(s, rows, NONE).min(1)
        s.scatter_(1, pairs.group[rows], -NONE)
        negative, nearest = s.max(1)
        (d_ap, of_positive), (d_an, of_negative) = _distance(positive), _distance(negative)
        violation = self.margin + d_ap - d_an
        missing = (positive > NONE / 2) | (negative < -NONE / 2)
        counted = ~(missing | (violation <= 0))  # NaN counts, so that a diverged model shows in the loss
        weight = counted.to(s.dtype)
        total = torch.where(counted, violation, 0).sum()
        gradient = torch.zeros_like(s).scatter_(1, nearest[:, None], (-weight * of_negative)[:, None])
        farthest = pairs.positive[rows].gather(1, which[:, None])
        return (total, counted.count_nonzero()), gradient.scatter_add_(1, farthest, (weight * of_positive)[:, None])


def _distance(cosine: Tensor) -> tuple[Tensor, Tensor]:
    """(d, its derivative -1 / d by the cosine) with d = sqrt(2 - 2 cosine); both 0 for the same vector."""
    squared = 2 - 2 * cosine
    apart = ~(squared <= SAME)
    d = torch.where(apart, squared, 1).sqrt()
    return torch.where(apart, d, 0), torch.where(apart, -1 / d, 0)
