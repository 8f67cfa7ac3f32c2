"""The embedding model: pixels -> trunk -> linear head -> unit vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_dml.config import Model
from fashion_dml.models.trunk import create_trunk, freeze_stages
from fashion_dml.storage import UserError

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


class Embedder(nn.Module):
    """Maps images [B, 3, H, W], uint8 or float in [0, 1], to unit embeddings float32 [B, D].

    Without a head (`dim` None) the pooled features of the trunk are the embedding.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, settings: Model, height: int, width: int, *, headless: bool = False) -> None:
        super().__init__()
        self.settings, self.height, self.width = settings, height, width
        self.trunk = create_trunk(settings.trunk, settings.weights, height, width)
        features = int(self.trunk.head_hidden_size)  # type: ignore[arg-type]  # of the pooled output
        self.dim = features if headless else settings.dim
        self.head: nn.Module = nn.Identity() if headless else nn.Linear(features, settings.dim)
        cfg: dict[str, Any] = self.trunk.pretrained_cfg  # type: ignore[assignment]
        self.register_buffer("mean", torch.tensor(cfg["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"]).view(1, 3, 1, 1), persistent=False)
        freeze_stages(self.trunk, settings.frozen_stages)

    def features(self, images: Tensor) -> Tensor:
        """Pooled features of the trunk, [B, F]."""
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        normal = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        pooled: Tensor = self.trunk(normal)
        return pooled

    def forward(self, images: Tensor) -> Tensor:
        projected: Tensor = self.head(self.features(images))
        return F.normalize(projected.float(), dim=1)  # float32 under autocast too

    def train(self, mode: bool = True) -> Embedder:
        """As nn.Module, but frozen batch norm keeps its ImageNet statistics: a batch of one vertical has its own."""
        super().train(mode)
        if self.settings.batch_norm == "frozen":
            for module in self.trunk.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()
        return self


@torch.no_grad()
def pca_head(head: nn.Linear, features: Tensor, *, shrink: float = 0.1) -> None:
    """Start the head as whitened PCA of the trunk's features [N, F], centred at their mean.

    Whitening takes out the few directions that all photos share, so the start already ranks better than the raw
    features; `shrink` (share of the mean variance added to each) keeps small, noisy directions from being blown up.
    All specialists share this start, so their spaces stay comparable on a merged index. This choice is ours.
    """
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
            f"model.dim = {kept} is more than the trunk's {len(values)} features; lower it, or use model.head = random."
        )
    scale = (values[:kept] + shrink * values[:kept].mean()).clamp_min(1e-12).rsqrt()
    weight = (vectors[:, :kept] * signs[:, :kept] * scale).T
    head.weight.copy_(weight)
    head.bias.copy_(-(weight @ centre))
