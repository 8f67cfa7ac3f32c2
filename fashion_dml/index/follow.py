"""A live shard that follows the log of the catalogue: searches say after which commit, and the commits up to it are read first."""

from __future__ import annotations

import logging

from fashion_dml.index.catalog import Catalog
from fashion_dml.index.live import LiveShard
from fashion_dml.index.translate import Untranslated, translated
from fashion_dml.storage import Location, UserError

logger = logging.getLogger(__name__)


class Behind(UserError):
    """The log can't be read up to the commit that a search asks for."""


class Follower:
    """Attributes: shard, hidden (changed items that this index can't find, since they came as a vector of another model without a
    picture).

    A commit with vectors of another model is followed when these have been translated (see `translate`). A catalogue of another
    dimension or vocabulary can't be followed at all.
    """

    def __init__(self, shard: LiveShard, catalog: Location) -> None:
        self.shard = shard
        self.hidden: set[str] = set()
        self._location = catalog
        self._catalog: Catalog | None = None

    def catch_up(self) -> None:
        """Apply what the log holds now, so that the first search needn't wait for it. A log that can't be read is told, not raised:
        the index can be searched without it."""
        try:
            if (self._location / "_delta_log").exists():
                self.reach(self._log().latest())
        except Untranslated as error:
            logger.info("Commit %d of the catalogue waits for vectors of this index's model", error.commit)
        except (UserError, OSError) as error:
            logger.error("The live catalogue can't be read now; the shard stays at commit %d: %s", self.shard.version, error)

    def reach(self, commit: int) -> int:
        """Apply what isn't applied of the commits up to this one; the commit to search after. Raises Behind, Untranslated."""
        if commit <= self.shard.version:
            return commit
        try:
            for version, changes in self._log().since(self.shard.version, commit):
                changes, hidden = translated(changes, self._location, self.shard.base.model, version)
                self.shard.apply(version, changes)
                self.hidden = (self.hidden - set(changes["item_id"].to_pylist())) | set(hidden)
        except UserError as error:
            raise Behind(str(error)) from error
        self.shard.passed(commit)
        return commit

    def _log(self) -> Catalog:
        if self._catalog is None:
            base = self.shard.base
            self._catalog = Catalog.open(self._location, dim=base.dim, attributes=base.attributes)
        return self._catalog
