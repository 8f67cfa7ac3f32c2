"""The deployment that holds the model: pixels in, unit vectors out, batched over requests."""

from __future__ import annotations

import asyncio
from typing import Any

import numpy as np
from ray import serve

from fashion_dml.config import Serve
from fashion_dml.storage import UserError


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
        self._most, self._passing = settings.encoder_batch, asyncio.Lock()
        batching: Any = self._embed  # serve.batch adds these setters
        batching.set_max_batch_size(settings.encoder_batch)
        batching.set_batch_wait_timeout_s(settings.encoder_wait_ms / 1000)
        warm = np.zeros((1, self._encoder.height, self._encoder.width, 3), np.uint8)
        self._encoder.embed(warm)  # the first pass allocates and may compile

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def _embed(self, pixels: list[np.ndarray]) -> list[np.ndarray]:
        return list(await self._pass(np.stack(pixels)))

    async def _pass(self, pixels: np.ndarray) -> np.ndarray:
        async with self._passing:
            return await asyncio.to_thread(self._encoder.embed, pixels)

    async def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] to a unit vector, float32 [D]."""
        vector: Any = await self._embed(pixels)
        return np.asarray(vector)

    async def many(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] to unit vectors, float32 [N, D], `encoder_batch` at a time: others' single images get in between."""
        parts = [await self._pass(pixels[i : i + self._most]) for i in range(0, len(pixels), self._most)]
        return np.concatenate(parts)

    async def identity(self) -> str:
        """sha256 of the weights."""
        return self._encoder.sha256
