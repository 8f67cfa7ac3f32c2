"""The encoder as an ingress replica asks it: before a deadline, and refused in words when it doesn't answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve.batcher import GroupedBatcher
from serve.errors import RETRY_AFTER_S, Refusal

CALL_S = 60.0  # after which a call to the encoder is given up
ASKED_S = 2.0  # how long the encoder may take to say which weights it has


@dataclass(frozen=True)
class ModelInput:
    """Size of the model's input, pixels."""

    height: int
    width: int


class Embeds(Protocol):
    """Models that embed: in this process (serve.models.Models) or in others."""

    async def embed(self, sha256: str, images: np.ndarray) -> np.ndarray: ...
    async def prepare(self, sha256: str) -> None: ...
    async def holds(self, sha256: str) -> bool: ...


class RemoteModels:
    """The encoder's deployment, from another process: what arrives while a call is under way goes together into the next."""

    def __init__(self, deployment: DeploymentHandle, most: int, calls: int) -> None:
        self._deployment = deployment
        self._batched: GroupedBatcher[np.ndarray, np.ndarray] = GroupedBatcher(self._call, most, calls, size=len)

    async def embed(self, sha256: str, images: np.ndarray) -> np.ndarray:
        """uint8 [N, H, W, 3] to unit vectors, float32 [N, D]."""
        return await self._batched(sha256, images)

    async def _call(self, sha256: str, waiting: list[np.ndarray]) -> list[np.ndarray]:
        async with asyncio.timeout(CALL_S):  # those who wait have deadlines of their own; this lets the next ones go
            vectors = np.asarray(await self._deployment.remote(sha256, np.concatenate(waiting)))
        return np.split(vectors, np.cumsum([len(one) for one in waiting])[:-1])

    async def prepare(self, sha256: str) -> None:
        """Have every replica load a model. Raises UserError."""
        await self._deployment.broadcast("prepare", sha256).results_async()

    async def holds(self, sha256: str) -> bool:
        """Whether a replica has these weights."""
        return bool(await self._deployment.holds.remote(sha256))


class EncoderHandle:
    """The encoder as an ingress replica asks it; models are named by the sha256 of their weights."""

    def __init__(self, models: Embeds) -> None:
        self._models = models

    async def embed(self, sha256: str, image: np.ndarray, deadline: float) -> np.ndarray:
        """uint8 [H, W, 3] to a unit vector, float32 [D]; deadline: of time.monotonic(). Raises Refusal."""
        return (await self.embed_many(sha256, image[None], deadline))[0]

    async def embed_many(self, sha256: str, images: np.ndarray, deadline: float) -> np.ndarray:
        """uint8 [N, H, W, 3] to unit vectors, float32 [N, D]. Raises Refusal."""
        with _refusing():
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return np.asarray(await self._models.embed(sha256, images))

    async def prepare(self, sha256: str) -> None:
        """Have every replica load a model. Raises UserError, Refusal."""
        with _refusing():
            await self._models.prepare(sha256)

    async def holds(self, sha256: str) -> bool:
        """Whether it answers, and with these weights."""
        try:
            async with asyncio.timeout(ASKED_S):
                return await self._models.holds(sha256)
        except (TimeoutError, RayActorError, DeploymentUnavailableError):
            return False


@contextmanager
def _refusing() -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise Refusal(503, "too_slow", "The encoder didn't answer before the deadline.", retry_after_s=RETRY_AFTER_S) from error
    except (RayActorError, BackPressureError, DeploymentUnavailableError) as error:
        raise Refusal(
            503, "encoder_away", "The encoder can't be reached now; try again soon.", retry_after_s=RETRY_AFTER_S
        ) from error
