"""What a search and a change of the catalogue do, step by step; no HTTP here."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from fashion_dml.config import Index, Serve
from fashion_dml.index.changes import attributes_of, concat, deletes, upserts
from fashion_dml.index.filters import Filter
from fashion_dml.index.live import Item as LiveItem
from fashion_dml.index.manifest import IndexManifest
from fashion_dml.index.merge import Found, merge
from fashion_dml.storage import UserError
from serve.catalogue import Full, LiveCatalogue
from serve.changes import Changes, Upsert
from serve.errors import Refusal
from serve.query import Query, pixels, pixels_and_thumbnail, unit_vector
from serve.schema import SearchOptions
from serve.shards import Answers, ShardPool

RETRY_AFTER_S = 2
logger = logging.getLogger("ray.serve")


class ChangesRefused(Exception):
    """What is wrong with changes that somebody sent."""


@contextlib.contextmanager
def refused_changes() -> Iterator[None]:
    """A UserError in here is about what was sent, not about the catalogue."""
    try:
        yield
    except UserError as error:
        raise ChangesRefused(str(error)) from error


@dataclass(frozen=True)
class ModelInput:
    """Size of the model's input, pixels."""

    height: int
    width: int


class SearchService:
    """Lives in an ingress replica: decodes, asks encoder and shards, merges, and tells what it did."""

    def __init__(
        self, manifest: IndexManifest, model: ModelInput, settings: Serve, encoder: DeploymentHandle, catalogue: LiveCatalogue
    ) -> None:
        self.manifest, self._model, self._settings, self._catalogue = manifest, model, settings, catalogue
        self._verticals = set(manifest.verticals)  # and those that changes have brought
        self._encoder = encoder
        self._pool = ShardPool(manifest.shards, settings.shard_replicas, settings.hedge_s)
        self._columns = [(column, value) for column, _, value in (a.partition("=") for a in manifest.attributes)]

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.deadline_s

    async def search(self, query: Query, options: SearchOptions) -> dict[str, Any]:
        """A SearchReply. Raises Refusal."""
        started, deadline = time.perf_counter(), self._deadline()
        at = await self._at(options.catalog_at_least)
        where = await self._filter(options, at, deadline)
        spent = {"decode": 0.0, "encode": 0.0}
        if isinstance(query, bytes):
            begun = time.perf_counter()
            image = await asyncio.to_thread(pixels, query, options.crop, self._model.height, self._model.width)
            decoded = time.perf_counter()
            vector = await self._encode(image, deadline)
            spent = {"decode": decoded - begun, "encode": time.perf_counter() - decoded}
        elif isinstance(query, str):
            vector = (await self._item(query, at)).vector
        else:
            vector = query
        begun = time.perf_counter()
        grouped = options.group_by == "product"
        answers = await self._pool.ask("find", vector[None], options.k, where, grouped, at, deadline=deadline)
        self._check_coverage(answers, options.min_coverage)
        found = merge([of_queries[0] for ((of_queries, _),) in answers.given], options.k, group_by_product=grouped)
        ended = time.perf_counter()
        spent |= {"search": ended - begun, "total": ended - started}
        return {
            "results": self._describe(found), "k": options.k, "model": self.manifest.model[:12], "index": self.manifest.version,
            "catalog": min(reached for ((_, reached),) in answers.given), "coverage": answers.coverage,
            "milliseconds": {name: round(seconds * 1000, 2) for name, seconds in spent.items()},
        }  # fmt: skip

    async def _at(self, least: int) -> int:
        """The commit to search after. Raises Refusal where `least` isn't there."""
        at = await self._catalogue.current(least)
        if at < least:
            raise Refusal(409, "catalog_behind", f"The catalogue is at commit {at}, before {least}.", limit=at)
        return at

    async def _filter(self, options: SearchOptions, at: int, deadline: float) -> Filter:
        """Raises Refusal at a vertical or an attribute that neither index nor changes know."""
        where = Filter.of(options.verticals, options.attributes)
        if not self._verticals.issuperset(where.verticals):
            answers = await self._pool.ask("describe", at, deadline=deadline)
            self._verticals.update(v for (state,) in answers.given for v in state["verticals"])
        try:
            where.check(self._verticals, self.manifest.attributes)
        except UserError as error:
            known = self._verticals.issuperset(where.verticals)
            raise Refusal(422, "unknown_attribute" if known else "unknown_vertical", str(error)) from error
        return where

    async def _encode(self, image: np.ndarray, deadline: float) -> np.ndarray:
        """uint8 [H, W, 3] to a unit vector, float32 [D], before the deadline."""
        try:
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                return np.asarray(await self._encoder.remote(image))
        except TimeoutError as error:
            raise Refusal(
                503, "too_slow", "The encoder didn't answer before the deadline.", retry_after_s=RETRY_AFTER_S
            ) from error
        except (RayActorError, BackPressureError, DeploymentUnavailableError) as error:
            raise Refusal(
                503, "encoder_away", "The encoder can't be reached now; try again soon.", retry_after_s=RETRY_AFTER_S
            ) from error

    @staticmethod
    def _check_coverage(answers: Answers, least: float) -> None:
        if not answers.given or answers.coverage < least:
            message = (
                f"Only {answers.coverage:.3f} of the index answered, and {max(least, 0.0):g} was asked for; try again soon."
            )
            raise Refusal(503, "low_coverage", message, limit=least, retry_after_s=RETRY_AFTER_S)

    async def item(self, item_id: str) -> dict[str, Any]:
        """An Item. Raises Refusal: 404, or 503 while the shard that may hold it is away."""
        found = await self._item(item_id, await self._at(0))
        described = self._describe(found.found)[0]
        described.pop("score")
        return described

    async def thumbnail(self, item_id: str) -> bytes:
        """The item's JPEG. Raises Refusal."""
        found = await self._item(item_id, await self._at(0))
        if not found.thumbnail:
            raise Refusal(404, "no_picture", f"The item {item_id!r} was given as a vector, without a picture.")
        return found.thumbnail

    async def _item(self, item_id: str, at: int) -> LiveItem:
        answers = await self._pool.ask("item", item_id, at, deadline=self._deadline())
        for (answer,) in answers.given:
            if answer is not None:
                return answer
        if answers.coverage < 1:  # it may be in the shard that is away
            self._check_coverage(answers, 1.0)
        raise Refusal(404, "unknown_item", f"The catalogue holds no item {item_id!r}.")

    async def change(self, changes: Changes) -> dict[str, Any]:
        """A Changed, when the changes are durable. Raises Refusal; then nothing of them is, but after `too_slow` they may be."""
        deadline = self._deadline()
        try:
            schema = await self._catalogue.schema()
            table = await self._table(schema, changes, deadline)
            async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                version = await self._catalogue.append(table)
        except Full as error:
            raise Refusal(
                503, "too_many_changes", "Too many changes wait for the log; send fewer at a time.", retry_after_s=RETRY_AFTER_S
            ) from error
        except TimeoutError as error:
            raise Refusal(
                503, "too_slow", "The log didn't answer before the deadline; send the changes again, nothing is counted twice.",
                retry_after_s=RETRY_AFTER_S,
            ) from error  # fmt: skip
        except ChangesRefused as error:
            raise Refusal(422, "bad_change", str(error)) from error
        except UserError as error:
            logger.error("changes could not be written: %s", error)
            raise Refusal(503, "catalog_away", "The catalogue can't be written to now; its log says why.") from error
        return {"catalog": version, "upserted": len(changes.upserts), "deleted": len(changes.deletes)}

    async def _table(self, schema: pa.Schema, changes: Changes, deadline: float) -> pa.Table:
        """The changes as a batch of the catalogue. Raises Refusal."""
        drawn = await asyncio.gather(*(self._drawn(u, deadline) for u in changes.upserts))
        parts = []
        with refused_changes():
            if changes.upserts:
                ups, vocabulary = changes.upserts, self.manifest.attributes
                marks = [attributes_of(u.attributes, vocabulary) for u in ups]
                parts.append(upserts(
                    schema, [u.item_id for u in ups], product_ids=[u.product_id for u in ups], verticals=[u.vertical for u in ups],
                    vectors=np.stack([vector for vector, _ in drawn]), attributes=np.stack(marks),
                    thumbnails=[picture for _, picture in drawn], model=self.manifest.model,
                ))  # fmt: skip
            if changes.deletes:
                parts.append(deletes(schema, changes.deletes))
            return concat(parts)

    async def _drawn(self, item: Upsert, deadline: float) -> tuple[np.ndarray, bytes]:
        """(its vector float32 [D], its thumbnail, b"" without an image). Raises Refusal."""
        picture, side = b"", int((self.manifest.config or {}).get("thumbnail_side", Index().thumbnail_side))
        vector = None if item.vector is None else unit_vector(item.vector, self.manifest.dim)
        if (data := item.image()) is not None:
            image, picture = await asyncio.to_thread(pixels_and_thumbnail, data, self._model.height, self._model.width, side)
            if vector is None:
                vector = await self._encode(image, deadline)
        assert vector is not None
        return vector, picture

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether searches can be answered, with the coverage and whether the encoder answers."""
        deadline = time.monotonic() + min(2.0, self._settings.deadline_s)
        at = await self._catalogue.current()
        answers = await self._pool.ask("describe", at, deadline=deadline)
        try:
            async with asyncio.timeout(2.0):
                encoder = await self._encoder.identity.remote() == self.manifest.model
        except (TimeoutError, RayActorError, DeploymentUnavailableError):
            encoder = False
        ready = encoder and answers.coverage == 1
        unusable = next((state["unusable"] for (state,) in answers.given if state["unusable"]), "")
        return ready, {
            "ready": ready, "coverage": answers.coverage, "encoder": encoder, "index": self.manifest.version, "catalog": at,
            "changed": sum(state["changed"] for (state,) in answers.given),
        } | ({"catalog_unusable": unusable} if unusable else {})  # fmt: skip

    def index(self) -> dict[str, Any]:
        """An IndexReply."""
        m = self.manifest
        return {
            "version": m.version, "model": m.model[:12], "dim": m.dim, "items": m.items, "products": m.products, "kind": m.kind,
            "shards": len(m.shards), "catalog": self._catalogue.at, "attributes": self._vocabulary(),
            "verticals": [{"name": name, **counts} for name, counts in sorted(m.verticals.items())],
        }  # fmt: skip

    def _vocabulary(self) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for column, value in self._columns:
            found.setdefault(column, []).append(value)
        return found

    def _describe(self, found: Found) -> list[dict[str, Any]]:
        return [
            {
                "item_id": item_id, "product_id": found.product_ids[i], "vertical": found.verticals[i],
                "score": round(float(found.scores[i]), 6), "image_url": f"/v1/items/{item_id}/image",
                "attributes": self._attributes(found.attributes[i]),
            }
            for i, item_id in enumerate(found.item_ids)
        ]  # fmt: skip

    def _attributes(self, values: np.ndarray) -> dict[str, str]:
        """{column: value} of what is known to hold; several values of a column are joined by commas."""
        described: dict[str, str] = {}
        for place in np.flatnonzero(values == 1):
            column, value = self._columns[place]
            described[column] = f"{described[column]}, {value}" if column in described else value
        return described
