"""Hard-aware deeply cascaded embedding: each level of the embedding learns from harder pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fashion_dml.config import Cascade
from fashion_dml.losses.base import MetricLoss
from fashion_dml.losses.rows import with_gradient
from fashion_dml.storage import UserError

NONE = -8.0  # the similarity of what is no negative: below any cosine, and finite, so that NONE * 0 is 0


def kth_largest(values: Tensor, k: int) -> Tensor:
    """The k-th largest (from 1) of values [n], as a scalar tensor."""
    if values.device.type == "cpu":  # selects in a tenth of the time of torch.kthvalue there, and without indices
        return torch.tensor(np.partition(values.numpy(), len(values) - k)[len(values) - k], dtype=values.dtype)
    return torch.kthvalue(values, len(values) - k + 1).values


@dataclass
class Ranked:
    """The pairs i < j that a level ranks: positives as a list, negatives as all that is not excluded, and their number."""

    first: Tensor  # int64 [P]
    second: Tensor  # int64 [P]
    excluded: Tensor  # bool [B, B]: all but the negatives above the diagonal
    negatives: int

    @staticmethod
    def all_pairs(labels: Tensor) -> Ranked:
        """Every pair of a batch, labels int64 [B]."""
        same = labels[:, None] == labels[None, :]
        first, second = same.triu(1).nonzero(as_tuple=True)
        excluded = same.logical_not_().triu_(1).logical_not_()
        return Ranked(first, second, excluded, len(labels) * (len(labels) - 1) // 2 - len(first))

    def hardest(self, positive: Tensor, similarity: Tensor, share: float) -> Ranked:
        """Of the positives' similarities [P] and the negatives' [B, B], NONE where excluded, the hardest share of each.

        Hardest is farthest for positives, nearest for negatives: distance orders pairs as their loss does, and also
        those whose loss is 0. Of n pairs ceil(share * n) are kept, and others exactly as hard as the last of them.
        """
        if share == 1:
            return self
        first, second, excluded, negatives = self.first, self.second, self.excluded, self.negatives
        if len(first):
            kept = ~(-positive < kth_largest(-positive, math.ceil(share * len(positive))))
            first, second = first[kept], second[kept]
        if negatives:
            excluded = similarity < kth_largest(similarity.flatten(), math.ceil(share * negatives))
            negatives = int(excluded.numel() - excluded.count_nonzero())
        return Ranked(first, second, excluded, negatives)


class CascadeLoss(MetricLoss):
    """Sum over the levels of the mean loss of the pairs that a level keeps (HDC: Yuan 2017, arXiv 1611.05720).

    The embedding is the levels' embeddings side by side, each of norm 1 / sqrt(levels); the loss scales them to norm 1.
    Per level, of all pairs of the batch, l+ = d and l- = weight max(0, margin - d), as in the authors' released code with
    weight 10 and margin 1; positives and negatives are ranked separately and of each only the hardest share is kept;
    the level's loss is the sum of the kept terms over the number of kept terms that are above 0.

    - own-rank (the released code): each level ranks all pairs by its own distances;
    - nested (the paper's figure): a level ranks only what the level before kept, so shares multiply;
    - all: every level keeps every pair: deep supervision, the control.

    With one share the embedding is one level: the controls with one head. A batch without positives or negatives gives 0.
    """

    def __init__(self, settings: Cascade, dim: int) -> None:
        """dim: D of the whole embedding; raises UserError where the levels don't divide it."""
        super().__init__()
        levels = len(settings.shares)
        if dim % levels:
            raise UserError(
                f"loss.cascade.shares has {levels} levels, which don't divide model.dim = {dim}; "
                f"choose a multiple, as {levels * max(1, dim // levels)}."
            )
        self.settings = settings

    def compute(self, x: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None) -> dict[str, Tensor]:
        """{"loss", "level1", "level2", ...}; x: [B, levels * D_k]."""
        settings, levels = self.settings, len(self.settings.shares)
        every = ranked = Ranked.all_pairs(labels)
        loss, parts = x.new_zeros(()), {}
        for number, (z, share) in enumerate(zip(x.chunk(levels, 1), settings.shares, strict=True), 1):
            z = z * math.sqrt(levels)
            ranks = ranked if settings.ranking == "nested" else every
            value, gradient, ranked = self.level(z, ranks, 1.0 if settings.ranking == "all" else share)
            loss, parts[f"level{number}"] = loss + with_gradient(value, z, gradient), value
        return {"loss": loss, **parts}

    @torch.no_grad()
    def level(self, z: Tensor, ranked: Ranked, share: float) -> tuple[Tensor, Tensor, Ranked]:
        """(loss, its gradient [B, D_k], the pairs kept) of one level's unit embeddings and the pairs that it ranks."""
        weight, margin = self.settings.negative_weight, self.settings.margin
        s = z @ z.T
        positive = s[ranked.first, ranked.second]
        s.masked_fill_(ranked.excluded, NONE)
        kept = ranked.hardest(positive, s, share)
        far = 2 - 2 * (z[kept.first] * z[kept.second]).sum(1)
        apart = (far > 0).to(z.dtype)
        near = s.mul_(2).add_(margin - 2)  # margin - d, in the place of s
        counted = near > 0
        if kept is not ranked:
            counted.masked_fill_(kept.excluded, False)
        terms = (counted.count_nonzero() + apart.count_nonzero()).clamp_min(1).to(z.dtype)
        scale = float(len(kept.first) > 0 and kept.negatives > 0) / terms
        gradient = counted.to(z.dtype)  # of the sum by the similarities, over 2 weight
        total = torch.dot(far, apart) + weight * torch.dot(near.flatten(), gradient.flatten())
        gradient[kept.first, kept.second] = apart / -weight
        back = (gradient @ z).addmm_(gradient.T, z)
        return total * scale, back.mul_(2 * weight * scale), kept
