"""What a change of the catalogue does, step by step; no HTTP here."""

from __future__ import annotations

import asyncio
import logging
import time
from typing import Any

import numpy as np
import pyarrow as pa

from fashion_dml.config import Index, Serve
from fashion_dml.index.changes import attributes_of, changes_schema, concat, deletes, upserts
from fashion_dml.storage import UserError
from serve.catalogue import LiveCatalogue, TooMuchWaits
from serve.changes import Changes, Upsert
from serve.decoding import decoded_before
from serve.errors import RETRY_AFTER_S, Refusal
from serve.generation import Generation
from serve.live_index import LiveIndex
from serve.metrics import CHANGES
from serve.query import pixels_and_thumbnail, unit_vector

logger = logging.getLogger("ray.serve")


class CatalogueWriter:
    """Lives in an ingress replica: embeds what comes with a photo, and puts changes into the log."""

    def __init__(self, versions: LiveIndex, settings: Serve, catalogue: LiveCatalogue) -> None:
        self._versions, self._catalogue, self._deadline_s = versions, catalogue, settings.deadline_s

    async def change(self, changes: Changes) -> dict[str, Any]:
        """A Changed, when the changes are durable. Raises Refusal; then nothing of them is, but after `too_slow` they may be."""
        deadline = time.monotonic() + self._deadline_s
        table = await self._table(self._versions.live, changes, deadline)
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                version = await self._catalogue.append(table)
        except TooMuchWaits as error:
            raise Refusal(
                503, "too_many_changes", "Too many changes wait for the log; send fewer at a time.", retry_after_s=RETRY_AFTER_S
            ) from error
        except TimeoutError as error:
            raise Refusal(
                503, "too_slow", "The log didn't answer before the deadline; send the changes again, nothing is counted twice.",
                retry_after_s=RETRY_AFTER_S,
            ) from error  # fmt: skip
        except UserError as error:
            logger.error("changes could not be written: %s", error)
            raise Refusal(503, "catalog_away", "The catalogue can't be written to now; the service's log says why.") from error
        CHANGES.add("upsert", count=len(changes.upserts))
        CHANGES.add("delete", count=len(changes.deletes))
        return {"catalog": version, "upserted": len(changes.upserts), "deleted": len(changes.deletes)}

    async def _table(self, live: Generation, changes: Changes, deadline: float) -> pa.Table:
        """The changes as a batch of the catalogue. Raises Refusal."""
        items, manifest = changes.upserts, live.manifest
        schema = changes_schema(manifest.dim, len(manifest.attributes))
        places = [f"upserts.{n}" if len(items) > 1 else "" for n in range(len(items))]
        drawn = await asyncio.gather(*(self._drawn(live, *one, deadline) for one in zip(items, places, strict=True)))
        try:
            parts = [deletes(schema, changes.deletes)] if changes.deletes else []
            if items:
                parts.append(upserts(
                    schema, [i.item_id for i in items], product_ids=[i.product_id for i in items],
                    verticals=[i.vertical for i in items], vectors=np.stack([vector for vector, _, _ in drawn]),
                    attributes=np.stack([known for _, known, _ in drawn]), thumbnails=[picture for _, _, picture in drawn],
                    model=manifest.model,
                ))  # fmt: skip
            return concat(parts)
        except UserError as error:
            raise Refusal(422, "bad_change", str(error)) from error

    async def _drawn(
        self, live: Generation, item: Upsert, place: str, deadline: float
    ) -> tuple[np.ndarray, np.ndarray, bytes]:  # fmt: skip
        """(vector float32 [D], attributes int8 [A], thumbnail, b"" without an image) of an item. Raises Refusal, of this place."""
        try:
            vector, picture = await self._embedded(live, item, deadline)
            return vector, attributes_of(item.attributes, live.manifest.attributes), picture
        except UserError as error:
            raise Refusal(422, "bad_change", str(error)).at(place) from error
        except Refusal as refusal:
            raise refusal.at(place) from refusal

    async def _embedded(self, live: Generation, item: Upsert, deadline: float) -> tuple[np.ndarray, bytes]:
        vector = None if item.vector is None else unit_vector(item.vector, live.manifest.dim)
        if (data := item.image()) is None:
            assert vector is not None  # one of them is there: ItemFields sees to it
            return vector, b""
        side = int((live.manifest.config or {}).get("thumbnail_side", Index().thumbnail_side))
        sizes = live.model.height, live.model.width, side
        image, picture = await decoded_before(deadline, pixels_and_thumbnail, data, *sizes)
        return (await live.embed(image, deadline) if vector is None else vector), picture
