"""A loss of your own: supervised contrastive learning (Khosla 2020, arXiv 2004.11362, eq. 2)."""

from __future__ import annotations

import torch
from torch import Tensor

from fashion_dml.losses.base import MetricLoss
from fashion_dml.losses.memory import MemoryBank


class SupConLoss(MetricLoss):
    """Mean over anchors of -1/|P| sum_p log(exp(s_ap / t) / sum_{i != a} exp(s_ai / t)); anchors without positives are left out."""

    def __init__(self, temperature: float = 0.1, memory: MemoryBank | None = None) -> None:
        super().__init__(memory)
        self.temperature = temperature

    def compute(self, x: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None) -> dict[str, Tensor]:
        itself = torch.eye(len(x), dtype=torch.bool, device=x.device)
        positive = (labels[:, None] == labels) & ~itself
        similarity = (x @ x.T / self.temperature).masked_fill(itself, -torch.inf)
        log_share = similarity - similarity.logsumexp(1, keepdim=True)
        count = positive.sum(1)
        each = -log_share.where(positive, x.new_zeros(())).sum(1) / count.clamp_min(1)
        anchors = count > 0
        return {"loss": each.sum() / anchors.sum().clamp_min(1)}
