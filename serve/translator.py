"""Makes this model's vectors of changes that the log holds in another model's: from their pictures, by the encoder."""

from __future__ import annotations

import asyncio
import logging
import time

import numpy as np
import pyarrow as pa

from fashion_dml.index.catalog import Catalog
from fashion_dml.index.manifest import IndexManifest
from fashion_dml.index.translate import keep, to_translate
from fashion_dml.storage import Location, UserError
from serve.background import detached
from serve.encoding import EncoderHandle, ModelInput
from serve.errors import RETRY_AFTER_S, Refusal
from serve.query import pixels

logger = logging.getLogger("ray.serve")
AT_ONCE = 32  # pictures that wait for the encoder
EACH_S = 60.0  # for a picture, however long the search that met it waits: the work isn't lost


class Translator:
    """Lives in an ingress replica. What several searches wait for is done once."""

    def __init__(self, catalog: Location, encoder: EncoderHandle) -> None:
        self._catalog, self._encoder = catalog, encoder
        self._working: dict[str, asyncio.Task[None]] = {}

    async def translate(self, manifest: IndexManifest, model: ModelInput, commit: int, deadline: float) -> None:
        """All that waits, from `commit` on. Raises Refusal when that isn't done by the deadline; it goes on meanwhile."""
        task = self._working.get(manifest.model)
        if task is None or task.done():
            task = self._working[manifest.model] = detached(self._from(commit, manifest, model))
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                await asyncio.shield(task)
        except TimeoutError as error:
            raise Refusal(
                503, "catalog_translating", "Changes of the catalogue are being embedded by this index's model; try again soon.",
                retry_after_s=RETRY_AFTER_S,
            ) from error  # fmt: skip
        except UserError as error:
            logger.error("changes can't be embedded by the model %s: %s", manifest.model[:12], error)
            raise Refusal(503, "catalog_away", "The catalogue can't be read now; the service's log says why.") from error

    async def _from(self, commit: int, manifest: IndexManifest, model: ModelInput) -> None:
        log = await asyncio.to_thread(Catalog.open, self._catalog, dim=manifest.dim, attributes=manifest.attributes)
        waiting = to_translate(log, manifest.model, commit - 1, await asyncio.to_thread(log.latest))
        while (found := await asyncio.to_thread(next, waiting, None)) is not None:
            number, others = found
            vectors = await self._vectors(others, manifest, model)
            await asyncio.to_thread(keep, self._catalog, manifest.model, number, others, vectors)
            logger.info("commit %d of the catalogue: %d pictures embedded by %s", number, len(vectors), manifest.model[:12])

    async def _vectors(self, others: pa.Table, manifest: IndexManifest, model: ModelInput) -> np.ndarray:
        vectors = np.full((others.num_rows, manifest.dim), np.nan, np.float32)
        gate = asyncio.Semaphore(AT_ONCE)

        async def one(row: int, picture: bytes) -> None:
            async with gate:
                try:
                    image = await asyncio.to_thread(pixels, picture, None, model.height, model.width)
                except Refusal as refusal:  # as without a picture
                    logger.error("the picture of the item %s can't be embedded: %s", others["item_id"][row], refusal.message)
                    return
                vectors[row] = await self._encoder.embed(manifest.model, image, time.monotonic() + EACH_S)

        pictures = enumerate(others["thumbnail"].to_pylist())
        await asyncio.gather(*(one(row, picture) for row, picture in pictures if picture))
        return vectors
