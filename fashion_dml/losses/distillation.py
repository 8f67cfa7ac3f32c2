"""Losses between a student's embeddings and its teachers'."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class DistillationLoss(nn.Module):
    """How far the student's embedding of an image is from the teacher's.

    - l2: mean_j ||s_j - t_j||^2 (Song 2017, arXiv 1707.05929, section 3.3);
    - cosine: mean_j 1 - <s_j, t_j>; on unit vectors half of l2;
    - relational: mean_ij (<s_i, s_j> - <t_i, t_j>)^2 (after UDON, NeurIPS 2024), for which dimensions may differ.
    """

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def forward(self, student: Tensor, teacher: Tensor) -> dict[str, Tensor]:
        """Unit student [B, D] and unit teacher [B, E] (E = D unless relational) to {"loss"}, float32."""
        with torch.autocast(student.device.type, enabled=False):
            s, t = student.float(), teacher.float()
            if self.name == "relational":
                return {"loss": (s @ s.T - t @ t.T).square().mean()}
            if s.shape != t.shape:
                raise ValueError(
                    f"student {tuple(s.shape)} and teacher {tuple(t.shape)} differ; distill.loss = relational takes that"
                )
            if self.name == "cosine":
                return {"loss": (1 - (s * t).sum(1)).mean()}
            return {"loss": (s - t).square().sum(1).mean()}
