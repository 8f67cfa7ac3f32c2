"""The encoder as an ingress replica asks it: before a deadline, and refused in words when it doesn't answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
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
    """The encoder's deployment, from another process."""

    def __init__(self, deployment: DeploymentHandle) -> None:
        self._deployment = deployment

    async def embed(self, image: np.ndarray, deadline: float) -> np.ndarray:
        """uint8 [H, W, 3] to a unit vector, float32 [D]; deadline: of time.monotonic(). Raises Refusal."""
        return await self._before(deadline, self._deployment.remote(image))

    async def embed_many(self, images: np.ndarray, deadline: float) -> np.ndarray:
        """uint8 [N, H, W, 3] to unit vectors, float32 [N, D]. Raises Refusal."""
        return await self._before(deadline, self._deployment.many.remote(images))

    @staticmethod
    async def _before(deadline: float, reply: Awaitable[Any]) -> np.ndarray:
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return np.asarray(await reply)
        except TimeoutError as error:
            raise Refusal(
                503, "too_slow", "The encoder didn't answer before the deadline.", retry_after_s=RETRY_AFTER_S
            ) from error
        except (RayActorError, BackPressureError, DeploymentUnavailableError) as error:
            raise Refusal(
                503, "encoder_away", "The encoder can't be reached now; try again soon.", retry_after_s=RETRY_AFTER_S
            ) from error

    async def holds(self, sha256: str) -> bool:
        """Whether it answers, and with these weights."""
        try:
            async with asyncio.timeout(ASKED_S):
                return bool(await self._deployment.identity.remote() == sha256)
        except (TimeoutError, RayActorError, DeploymentUnavailableError):
            return False
