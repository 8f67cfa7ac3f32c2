"""Which index version an ingress replica serves, and how it changes to another one: opened beside the old, then taken at once.

The live version is the one that index/CURRENT names, unless the deployment's `user_config` pins one (`{index: VERSION}`). Every replica
looks there by itself, so it makes no difference who changed it: `POST /v1/index:activate`, `jobs.build_index`, or a rolled
back config. A version that can't be opened changes nothing: the old one is served on, and /readyz says why.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

from fashion_dml.config import Serve
from fashion_dml.index.manifest import (
    MADE_BY,
    USED_S,
    IndexManifest,
    activate,
    current,
    load,
    mark_used,
    model_dir,
    require_current,
    versions,
)
from fashion_dml.storage import Location, UserError, require_manifest
from serve.background import detached
from serve.catalogue import LiveCatalogue
from serve.encoding import EncoderHandle, ModelInput
from serve.errors import RETRY_AFTER_S, Refusal
from serve.generation import Generation
from serve.shards import ShardPool
from serve.translator import Translator

logger = logging.getLogger("ray.serve")
TRANSLATED_WITHIN_S = 600.0  # the changes that the old model embedded, before a new model's version goes live
WAITED = 0.7  # share of the deadline after which a request for another version is told that it goes on


def read_version(index: Location, version: str) -> tuple[IndexManifest, ModelInput]:
    """A version's manifest and its model's input. Raises UserError."""
    manifest = load(index, version)
    directory = model_dir(index, manifest.model)
    require_manifest(directory, made_by=MADE_BY)
    config = (directory / "config.json").read_json()
    return manifest, ModelInput(int(config["height"]), int(config["width"]))


def _named(index: Location) -> str:
    """The version that CURRENT names. Raises UserError where it is gone."""
    name = current(index)
    if name is None:
        raise UserError(f"{index} names no live version any more; make one so by `{MADE_BY} --live VERSION`.")
    return name


class LiveIndex:
    """Attributes: live (what is served now), problem (why the version that should be live isn't; "" if it is)."""

    def __init__(
        self, index: Location, settings: Serve, pool: ShardPool, encoder: EncoderHandle, catalogue: LiveCatalogue,
        translator: Translator, look_everywhere: Callable[[], Any],
    ) -> None:  # fmt: skip
        """look_everywhere: has all ingress replicas `look`, and waits for them. Raises UserError without a live version."""
        self._index, self._poll_s, self._deadline_s = index, settings.index_poll_s, settings.deadline_s
        self._pool, self._encoder, self._catalogue, self._translator = pool, encoder, catalogue, translator
        self._look_everywhere = look_everywhere
        self._pinned, self.problem = "", ""
        self._marked = -float("inf")
        self._changing = asyncio.Lock()
        self._activating: dict[str, asyncio.Task[None]] = {}
        self.live = self._generation(require_current(index).version)

    def _generation(self, version: str) -> Generation:
        manifest, model = read_version(self._index, version)
        return Generation(manifest, model, self._pool, self._encoder, self._translator)

    async def pin(self, version: str) -> None:
        """Serve this version whatever CURRENT names; "": follow CURRENT again. Raises UserError if that can't be."""
        self._pinned = version
        await self.look()

    async def look(self) -> None:
        """Change to the version that should be live, if another one is. Raises UserError; then nothing has changed."""
        async with self._changing:
            version = self._pinned or await asyncio.to_thread(_named, self._index)
            try:
                if version != self.live.manifest.version:
                    coming = await self._prepared(version)
                    self._catalogue.go_on_with(coming.manifest)
                    logger.info("index version %s follows %s", version, self.live.manifest.version)
                    self.live, self._marked = coming, -float("inf")
                self.problem = ""
            except Exception as error:
                self.problem = f"Index version {version[:80]!r} can't be served; the service's log says why."
                raise UserError(f"Index version {version[:80]!r} can't be served: {error}") from error

    async def _prepared(self, version: str) -> Generation:
        coming = await asyncio.to_thread(self._generation, version)
        at = max(await self._catalogue.current(), coming.manifest.catalog)
        await coming.prepare(at, TRANSLATED_WITHIN_S)
        return coming

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """While this lasts, look every `index_poll_s` seconds."""
        task = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _watch(self) -> None:
        told = ""
        while True:
            await asyncio.sleep(self._poll_s)
            try:
                await self.look()
            except Exception as error:  # whatever it is: it must not end the looking
                if str(error) != told:
                    logger.error("version %s stays live: %s", self.live.manifest.version, error)
                told = str(error)
            await self._mark()

    async def _mark(self) -> None:
        """Say in the workspace that a version is served whatever CURRENT names, so that no build deletes it."""
        served = self.live.manifest.version
        if (self._pinned or self.problem) and time.monotonic() - self._marked > USED_S / 8:
            self._marked = time.monotonic()
            try:
                await asyncio.to_thread(mark_used, self._index, served)
            except (UserError, OSError) as error:
                logger.warning("builds can't be told that index version %s is served, and may delete it: %s", served, error)

    async def activate(self, version: str) -> bool:
        """Make a version the live one, in all replicas; whether that is done already, else it goes on. Raises Refusal."""
        if self._pinned:
            message = f"This service's config pins index version {self._pinned}: change it there."
            raise Refusal(409, "index_pinned", message, limit=self._pinned)
        known = await asyncio.to_thread(versions, self._index)
        if version not in known:
            message = f"There is no index version {version[:80]!r}; known are {', '.join(known[-10:])}."
            raise Refusal(404, "unknown_version", message)
        task = self._activating.get(version)
        if task is None or task.done():
            task = self._activating[version] = detached(self._activate(version))
        try:
            async with asyncio.timeout(WAITED * self._deadline_s):
                await asyncio.shield(task)
        except TimeoutError:
            return False
        except UserError as error:
            logger.error("index version %s can't be made the live one: %s", version, error)
            raise Refusal(
                503, "version_unusable", f"Index version {version} can't be opened; the service's log says why.",
                retry_after_s=RETRY_AFTER_S,
            ) from error  # fmt: skip
        return True

    async def _activate(self, version: str) -> None:
        """Open it everywhere first, so that the change itself takes no time."""
        await self._prepared(version)
        await asyncio.to_thread(activate, self._index, version)
        await self._look_everywhere()

    async def versions(self) -> list[str]:
        """Names of the versions that can be activated, oldest first."""
        return await asyncio.to_thread(versions, self._index)
