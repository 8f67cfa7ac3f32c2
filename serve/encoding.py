"""The encoder as an ingress replica asks it: before a deadline, and refused in words when it doesn't answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from serve.errors import RETRY_AFTER_S, Refusal

ASKED_S = 2.0  # how long the encoder may take to say which weights it has


@dataclass(frozen=True)
class ModelInput:
    """Size of the model's input, pixels."""

    height: int
    width: int


class EncoderHandle:
    """The encoder's deployment, from another process; models are named by the sha256 of their weights."""

    def __init__(self, deployment: DeploymentHandle) -> None:
        self._deployment = deployment

    async def embed(self, sha256: str, image: np.ndarray, deadline: float) -> np.ndarray:
        """uint8 [H, W, 3] to a unit vector, float32 [D]; deadline: of time.monotonic(). Raises Refusal."""
        return await _before(deadline, self._deployment.remote(sha256, image))

    async def embed_many(self, sha256: str, images: np.ndarray, deadline: float) -> np.ndarray:
        """uint8 [N, H, W, 3] to unit vectors, float32 [N, D]. Raises Refusal."""
        return await _before(deadline, self._deployment.many.remote(sha256, images))

    async def prepare(self, sha256: str) -> None:
        """Have every replica load a model. Raises UserError, Refusal."""
        with _refusing():
            await self._deployment.broadcast("prepare", sha256).results_async()

    async def holds(self, sha256: str) -> bool:
        """Whether it answers, and with these weights."""
        try:
            async with asyncio.timeout(ASKED_S):
                return bool(await self._deployment.holds.remote(sha256))
        except (TimeoutError, RayActorError, DeploymentUnavailableError):
            return False


async def _before(deadline: float, reply: Awaitable[Any]) -> np.ndarray:
    with _refusing():
        async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
            return np.asarray(await reply)


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
