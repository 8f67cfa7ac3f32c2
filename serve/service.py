"""What a search does, step by step; no HTTP here."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from fashion_dml.config import Serve
from fashion_dml.index.live import Item as LiveItem
from fashion_dml.index.merge import merge
from serve.catalogue import LiveCatalogue
from serve.describe import describe
from serve.errors import RETRY_AFTER_S, Refusal
from serve.generation import Generation
from serve.live_index import LiveIndex
from serve.query import Query, pixels
from serve.schema import SearchOptions
from serve.shards import Answers


class SearchService:
    """Lives in an ingress replica: decodes, asks encoder and shards, merges, and tells what it did.

    `live` of a method is the index version that the whole request is answered from.
    """

    def __init__(self, versions: LiveIndex, settings: Serve, catalogue: LiveCatalogue) -> None:
        self.versions, self._settings, self._catalogue = versions, settings, catalogue

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.deadline_s

    async def search(self, live: Generation, query: Query, options: SearchOptions) -> dict[str, Any]:
        """A SearchReply. Raises Refusal."""
        started, deadline = time.perf_counter(), self._deadline()
        at = await self._at(options.catalog_at_least)
        where = await live.filter(options, at, deadline)
        spent = {"decode": 0.0, "encode": 0.0}
        if isinstance(query, bytes):
            begun = time.perf_counter()
            image = await asyncio.to_thread(pixels, query, options.crop, live.model.height, live.model.width)
            decoded = time.perf_counter()
            vector = await live.embed(image, deadline)
            spent = {"decode": decoded - begun, "encode": time.perf_counter() - decoded}
        elif isinstance(query, str):
            vector = (await self._item(live, query, at)).vector
        else:
            vector = query
        begun = time.perf_counter()
        grouped = options.group_by == "product"
        answers = await live.find(vector[None], options.k, where, grouped, at, deadline=deadline)
        self._check_coverage(answers, options.min_coverage)
        found = merge([of_queries[0] for ((of_queries, _),) in answers.given], options.k, group_by_product=grouped)
        ended = time.perf_counter()
        spent |= {"search": ended - begun, "total": ended - started}
        return {
            "results": describe(found, live.columns), "k": options.k, "model": live.manifest.model[:12],
            "index": live.manifest.version, "catalog": min(reached for ((_, reached),) in answers.given),
            "coverage": answers.coverage, "milliseconds": {name: round(seconds * 1000, 2) for name, seconds in spent.items()},
        }  # fmt: skip

    async def _at(self, least: int) -> int:
        """The commit to search after. Raises Refusal where `least` isn't there."""
        at = await self._catalogue.current(least)
        if at < least:
            raise Refusal(409, "catalog_behind", f"The catalogue is at commit {at}, before {least}.", limit=at)
        return at

    @staticmethod
    def _check_coverage(answers: Answers, least: float) -> None:
        if not answers.given or answers.coverage < least:
            message = (
                f"Only {answers.coverage:.3f} of the index answered, and {max(least, 0.0):g} was asked for; try again soon."
            )
            raise Refusal(503, "low_coverage", message, limit=least, retry_after_s=RETRY_AFTER_S)

    async def item(self, item_id: str) -> dict[str, Any]:
        """An Item. Raises Refusal: 404, or 503 while the shard that may hold it is away."""
        live = self.versions.live
        found = await self._item(live, item_id, await self._at(0))
        described = describe(found.found, live.columns)[0]
        described.pop("score")
        return described

    async def thumbnail(self, item_id: str) -> bytes:
        """The item's JPEG. Raises Refusal."""
        found = await self._item(self.versions.live, item_id, await self._at(0))
        if not found.thumbnail:
            raise Refusal(404, "no_picture", f"The item {item_id!r} was given as a vector, without a picture.")
        return found.thumbnail

    async def _item(self, live: Generation, item_id: str, at: int) -> LiveItem:
        answers = await live.ask("item", item_id, at, deadline=self._deadline())
        for (answer,) in answers.given:
            if answer is not None:
                return answer
        if answers.coverage < 1:  # it may be in the shard that is away
            self._check_coverage(answers, 1.0)
        raise Refusal(404, "unknown_item", f"The catalogue holds no item {item_id!r}.")

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether searches can be answered, with the coverage and whether the encoder answers."""
        live, deadline = self.versions.live, time.monotonic() + min(2.0, self._settings.deadline_s)
        at = await self._catalogue.current()
        answers = await live.ask("describe", at, deadline=deadline)
        encoder = await live.encoder.holds(live.manifest.model)
        states = [state for (state,) in answers.given]
        unusable = next((state["unusable"] for state in states if state["unusable"]), "")
        ready = encoder and answers.coverage == 1
        return ready, {
            "ready": ready, "coverage": answers.coverage, "encoder": encoder, "index": live.manifest.version, "catalog": at,
            "changed": sum(state["changed"] for state in states), "hidden": max((state["hidden"] for state in states), default=0),
        } | ({"catalog_unusable": unusable} if unusable else {}) | (
            {"index_problem": self.versions.problem} if self.versions.problem else {}
        )  # fmt: skip

    async def index(self) -> dict[str, Any]:
        """An IndexReply."""
        live = self.versions.live
        m, attributes = live.manifest, dict[str, list[str]]()
        for column, value in live.columns:
            attributes.setdefault(column, []).append(value)
        return {
            "version": m.version, "model": m.model[:12], "dim": m.dim, "items": m.items, "products": m.products, "kind": m.kind,
            "shards": len(m.shards), "catalog": self._catalogue.at, "attributes": attributes,
            "verticals": [{"name": name, **counts} for name, counts in sorted(m.verticals.items())],
            "versions": await self.versions.versions(),
        }  # fmt: skip
