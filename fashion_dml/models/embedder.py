"""The embedding model: pixels -> trunk -> linear head -> unit vector."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_dml.config import Model
from fashion_dml.models.depthwise import use_fast_depthwise
from fashion_dml.models.folded import fold_norms
from fashion_dml.models.head import CascadeHead
from fashion_dml.models.trunk import create_trunk, feature_widths, freeze_stages, tapped

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
        use_fast_depthwise(self.trunk)
        self.widths = feature_widths(self.trunk, () if headless else settings.taps)
        if settings.batch_norm == "frozen" and len(self.widths) == 1:  # a tap may read what a convolution gives before its norm
            fold_norms(self.trunk)
        self.dim = self.widths[-1] if headless else settings.dim
        self.head: nn.Module = nn.Identity()
        if not headless:
            cascade = len(self.widths) > 1
            self.head = CascadeHead(self.widths, self.dim) if cascade else nn.Linear(self.widths[0], self.dim)
        cfg: dict[str, Any] = self.trunk.pretrained_cfg  # type: ignore[assignment]
        self.register_buffer("mean", torch.tensor(cfg["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(cfg["std"]).view(1, 3, 1, 1), persistent=False)
        freeze_stages(self.trunk, settings.frozen_stages)

    def features(self, images: Tensor) -> Tensor:
        """Pooled features of the trunk, [B, F]; with taps, those of each level side by side, F = sum(widths)."""
        pixels = images.float() / 255 if images.dtype == torch.uint8 else images
        normal = ((pixels - self.mean) / self.std).contiguous(memory_format=torch.channels_last)
        if len(self.widths) == 1:
            pooled: Tensor = self.trunk(normal)
            return pooled
        return tapped(self.trunk, normal, self.settings.taps)

    def project(self, features: Tensor) -> Tensor:
        """Features [B, F] to unit embeddings float32 [B, D], under autocast too."""
        projected: Tensor = self.head(features)
        return F.normalize(projected.float(), dim=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.project(self.features(images))

    def train(self, mode: bool = True) -> Embedder:
        """As nn.Module, but frozen batch norm keeps its ImageNet statistics: a batch of one vertical has its own."""
        super().train(mode)
        if self.settings.batch_norm == "frozen":
            for module in self.trunk.modules():
                if isinstance(module, BATCH_NORMS):
                    module.eval()
        return self
