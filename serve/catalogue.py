"""The live catalogue as an ingress replica sees it: after which commit searches look, and how changes get into the log."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence

import pyarrow as pa

from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import MOST_CHANGES, concat
from fashion_dml.index.manifest import IndexManifest
from fashion_dml.storage import Location, UserError

logger = logging.getLogger("ray.serve")
MOST_WAITING = 64 << 20  # bytes of changes that wait for a commit


class TooMuchWaits(Exception):
    """So many changes wait for their commit that no more are taken now."""


class LiveCatalogue:
    """Attributes: at, the commit that searches ask for: the newest that this process knows of.

    The log is looked at again every `poll_s` seconds, beside the search that notices; what this process commits it knows at once.
    Changes that arrive while a commit is under way wait for it and are committed together.
    """

    def __init__(self, location: Location, manifest: IndexManifest, poll_s: float) -> None:
        self.at = manifest.catalog
        self._location, self._manifest, self._poll_s = location, manifest, poll_s
        self._catalog: Catalog | None = None
        self._opening = asyncio.Lock()
        self._looked = -float("inf")
        self._looking: asyncio.Task[None] | None = None
        self._waiting: list[tuple[pa.Table, asyncio.Future[int]]] = []
        self._writing: asyncio.Task[None] | None = None

    def go_on_with(self, manifest: IndexManifest) -> None:
        """Another index version is live: searches ask for the commit that it holds already, at least."""
        self._manifest, self.at = manifest, max(self.at, manifest.catalog)

    async def current(self, least: int = 0) -> int:
        """The commit to search after; the log is looked at first where that was never done or `least` isn't known yet."""
        if least > self.at and self._looking is not None:
            await asyncio.shield(self._looking)  # begun before this request, so maybe before that commit
        wanted = least > self.at or self._looked < 0
        if self._looking is None and (wanted or time.monotonic() - self._looked >= self._poll_s):
            self._looking = asyncio.create_task(self._look())
        if self._looking is not None and wanted:
            await asyncio.shield(self._looking)
        return self.at

    async def _look(self) -> None:
        try:
            catalog = await self._open(create=False)
            if catalog is not None:
                self.at = max(self.at, await asyncio.to_thread(catalog.latest))
        except (UserError, OSError) as error:
            logger.error("The live catalogue can't be read now; searches stay at commit %d: %s", self.at, error)
        finally:
            self._looked, self._looking = time.monotonic(), None

    async def _open(self, *, create: bool) -> Catalog | None:
        """The catalogue, made where there is none if `create`. Raises UserError."""
        async with self._opening:
            if self._catalog is None:
                m = self._manifest
                if create:
                    self._catalog = await asyncio.to_thread(
                        Catalog.open_or_create, self._location, dim=m.dim, attributes=m.attributes
                    )
                elif await asyncio.to_thread((self._location / "_delta_log").exists):
                    self._catalog = await asyncio.to_thread(Catalog.open, self._location, dim=m.dim, attributes=m.attributes)
            return self._catalog

    async def append(self, changes: pa.Table) -> int:
        """The commit that made the changes durable; they are checked, and of the manifest's dimension and vocabulary.

        Raises UserError where the log can't be written to, TooMuchWaits.
        """
        if sum(table.nbytes for table, _ in self._waiting) + changes.nbytes > MOST_WAITING:
            raise TooMuchWaits
        done = asyncio.get_running_loop().create_future()
        self._waiting.append((changes, done))
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write())
        return await asyncio.shield(done)  # a client that leaves doesn't take a commit back

    async def _write(self) -> None:
        while self._waiting:
            batch = self._next()
            try:
                catalog = await self._open(create=True)
                assert catalog is not None
                version = await asyncio.to_thread(catalog.append, concat([table for table, _ in batch]))
            except Exception as error:  # whatever it is, all who wait for this commit must hear of it
                for _, done in batch:
                    done.set_exception(error)
            else:
                self.at = max(self.at, version)
                for _, done in batch:
                    done.set_result(version)

    def _next(self) -> Sequence[tuple[pa.Table, asyncio.Future[int]]]:
        """Take what waits, as much as one batch holds."""
        count, rows = 1, self._waiting[0][0].num_rows
        while count < len(self._waiting) and rows + self._waiting[count][0].num_rows <= MOST_CHANGES:
            rows += self._waiting[count][0].num_rows
            count += 1
        taken, self._waiting = self._waiting[:count], self._waiting[count:]
        return taken
