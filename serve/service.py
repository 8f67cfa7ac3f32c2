"""What a search does, step by step; no HTTP here."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError
from ray.serve.handle import DeploymentHandle

from fashion_dml.config import Serve
from fashion_dml.index.filters import Filter
from fashion_dml.index.manifest import IndexManifest
from fashion_dml.index.merge import Found, merge
from fashion_dml.storage import UserError
from serve.errors import Refusal
from serve.query import Query, pixels
from serve.schema import SearchOptions
from serve.shards import Answers, ShardPool

RETRY_AFTER_S = 2


@dataclass(frozen=True)
class ModelInput:
    """Size of the model's input, pixels."""

    height: int
    width: int


class SearchService:
    """Lives in an ingress replica: decodes, asks encoder and shards, merges, and tells what it did."""

    def __init__(self, manifest: IndexManifest, model: ModelInput, settings: Serve, encoder: DeploymentHandle) -> None:
        self.manifest, self._model, self._settings = manifest, model, settings
        self._encoder = encoder
        self._pool = ShardPool(manifest.shards, settings.shard_replicas, settings.hedge_s)
        self._columns = [(column, value) for column, _, value in (a.partition("=") for a in manifest.attributes)]

    def _deadline(self) -> float:
        return time.monotonic() + self._settings.deadline_s

    async def search(self, query: Query, options: SearchOptions) -> dict[str, Any]:
        """A SearchReply. Raises Refusal."""
        started, deadline = time.perf_counter(), self._deadline()
        where = Filter.of(options.verticals)
        try:
            where.check(self.manifest.verticals, self.manifest.attributes)
        except UserError as error:
            raise Refusal(422, "unknown_vertical", str(error)) from error
        spent = {"decode": 0.0, "encode": 0.0}
        if isinstance(query, bytes):
            begun = time.perf_counter()
            image = await asyncio.to_thread(pixels, query, options.crop, self._model.height, self._model.width)
            decoded = time.perf_counter()
            vector = await self._encode(image, deadline)
            spent = {"decode": decoded - begun, "encode": time.perf_counter() - decoded}
        elif isinstance(query, str):
            vector = (await self.item(query))[1]
        else:
            vector = query
        begun = time.perf_counter()
        grouped = options.group_by == "product"
        answers = await self._pool.ask("find", vector[None], options.k, where, grouped, deadline=deadline)
        self._check_coverage(answers, options.min_coverage)
        found = merge([answer[0][0] for answer in answers.given], options.k, group_by_product=grouped)
        ended = time.perf_counter()
        spent |= {"search": ended - begun, "total": ended - started}
        return {
            "results": self._describe(found), "k": options.k, "model": self.manifest.model[:12], "index": self.manifest.version,
            "coverage": answers.coverage, "milliseconds": {name: round(seconds * 1000, 2) for name, seconds in spent.items()},
        }  # fmt: skip

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

    async def item(self, item_id: str) -> tuple[dict[str, Any], np.ndarray]:
        """(an Item, its vector float32 [D]). Raises Refusal: 404, or 503 while the shard that may hold it is away."""
        found, vector = await self._of_item("item", item_id)
        described = self._describe(found)[0]
        described.pop("score")
        return described, vector

    async def thumbnail(self, item_id: str) -> bytes:
        """The item's JPEG. Raises Refusal."""
        return bytes(await self._of_item("thumbnail", item_id))

    async def _of_item(self, method: str, item_id: str) -> Any:
        answers = await self._pool.ask(method, item_id, deadline=self._deadline())
        for (answer,) in answers.given:
            if answer is not None:
                return answer
        if answers.coverage < 1:  # it may be in the shard that is away
            self._check_coverage(answers, 1.0)
        raise Refusal(404, "unknown_item", f"The catalogue holds no item {item_id!r}.")

    async def ready(self) -> tuple[bool, dict[str, Any]]:
        """Whether searches can be answered, with the coverage and whether the encoder answers."""
        deadline = time.monotonic() + min(2.0, self._settings.deadline_s)
        answers = await self._pool.ask("describe", deadline=deadline)
        try:
            async with asyncio.timeout(2.0):
                encoder = await self._encoder.identity.remote() == self.manifest.model
        except (TimeoutError, RayActorError, DeploymentUnavailableError):
            encoder = False
        ready = encoder and answers.coverage == 1
        return ready, {"ready": ready, "coverage": answers.coverage, "encoder": encoder, "index": self.manifest.version}

    def index(self) -> dict[str, Any]:
        """An IndexReply."""
        m = self.manifest
        return {
            "version": m.version, "model": m.model[:12], "dim": m.dim, "items": m.items, "products": m.products, "kind": m.kind,
            "shards": len(m.shards), "verticals": [{"name": name, **counts} for name, counts in sorted(m.verticals.items())],
        }  # fmt: skip

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
