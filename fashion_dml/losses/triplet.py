"""Triplet loss with negatives mined in the batch."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fashion_dml.config import Loss


class TripletLoss(nn.Module):
    """max(0, m + d_ap - d_an) on squared distances of unit vectors, averaged over the triplets that count.

    After FaceNet (Schroff 2015, arXiv 1503.03832, section 3.2) and Song 2017 (arXiv 1707.05929). With d = 2 - 2 S:

    - semi-hard: all triplets with d_ap < d_an < d_ap + m, each anchor-positive pair against every such negative;
    - batch-hard: per anchor its farthest positive and nearest negative (Hermans 2017, arXiv 1703.07737);
    - all: every triplet with a positive loss.

    Every anchor-positive pair is one row of a [M, B] matrix, M = B (K - 1) for K images a product: nothing of size B^3.
    """

    def __init__(self, settings: Loss) -> None:
        super().__init__()
        self.margin, self.mining = settings.margin, settings.mining

    def forward(self, embeddings: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Unit embeddings [B, D] and labels int64 [B] to {"loss", "triplets"}; float32, also under autocast."""
        with torch.autocast(embeddings.device.type, enabled=False):
            x = embeddings.float()
            distance = (2 - 2 * x @ x.T).clamp_min(0)
            same = labels[:, None] == labels[None, :]
            if self.mining == "batch-hard":
                return self._batch_hard(distance, same)
            anchor, positive = torch.nonzero(same & ~torch.eye(len(x), dtype=torch.bool, device=x.device), as_tuple=True)
            violation = self.margin + distance[anchor, positive][:, None] - distance[anchor]
            counted = ~(violation <= 0) & ~same[anchor]  # so written, NaN counts: a diverged model must not read as loss 0
            if self.mining == "semi-hard":
                counted &= ~(violation >= self.margin)  # d_an > d_ap
            return self._mean(violation, counted)

    def _batch_hard(self, distance: Tensor, same: Tensor) -> dict[str, Tensor]:
        itself = torch.eye(len(distance), dtype=torch.bool, device=distance.device)
        has_both = (same & ~itself).any(1) & (~same).any(1)
        farthest = distance.masked_fill(~same | itself, -1).amax(1)
        nearest = distance.masked_fill(same, 5).amin(1)
        violation = self.margin + farthest - nearest
        return self._mean(violation, ~(violation <= 0) & has_both)

    @staticmethod
    def _mean(violation: Tensor, counted: Tensor) -> dict[str, Tensor]:
        triplets = counted.sum()
        total = torch.where(counted, violation, 0.0).sum()
        return {"loss": total / triplets.clamp_min(1), "triplets": triplets}
