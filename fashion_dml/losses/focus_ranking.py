"""Disorder of a query's ranked list: negatives that stand before its positives."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_dml.config import FocusRanking
from fashion_dml.losses.base import MetricLoss
from fashion_dml.losses.memory import MemoryBank
from fashion_dml.losses.pairs import Pairs, find_pairs
from fashion_dml.losses.rows import over_rows

FAR = 8.0  # beyond any cosine and margin, which is at most 2; finite, so that FAR * 0 is 0


class FocusRankingLoss(MetricLoss):
    """(1/m) sum_p disorder(p), disorder(p) = sum_n ell(margin + s(q,n) - s(q,p)), mean over the queries q.

    After the idea of focus ranking (Deng 2017, arXiv 1712.10211); this form is ours. Every image is the query of one
    unit, with all m images of its product as positives p and all others of the batch as negatives n; a query without
    either is left out. With z the argument of ell and t the temperature:

    - hinge: max(0, z); with m = k = 1 the triplet loss, on similarities;
    - softplus: log(1 + exp(z / t)), each negative for itself;
    - info-nce: log(1 + sum_n exp(z / t)), one softplus of the summed terms: N-pair (Sohn 2016) and InfoNCE.

    Rank weight: disorder(p) is multiplied by w(r) / r with w(r) = 1 + 1/2 + ... + 1/r, and r the negatives with z > 0, so
    the mean violation counts w(r) times: to climb from place 2 to 1 is worth more than from 102 to 101 (the weights of
    Usunier 2009). r is a count and has no gradient.
    """

    def __init__(self, settings: FocusRanking, memory: MemoryBank | None = None) -> None:
        super().__init__(memory)
        self.settings = settings

    def compute(self, x: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None) -> dict[str, Tensor]:
        """{"loss", "before": negatives within the margin of a positive or before it, mean over positive pairs}."""
        reference, all_labels = self.recall(x, labels)
        pairs = find_pairs(labels, all_labels)
        positives = pairs.valid.sum(1)
        units = (positives > 0) & (positives < pairs.columns - 1)
        share = units.to(x.dtype) / (positives.clamp_min(1) * units.sum().clamp_min(1))
        weight = pairs.valid * share[:, None]
        steps = torch.arange(1, pairs.columns + 1, device=x.device, dtype=x.dtype)
        harmonic = torch.cat([steps.new_ones(1), steps.reciprocal().cumsum(0) / steps])  # w(r) / r, by r
        term, depth = (self._summed, 1) if self.settings.form == "info-nce" else (self._each, pairs.width)
        loss, before = over_rows(lambda s, rows: term(s, rows, pairs, weight[rows], harmonic), x, reference, depth=depth)
        return {"loss": loss, "before": before / pairs.valid.sum().clamp_min(1)}

    def _each(
        self, s: Tensor, rows: slice, pairs: Pairs, weight: Tensor, harmonic: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        margin, temperature, hinge = self.settings.margin, self.settings.temperature, self.settings.form == "hinge"
        positive = pairs.of(s, rows, FAR)
        s.scatter_(1, pairs.group[rows], -FAR if hinge else -torch.inf)
        z = s[:, None, :] - (positive - margin)[:, :, None]  # [b, Q, R]
        each = (z > 0).to(s.dtype)
        before = each.sum(2)
        if self.settings.rank_weight:
            weight = weight * harmonic[before.long()]
        if hinge:
            penalty = z.mul_(each)  # not a clamp: NaN * 0 is NaN
        else:
            penalty = F.softplus(z.div_(temperature), threshold=40)
            each = z.sigmoid_().div_(temperature)
        total = (penalty.sum(2) * weight).sum()
        each *= weight[:, :, None]
        gradient = each.sum(1)
        gradient.scatter_add_(1, pairs.positive[rows], -each.sum(2))
        return (total, before.sum()), gradient

    def _summed(
        self, s: Tensor, rows: slice, pairs: Pairs, weight: Tensor, harmonic: Tensor
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        margin, temperature = self.settings.margin, self.settings.temperature
        positive = pairs.of(s, rows, FAR)
        s.scatter_(1, pairs.group[rows], -torch.inf)
        nearest = s.amax(1, keepdim=True)
        before = (nearest > positive - margin).sum()
        top = nearest.clamp_min(-FAR)
        s.sub_(top).div_(temperature).exp_()
        negatives = s.sum(1, keepdim=True)
        z = (margin - positive + top) / temperature + negatives.log()  # softplus(z): of all negatives of a positive
        total = (F.softplus(z, threshold=40) * weight).sum()
        back = z.sigmoid_().mul_(weight / temperature)
        gradient = s.mul_(back.sum(1, keepdim=True) / negatives.clamp_min(torch.finfo(s.dtype).tiny))
        gradient.scatter_add_(1, pairs.positive[rows], -back)
        return (total, before), gradient
