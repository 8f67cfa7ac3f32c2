"""What a search does, step by step; no HTTP here."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from fashion_dml.config import Serve
from fashion_dml.index.filters import Filter
from fashion_dml.index.live import Item as LiveItem
from fashion_dml.index.manifest import IndexManifest
from fashion_dml.index.merge import merge
from fashion_dml.storage import UserError
from serve import paging
from serve.asked import Asked
from serve.catalogue import LiveCatalogue
from serve.encoding import EncoderHandle, ModelInput
from serve.errors import RETRY_AFTER_S, Refusal
from serve.replies import Describer
from serve.schema import Options, SearchOptions
from serve.shards import Answers, ShardPool
from serve.vectors import Photos, fetch, missing, own_vector, query_vector


class SearchService:
    """Lives in an ingress replica: decodes, asks encoder and shards, merges, and tells what it did."""

    def __init__(
        self, manifest: IndexManifest, model: ModelInput, settings: Serve, encoder: EncoderHandle, catalogue: LiveCatalogue
    ) -> None:
        self.manifest, self._model, self._settings, self._catalogue = manifest, model, settings, catalogue
        self._verticals = set(manifest.verticals)  # and those that changes have brought
        self._encoder = encoder
        self._pool = ShardPool(manifest.shards, settings.shard_replicas, settings.hedge_s)
        self._photos = Photos()
        self._describe = Describer(manifest.attributes, manifest.version)

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.deadline_s

    async def search(self, asked: Asked, options: SearchOptions) -> dict[str, Any]:
        """A SearchReply. Raises Refusal."""
        answers, told = await self._answer([asked], options)
        return answers[0] | told

    async def search_batch(self, asked: Sequence[Asked], options: Options) -> dict[str, Any]:
        """A BatchReply. Raises Refusal; then no query of the batch is answered."""
        answers, told = await self._answer(asked, options)
        return {"answers": answers} | told

    async def _answer(self, asked: Sequence[Asked], options: Options) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """(an Answer a query, what is true of all of them). One round to the shards for the items given, one for the search."""
        started, deadline = time.perf_counter(), self._deadline()
        at = await self._at(options)
        where = await self._filter(options, at, deadline)
        given = await fetch(asked, self._pool, at, deadline)
        images, spent = await self._photos.embed(asked, self._model, self._encoder, deadline)
        own = [own_vector(one, given, images.get(place)) for place, one in enumerate(asked)]
        vectors = np.stack([query_vector(one, given, vector) for one, vector in zip(asked, own, strict=True)])
        begun = time.perf_counter()
        grouped, depth = options.group_by == "product", paging.depth(options, max(len(one.left_out) for one in asked))
        answers = await self._pool.ask("find", vectors, depth, where, grouped, at, deadline=deadline)
        self._check_coverage(answers, options.min_coverage)
        rankings = [
            merge(parts, depth, group_by_product=grouped) for parts in zip(*(f for ((f, _),) in answers.given), strict=True)
        ]
        pages = [
            paging.cut(ranking, options, one.left_out, {given.products[item] for item in one.left_out})
            for one, ranking in zip(asked, rankings, strict=True)
        ]
        results = self._describe.results(pages)
        catalog, version = min(reached for ((_, reached),) in answers.given), self.manifest.version
        ended = time.perf_counter()
        spent |= {"search": ended - begun, "total": ended - started}
        return [
            {"results": found} | ({"vector": vector} if options.with_vector else {})
            for found, vector in zip(results, (None if v is None else v.tolist() for v in own), strict=True)
        ], {
            "k": options.k, "offset": options.offset, "model": self.manifest.model[:12], "index": version, "catalog": catalog,
            "coverage": answers.coverage,
            "next": paging.following(options, catalog, version, more=any(len(found) == options.k for found in results)),
            "milliseconds": {name: round(seconds * 1000, 2) for name, seconds in spent.items()},
        }  # fmt: skip

    async def _at(self, options: Options) -> int:
        """The commit to search after. Raises Refusal where the one that is asked for isn't there, or no more."""
        at = await self._catalogue.current(paging.least_commit(options))
        paging.check_state(options, self.manifest.version, self.manifest.catalog, at)
        return at if options.catalog_at is None else options.catalog_at

    async def _filter(self, options: Options, at: int, deadline: float) -> Filter:
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
        return self._describe.item((await self._item(item_id)).found)

    async def thumbnail(self, item_id: str) -> tuple[bytes, str]:
        """(the item's JPEG, the name of the item's present state, as `v` of its address has it). Raises Refusal."""
        found = await self._item(item_id)
        if not found.thumbnail:
            raise Refusal(404, "no_picture", f"The item {item_id!r} was given as a vector, without a picture.")
        return found.thumbnail, self._describe.state(int(found.found.born[0]))

    async def _item(self, item_id: str) -> LiveItem:
        answers = await self._pool.ask("item", item_id, await self._catalogue.current(), deadline=self._deadline())
        for (answer,) in answers.given:
            if answer is not None:
                return answer
        raise missing(item_id, answers.coverage)

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
            "shards": len(m.shards), "catalog": self._catalogue.at, "attributes": self._describe.vocabulary(),
            "verticals": [{"name": name, **counts} for name, counts in sorted(m.verticals.items())],
        }  # fmt: skip
