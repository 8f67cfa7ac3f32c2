"""The deployment that holds the models: pixels in, unit vectors out, batched over requests."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np
from ray import serve

from fashion_dml.config import Serve
from fashion_dml.index.manifest import model_dir
from fashion_dml.storage import Location, UserError
from serve.held import Held
from serve.record import embedded


@serve.deployment(name="encoder")
class EncoderDeployment:
    """Models by the sha256 of their weights: that of the live index version, and another one while it is changed over to.

    Batches what arrives within `encoder_wait_ms`; forward passes run one at a time, off the event loop.
    """

    def __init__(self, index: str, sha256: str, settings: Serve) -> None:
        from fashion_dml.inference.encode import Encoder  # torch: only in this process, not where the application is built

        root, device = Location.of(index), "cuda" if settings.encoder_gpus else "cpu"

        def opened(sha256: str) -> Encoder:
            encoder = Encoder(model_dir(root, sha256), device=device, threads=settings.encoder_threads)
            if encoder.sha256 != sha256:
                raise UserError(
                    f"The model has sha256 {encoder.sha256[:12]}, the index was made by {sha256[:12]}: build it again."
                )
            encoder.embed(np.zeros((1, encoder.height, encoder.width, 3), np.uint8))  # the first pass allocates and may compile
            return encoder

        self._held: Held[Encoder] = Held(opened, settings.keep_s)
        self._held.open(sha256)
        self._most, self._passing = settings.encoder_batch, asyncio.Lock()
        batching: Any = self._embed  # serve.batch adds these setters
        batching.set_max_batch_size(settings.encoder_batch)
        batching.set_batch_wait_timeout_s(settings.encoder_wait_ms / 1000)

    @serve.batch(max_batch_size=32, batch_wait_timeout_s=0.002)
    async def _embed(self, asked: list[tuple[str, np.ndarray]]) -> list[np.ndarray]:
        found: list[np.ndarray] = [np.empty(0)] * len(asked)
        for sha256 in {name for name, _ in asked}:  # more than one only while another version goes live
            places = [i for i, (name, _) in enumerate(asked) if name == sha256]
            vectors = await self._pass(sha256, np.stack([asked[i][1] for i in places]))
            for i, vector in zip(places, vectors, strict=True):
                found[i] = vector
        return found

    async def _pass(self, sha256: str, pixels: np.ndarray) -> np.ndarray:
        encoder = self._held.get(sha256)
        if encoder is None:
            encoder = await asyncio.to_thread(self._held.open, sha256)
        async with self._passing:
            begun = time.perf_counter()
            vectors = await asyncio.to_thread(encoder.embed, pixels)
            embedded(len(pixels), time.perf_counter() - begun)
        return vectors

    async def __call__(self, sha256: str, pixels: np.ndarray) -> np.ndarray:
        """uint8 [H, W, 3] to a unit vector of that model, float32 [D]."""
        vector: Any = await self._embed((sha256, pixels))
        return np.asarray(vector)

    async def many(self, sha256: str, pixels: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] to unit vectors, float32 [N, D], `encoder_batch` at a time: others' single images get in between."""
        parts = [await self._pass(sha256, pixels[i : i + self._most]) for i in range(0, len(pixels), self._most)]
        return np.concatenate(parts)

    async def prepare(self, sha256: str) -> None:
        """Load a model beside those that are loaded. Raises UserError."""
        await asyncio.to_thread(self._held.open, sha256)

    async def holds(self, sha256: str) -> bool:
        """Whether the model is loaded."""
        return sha256 in self._held.names()
