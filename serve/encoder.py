"""The deployment that holds the model: pixels in, unit vectors out, batched over requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
from ray import serve

from fashion_dml.config import Serve
from fashion_dml.storage import UserError
from serve.record import embedded


@serve.deployment(name="encoder")
class EncoderDeployment:
    """Batches what arrives within `encoder_wait_ms`; forward passes run one at a time, off the event loop."""

    def __init__(self, model: str, sha256: str, settings: Serve) -> None:
        from fashion_dml.inference.encode import Encoder  # torch: only in this process, not where the application is built

        device = "cuda" if settings.encoder_gpus else "cpu"
        self._encoder = Encoder(model, device=device, threads=settings.encoder_threads)
        if self._encoder.sha256 != sha256:
            raise UserError(
                f"The model has sha256 {self._encoder.sha256[:12]}, the index was made by {sha256[:12]}: build the index again."
            )
        batching: Any = self._embed  # serve.batch adds these setters
        batching.set_max_batch_size(settings.encoder_batch)
        batching.set_batch_wait_timeout_s(settings.encoder_wait_ms / 1000)
        warm = np.zeros((1, self._encoder.height, self._encoder.width, 3), np.uint8)
        self._encoder.embed(warm)  # the first pass allocates and may compile

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def _embed(self, pixels: list[np.ndarray]) -> list[np.ndarray]:
        begun = time.perf_counter()
        vectors = list(await asyncio.to_thread(self._encoder.embed, np.stack(pixels)))
        embedded(len(pixels), time.perf_counter() - begun)
        return vectors

    async def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] to a unit vector, float32 [D]."""
        vector: Any = await self._embed(pixels)
        return np.asarray(vector)

    async def identity(self) -> str:
        """sha256 of the weights."""
        return self._encoder.sha256
