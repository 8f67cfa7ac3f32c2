"""Losses between a student's embeddings and its teachers'."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_dml.losses.base import promote
from fashion_dml.losses.lag import LagWeights


class DistillationLoss(nn.Module):
    """How far the student's embedding of an image is from the teacher's.

    - l2: mean_j ||s_j - t_j||^2 (Song 2017, arXiv 1707.05929, section 3.3);
    - cosine: mean_j 1 - <s_j, t_j>; on unit vectors half of l2;
    - relational: mean_ij (<s_i, s_j> - <t_i, t_j>)^2 (after UDON, NeurIPS 2024), for which dimensions may differ;
    - l2+relational: the sum of both;
    - projection: l2 between t_j and W s_j at norm 1, with a learned W [E, D], for which dimensions may differ. W belongs
      to the loss: it is trained and checkpointed with it, and thrown away with it. This form is ours.
    """

    basis: Tensor | None

    def __init__(
        self, name: str, student_dim: int = 0, teacher_dim: int = 0, lag: LagWeights | None = None, *, turned: bool = False
    ) -> None:
        """student_dim D and teacher_dim E are asked for by projection and `turned` only; raises ValueError without them.

        lag: weighs the images of a mean over images; not with relational. turned: a teacher's embedding counts by its part in `basis` [E, D],
        orthonormal columns, at norm 1; a buffer, to be set before training.
        """
        super().__init__()
        self.name = name
        self.lag = lag
        if turned and not 1 <= student_dim <= teacher_dim:
            raise ValueError(f"a teacher of {teacher_dim} dimensions can't be turned to {student_dim}")
        self.register_buffer("basis", torch.eye(teacher_dim, student_dim) if turned else None)
        self.projection: nn.Linear | None = None
        if name == "projection":
            if student_dim < 1 or teacher_dim < 1:
                raise ValueError("distill.loss = projection needs the dimensions of student and teacher")
            self.projection = nn.Linear(student_dim, teacher_dim, bias=False)
            nn.init.orthogonal_(self.projection.weight)  # begins as a rotation: no direction is lost that could be kept

    def forward(self, student: Tensor, teacher: Tensor, labels: Tensor | None = None) -> dict[str, Tensor]:
        """Unit student [B, D] and unit teacher [B, E] (E = D unless relational or projection) to {"loss"}, float32.

        labels int64 [B]: asked for by `lag`.
        """
        with torch.autocast(student.device.type, enabled=False):
            s, t = promote(student), promote(teacher)
            if self.basis is not None:
                t = F.normalize(t @ self.basis.to(t.dtype), dim=1)
            if self.projection is not None:
                s = F.normalize(s @ self.projection.weight.to(s.dtype).T, dim=1)
            elif self.name == "relational":
                return {"loss": self._relational(s, t)}
            if s.shape != t.shape:
                raise ValueError(
                    f"student {tuple(s.shape)} and teacher {tuple(t.shape)} differ; distill.loss = relational takes that, as does projection"
                )
            if self.name == "cosine":
                return {"loss": self._mean(1 - (s * t).sum(1), labels)}
            l2 = self._mean((s - t).square().sum(1), labels)
            if self.name == "l2+relational":
                relational = self._relational(s, t)
                return {"loss": l2 + relational, "l2": l2.detach(), "relational": relational.detach()}
            return {"loss": l2}

    def _mean(self, losses: Tensor, labels: Tensor | None) -> Tensor:
        if self.lag is None:
            return losses.mean()
        assert labels is not None
        weight = self.lag(labels).to(losses.dtype)
        return (weight * losses).sum() / weight.sum()

    @staticmethod
    def _relational(s: Tensor, t: Tensor) -> Tensor:
        return (s @ s.T - t @ t.T).square().mean()
