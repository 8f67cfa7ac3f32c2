"""The models that a process embeds with: by the sha256 of their weights, passes batched over whoever asks. No Ray here."""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import numpy as np

from fashion_dml.config import Serve
from fashion_dml.index.manifest import model_dir
from fashion_dml.storage import Location, UserError
from serve.batcher import GroupedBatcher
from serve.held import Held
from serve.record import embedded

if TYPE_CHECKING:
    from fashion_dml.inference.encode import Encoder


class Models:
    """That of the live index version, and another one while it is changed over to.

    Forward passes run one at a time, in a thread; what arrives during one goes together into the next.
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
        self._thread = ThreadPoolExecutor(1, "encoder")
        self._batched: GroupedBatcher[np.ndarray, np.ndarray] = GroupedBatcher(self._pass, settings.encoder_batch, size=len)

    async def embed(self, sha256: str, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] to unit vectors of that model, float32 [N, D]."""
        return await self._batched(sha256, images)

    async def _pass(self, sha256: str, waiting: list[np.ndarray]) -> list[np.ndarray]:
        encoder = self._held.get(sha256)
        if encoder is None:
            encoder = await asyncio.to_thread(self._held.open, sha256)
        images = waiting[0] if len(waiting) == 1 else np.concatenate(waiting)
        begun = time.perf_counter()
        vectors = await asyncio.get_running_loop().run_in_executor(self._thread, encoder.embed, images)
        embedded(len(images), time.perf_counter() - begun)
        return np.split(vectors, np.cumsum([len(one) for one in waiting])[:-1])

    async def prepare(self, sha256: str) -> None:
        """Load a model beside those that are loaded. Raises UserError."""
        await asyncio.to_thread(self._held.open, sha256)

    async def holds(self, sha256: str) -> bool:
        """Whether the model is loaded."""
        return sha256 in self._held.names()
