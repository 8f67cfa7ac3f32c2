"""What a search does, step by step; no HTTP here."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from fashion_dml.config import Serve
from fashion_dml.index.filters import Filter
from fashion_dml.index.live import Item as LiveItem
from fashion_dml.index.manifest import IndexManifest
from fashion_dml.index.merge import Found, merge
from fashion_dml.storage import UserError
from serve.catalogue import LiveCatalogue
from serve.decoding import decoded_before
from serve.encoding import EncoderHandle, ModelInput
from serve.errors import RETRY_AFTER_S, Refusal
from serve.query import Query, pixels
from serve.schema import SearchOptions
from serve.shards import Answers, ShardPool


class SearchService:
    """Lives in an ingress replica: decodes, asks encoder and shards, merges, and tells what it did."""

    def __init__(
        self, manifest: IndexManifest, model: ModelInput, settings: Serve, encoder: EncoderHandle, catalogue: LiveCatalogue
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
            image = await decoded_before(deadline, pixels, query, options.crop, self._model.height, self._model.width)
            decoded = time.perf_counter()
            vector = await self._encoder.embed(image, deadline)
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

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether searches can be answered, with the coverage and whether the encoder answers."""
        deadline = time.monotonic() + min(2.0, self._settings.deadline_s)
        at = await self._catalogue.current()
        answers = await self._pool.ask("describe", at, deadline=deadline)
        encoder = await self._encoder.holds(self.manifest.model)
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
