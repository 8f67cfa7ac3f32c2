"""An ingress replica's look at itself, every few seconds, so that metrics tell readiness where nobody asks `/readyz`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

from fastapi import FastAPI

from serve.metrics import CHANGED, COMMIT, COVERAGE, INDEX_INFO, INDEX_ITEMS, READY
from serve.service import SearchService

logger = logging.getLogger("ray.serve")
LOOK_S = 30.0  # how long a look may take before the replica counts as not ready


async def look(service: SearchService) -> None:
    """Set the gauges that describe index, catalogue and readiness."""
    ready, state = await service.ready()
    index = await service.index()
    READY.set(int(ready))
    COVERAGE.set(state["coverage"])
    COMMIT.set(state["catalog"])
    CHANGED.set(state["changed"])
    INDEX_ITEMS.set(index["items"])
    INDEX_INFO.only(index["version"], index["model"], index["kind"])


def watching(service: SearchService, every_s: float) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """A lifespan that looks at the service, and at which index version is the live one, until the application ends."""

    async def watch() -> None:
        while True:
            try:
                async with asyncio.timeout(LOOK_S):
                    await look(service)
            except Exception:  # the next look may succeed; until then the replica counts as not ready
                logger.exception("the service can't look at itself")
                READY.set(0)
            await asyncio.sleep(every_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(watch())
        async with service.versions.watching():
            yield
        task.cancel()

    return lifespan
