"""One index version as an ingress replica serves it: a request takes it once, at its start, so no answer mixes two."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from fashion_dml.index.filters import MOST_VALUES, Filter, TooManyValues
from fashion_dml.index.manifest import IndexManifest
from fashion_dml.index.translate import Untranslated
from fashion_dml.storage import UserError
from serve.encoding import EncoderHandle, ModelInput
from serve.errors import Refusal
from serve.gather import Gathered
from serve.replies import Describer
from serve.schema import Options
from serve.shards import Answers, Layout, ShardPool
from serve.translator import Translator


@dataclass(frozen=True)
class Generation:
    """The version's manifest, the input of its model, and those that answer for it."""

    manifest: IndexManifest
    model: ModelInput
    pool: ShardPool
    encoder: EncoderHandle
    translator: Translator
    _verticals: set[str] = field(default_factory=set)  # and those that changes have brought

    @cached_property
    def layout(self) -> Layout:
        return Layout.of(self.manifest.version, self.manifest.shards, self.pool.slots)

    @cached_property
    def describer(self) -> Describer:
        return Describer(self.manifest.attributes, self.manifest.version)

    async def ask(self, method: str, *args: Any, deadline: float) -> Answers:
        """As ShardPool.ask, of this version. Commits in another model's vectors are translated first, where a shard meets some."""
        while True:
            try:
                return await self.pool.ask(self.layout, method, *args, deadline=deadline)
            except Untranslated as error:
                await self.translator.translate(self.manifest, self.model, error.commit, deadline)

    @cached_property
    def _gathered(self) -> Gathered:
        return Gathered(self.ask)

    async def find(
        self, vectors: np.ndarray, k: int, where: Filter, group_by_product: bool, at: int, *, deadline: float
    ) -> Answers:
        """The neighbours of the queries, float32 [Q, D], as the shards' `find` gives them; alike searches share a call."""
        return await self._gathered.find(vectors, k, where, group_by_product, at, deadline=deadline)

    async def embed(self, image: np.ndarray, deadline: float) -> np.ndarray:
        """uint8 [H, W, 3] to a unit vector, float32 [D]. Raises Refusal."""
        return await self.encoder.embed(self.manifest.model, image, deadline)

    async def embed_many(self, images: np.ndarray, deadline: float) -> np.ndarray:
        """uint8 [N, H, W, 3] to unit vectors, float32 [N, D]. Raises Refusal."""
        return await self.encoder.embed_many(self.manifest.model, images, deadline)

    async def prepare(self, at: int, within_s: float) -> None:
        """Have shards and encoders open the version and follow the catalogue up to commit `at`, in all slots. Raises UserError,
        Refusal."""
        await self.encoder.prepare(self.manifest.model)
        await self.pool.prepare(self.layout)
        answers = await self.ask("describe", at, deadline=time.monotonic() + within_s)
        if None in answers.of_shards:
            missing = answers.of_shards.count(None)
            raise UserError(
                f"{missing} of the {len(answers.of_shards)} slots of index version {self.manifest.version} can't follow the catalogue to commit {at}."
            )

    async def filter(self, options: Options, at: int, deadline: float) -> Filter:
        """Raises Refusal at a vertical or an attribute that neither index nor changes know, or too many of them."""
        where = Filter.of(options.verticals, options.attributes)
        self._verticals.update(self.manifest.verticals)
        if not self._verticals.issuperset(where.verticals):
            answers = await self.ask("describe", at, deadline=deadline)
            self._verticals.update(v for (state,) in answers.given for v in state["verticals"])
        try:
            where.check(self._verticals, self.manifest.attributes)
        except TooManyValues as error:
            raise Refusal(422, "bad_field", str(error), limit=MOST_VALUES) from error
        except UserError as error:
            known = self._verticals.issuperset(where.verticals)
            raise Refusal(422, "unknown_attribute" if known else "unknown_vertical", str(error)) from error
        return where
