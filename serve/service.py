"""What a search does, step by step; no HTTP here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fashion_dml.config import Serve
from fashion_dml.index.live import Item as LiveItem
from fashion_dml.index.merge import merge
from serve import paging
from serve.asked import Asked
from serve.catalogue import LiveCatalogue
from serve.errors import RETRY_AFTER_S, Refusal
from serve.generation import Generation
from serve.live_index import LiveIndex
from serve.record import searched
from serve.schema import Options, SearchOptions
from serve.shards import Answers
from serve.vectors import embed, fetch, missing, own_vector, query_vector


class SearchService:
    """Lives in an ingress replica: decodes, asks encoder and shards, merges, and tells what it did.

    `live` of a method is the index version that the whole request is answered from.
    """

    def __init__(self, versions: LiveIndex, settings: Serve, catalogue: LiveCatalogue) -> None:
        self.versions, self._settings, self._catalogue = versions, settings, catalogue

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.deadline_s

    async def search(self, live: Generation, asked: Asked, options: SearchOptions) -> dict[str, Any]:
        """A SearchReply. Raises Refusal."""
        answers, told = await self._answer(live, [asked], options)
        return answers[0] | told

    async def search_batch(self, live: Generation, asked: Sequence[Asked], options: Options) -> dict[str, Any]:
        """A BatchReply. Raises Refusal; then no query of the batch is answered."""
        answers, told = await self._answer(live, asked, options)
        return {"answers": answers} | told

    async def _answer(
        self, live: Generation, asked: Sequence[Asked], options: Options
    ) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(an Answer a query, what is true of all of them). One round to the shards for the items given, one for the search."""
        started, deadline = time.perf_counter(), self._deadline()
        at = await self._at(live, options)
        where = await live.filter(options, at, deadline)
        given = await fetch(asked, live, at, deadline)
        images, spent = await embed(asked, live, deadline)
        own = [own_vector(one, given, images.get(place)) for place, one in enumerate(asked)]
        vectors = np.stack([query_vector(one, given, vector) for one, vector in zip(asked, own, strict=True)])
        begun = time.perf_counter()
        grouped, depth = options.group_by == "product", paging.depth(options, max(len(one.left_out) for one in asked))
        answers = await live.find(vectors, depth, where, grouped, at, deadline=deadline)
        self._check_coverage(answers, options.min_coverage)
        rankings = [
            merge(parts, depth, group_by_product=grouped) for parts in zip(*(f for ((f, _),) in answers.given), strict=True)
        ]
        pages = [
            paging.cut(ranking, options, one.left_out, {given.products[item] for item in one.left_out})
            for one, ranking in zip(asked, rankings, strict=True)
        ]
        results = live.describer.results(pages)
        catalog, version = min(reached for ((_, reached),) in answers.given), live.manifest.version
        ended = time.perf_counter()
        spent |= {"search": ended - begun, "total": ended - started}
        searched(
            [one.source for one in asked], spent, answers.coverage, known=self._catalogue.at, reached=catalog, index=version
        )
        return [
            {"results": found} | ({"vector": vector} if options.with_vector else {})
            for found, vector in zip(results, (None if v is None else v.tolist() for v in own), strict=True)
        ], {
            "k": options.k, "offset": options.offset, "model": live.manifest.model[:12], "index": version, "catalog": catalog,
            "coverage": answers.coverage,
            "next": paging.following(options, catalog, version, more=any(len(found) == options.k for found in results)),
            "milliseconds": {name: round(seconds * 1000, 2) for name, seconds in spent.items()},
        }  # fmt: skip

    async def _at(self, live: Generation, options: Options) -> int:
        """The commit to search after. Raises Refusal where the one that is asked for isn't there, or no more."""
        at = await self._catalogue.current(paging.least_commit(options))
        paging.check_state(options, live.manifest.version, live.manifest.catalog, at)
        return at if options.catalog_at is None else options.catalog_at

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
        return live.describer.item((await self._item(live, item_id)).found)

    async def thumbnail(self, item_id: str) -> tuple[bytes, str]:
        """(the item's JPEG, the name of the item's present state, as `v` of its address has it). Raises Refusal."""
        live = self.versions.live
        found = await self._item(live, item_id)
        if not found.thumbnail:
            raise Refusal(404, "no_picture", f"The item {item_id!r} was given as a vector, without a picture.")
        return found.thumbnail, live.describer.state(int(found.found.born[0]))

    async def _item(self, live: Generation, item_id: str) -> LiveItem:
        deadline = self._deadline()
        answers = await live.ask("item", item_id, await self._catalogue.current(), deadline=deadline)
        for (answer,) in answers.given:
            if answer is not None:
                return answer
        raise missing(item_id, answers.coverage)

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether searches can be answered, with the coverage and whether the encoder answers."""
        live, deadline = self.versions.live, time.monotonic() + min(2.0, self._settings.deadline_s)
        at = await self._catalogue.current()
        answers = await live.ask("describe", at, deadline=deadline)
        encoder = await live.encoder.holds(live.manifest.model)
        states = [state for (state,) in answers.given]
        ready = encoder and answers.coverage == 1
        return ready, {
            "ready": ready, "coverage": answers.coverage, "encoder": encoder, "index": live.manifest.version, "catalog": at,
            "changed": sum(state["changed"] for state in states), "hidden": max((state["hidden"] for state in states), default=0),
        } | ({"index_problem": problem} if (problem := self._problem(answers)) else {})  # fmt: skip

    def _problem(self, answers: Answers) -> str:
        """What keeps the service from the whole of the version that should be live; "" where nothing does, or shards are but away."""
        live = self.versions.live
        if answers.coverage < 1 and live.pool.failing and not self.versions.problem:
            return f"Index version {live.manifest.version} can't be searched in all its shards; the service's log says why."
        return self.versions.problem

    async def index(self) -> dict[str, Any]:
        """An IndexReply."""
        live = self.versions.live
        m = live.manifest
        return {
            "version": m.version, "model": m.model[:12], "dim": m.dim, "items": m.items, "products": m.products, "kind": m.kind,
            "shards": len(m.shards), "catalog": self._catalogue.at, "attributes": live.describer.vocabulary(),
            "verticals": [{"name": name, **counts} for name, counts in sorted(m.verticals.items())],
            "versions": await self.versions.versions(),
        }  # fmt: skip
