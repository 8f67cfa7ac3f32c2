"""The deployment that holds the models: pixels in, unit vectors out, batched over all ingress replicas."""

from __future__ import annotations

import numpy as np
from ray import serve

from fashion_dml.config import Serve
from serve.models import Models


@serve.deployment(name="encoder")
class EncoderDeployment:
    """Models in processes of their own: where there is a GPU, or there are several ingress replicas."""

    def __init__(self, index: str, sha256: str, settings: Serve) -> None:
        self._models = Models(index, sha256, settings)

    async def __call__(self, sha256: str, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] to unit vectors of that model, float32 [N, D]."""
        return await self._models.embed(sha256, images)

    async def prepare(self, sha256: str) -> None:
        """Load a model beside those that are loaded. Raises UserError."""
        await self._models.prepare(sha256)

    async def holds(self, sha256: str) -> bool:
        """Whether the model is loaded."""
        return await self._models.holds(sha256)
