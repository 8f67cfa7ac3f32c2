"""From pooled features to the embedding: one linear layer, or one for each level of a cascade."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_dml.storage import UserError


class CascadeHead(nn.Module):
    """A linear layer for each level; the embedding is the levels' unit vectors side by side (HDC, arXiv 1611.05720).

    widths: features of each level, in the order in which they come.
    """

    def __init__(self, widths: list[int], dim: int) -> None:
        super().__init__()
        self.widths = widths
        self.levels = nn.ModuleList(nn.Linear(width, dim // len(widths)) for width in widths)

    def forward(self, features: Tensor) -> Tensor:
        """[B, sum(widths)] to float32 [B, D]: each level of unit length, so that none outweighs another."""
        parts = features.split(self.widths, dim=1)
        levels = zip(self.levels, parts, strict=True)
        return torch.cat([F.normalize(level(part).float(), dim=1) for level, part in levels], dim=1)


@torch.no_grad()
def pca_head(head: nn.Module, features: Tensor, *, shrink: float = 0.1) -> None:
    """Start the head as whitened PCA of the trunk's features [N, F], centred at their mean; of each level by itself.

    Whitening takes out the few directions that all photos share, so the start already ranks better than the raw
    features; `shrink` (share of the mean variance added to each) keeps small, noisy directions from being blown up.
    All specialists share this start, so their spaces stay comparable on a merged index. This choice is ours.
    """
    if isinstance(head, CascadeHead):
        for level, part in zip(head.levels, features.split(head.widths, dim=1), strict=True):
            pca_head(level, part, shrink=shrink)
        return
    assert isinstance(head, nn.Linear)
    centre = features.double().mean(0)
    centred = features.double() - centre
    covariance = centred.T @ centred / max(1, len(features) - 1)
    values, vectors = torch.linalg.eigh(covariance)
    values, vectors = values.flip(0).clamp_min(0), vectors.flip(1)
    # An eigenvector's sign is arbitrary and may differ between machines: fix it, so that runs agree.
    signs = torch.sign(vectors.gather(0, vectors.abs().argmax(0, keepdim=True)))
    kept = head.out_features
    if kept > len(values):
        raise UserError(
            f"The head has {kept} dimensions, more than the {len(values)} features before it; lower model.dim, or use model.head = random."
        )
    scale = (values[:kept] + shrink * values[:kept].mean()).clamp_min(1e-12).rsqrt()
    weight = (vectors[:, :kept] * signs[:, :kept] * scale).T
    head.weight.copy_(weight)
    head.bias.copy_(-(weight @ centre))
