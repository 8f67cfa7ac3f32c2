"""From queries to vectors: items are fetched in one round to the shards, images decoded a few at a time and embedded in one go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from serve import rocchio
from serve.asked import Asked
from serve.encoding import ModelInput
from serve.errors import RETRY_AFTER_S, Refusal
from serve.limits import DECODED_AT_ONCE
from serve.query import pixels
from serve.shards import Answers


class Shards(Protocol):
    """All shards of one index version."""

    async def ask(self, method: str, *args: Any, deadline: float) -> Answers: ...


class Encodes(Protocol):
    """The model of that version."""

    async def embed(self, image: np.ndarray, deadline: float) -> np.ndarray: ...

    async def embed_many(self, images: np.ndarray, deadline: float) -> np.ndarray: ...


@dataclass(frozen=True)
class Given:
    """The items that queries name, by item_id: their products, and vectors float32 [D]."""

    products: dict[str, str]
    vectors: dict[str, np.ndarray]


async def fetch(asked: Sequence[Asked], shards: Shards, at: int, deadline: float) -> Given:
    """All items that the queries name, after commit `at`. Raises Refusal: 404 at one that isn't there, 503 while its shard is away."""
    wanted = list(dict.fromkeys(item for one in asked for item in (*one.positive, *one.unlike)))
    if not wanted:
        return Given({}, {})
    answers = await shards.ask("items", wanted, at, deadline=deadline)
    given = Given({}, {})
    for (known,) in answers.given:
        given.products.update(zip(known.item_ids, known.product_ids, strict=True))
        given.vectors.update(zip(known.item_ids, known.vectors, strict=True))
    for one in asked:
        for item in (*one.positive, *one.unlike):
            if item not in given.vectors:
                raise missing(item, answers.coverage).at(one.place)
    return given


def missing(item_id: str, coverage: float) -> Refusal:
    """Why there is no such item among the answers."""
    if coverage == 1:
        return Refusal(404, "unknown_item", f"The catalogue holds no item {item_id!r}.")
    message = f"Only {coverage:.3f} of the index answered, and the item {item_id!r} may be in the rest; try again soon."
    return Refusal(503, "low_coverage", message, limit=1, retry_after_s=RETRY_AFTER_S)


class Photos:
    """Images of queries to vectors; of all requests of an ingress replica so few are decoded at a time, for the memory."""

    def __init__(self) -> None:
        self._decoding = asyncio.Semaphore(DECODED_AT_ONCE)

    async def embed(
        self, asked: Sequence[Asked], model: ModelInput, encoder: Encodes, deadline: float
    ) -> tuple[dict[int, np.ndarray], dict[str, float]]:
        """(vectors, float32 [D], of the queries that are images, by their place; seconds of `decode` and `encode`). Raises Refusal at
        the first image that can't be used."""
        images = {place: one for place, one in enumerate(asked) if isinstance(one.source, bytes)}
        if not images:
            return {}, {"decode": 0.0, "encode": 0.0}
        begun = time.perf_counter()
        drawn = await asyncio.gather(*(self._decoded(one, model) for one in images.values()), return_exceptions=True)
        failed = next((found for found in drawn if isinstance(found, BaseException)), None)
        if failed is not None:
            raise failed
        decoded = time.perf_counter()
        pixels_of = np.stack(drawn)  # type: ignore[arg-type]
        one = len(images) == 1  # shares a batch with what others send
        vectors = [await encoder.embed(pixels_of[0], deadline)] if one else await encoder.embed_many(pixels_of, deadline)
        spent = {"decode": decoded - begun, "encode": time.perf_counter() - decoded}
        return dict(zip(images, vectors, strict=True)), spent

    async def _decoded(self, one: Asked, model: ModelInput) -> np.ndarray:
        """uint8 [H, W, 3]."""
        assert isinstance(one.source, bytes)
        async with self._decoding:
            try:
                return await asyncio.to_thread(pixels, one.source, one.crop, model.height, model.width)
            except Refusal as refusal:
                raise refusal.at(one.place) from refusal


def own_vector(one: Asked, given: Given, image: np.ndarray | None) -> np.ndarray | None:
    """Of the photo, vector or item itself, float32 [D]; None for a query by other items alone."""
    if isinstance(one.source, str):
        return given.vectors[one.source]
    return one.source if isinstance(one.source, np.ndarray) else image


def query_vector(one: Asked, given: Given, own: np.ndarray | None) -> np.ndarray:
    """What is searched by, float32 [D]. Raises Refusal where nothing is left of it."""
    if not one.like and not one.unlike:
        assert own is not None
        return own
    positive = [given.vectors[item] for item in one.positive]
    if own is not None and not one.own:
        positive.append(own)
    negative = [given.vectors[item] for item in one.unlike]
    try:
        return rocchio.query(
            np.stack(positive), np.array(negative, np.float32).reshape(len(negative), len(positive[0])), one.unlike_weight
        )
    except Refusal as refusal:
        raise refusal.at(one.place) from refusal
