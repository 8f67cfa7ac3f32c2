"""The durable log of live catalogue changes: a Delta Lake table, one commit a batch, each batch one Parquet file.

    catalog/changes-<hex>.parquet                a batch (`changes.changes_schema`), written before its commit
    catalog/_delta_log/<version>.json            a commit: names the batch; version 0 is the creation
    catalog/_delta_log/<version>.checkpoint...   a summary, so that opening need not read every commit

`append` returns when its commit is in the log, and nothing of a batch is visible before. After the death of a process every
acknowledged batch is there, and at most one that was not acknowledged yet, whole. On a local file system it
is meant to hold after a power cut too: a commit becomes visible only when its bytes and its batch are synced, and is acknowledged
when the directory is. In an object store it is what the store says of a completed upload.

Any number of processes may append at once: a version is taken by creating a file that must not exist yet (a hard link; a
conditional PUT), so all readers see one order, and the last write of an item by that order counts.

Local commits are linked here, not by deltalake, which syncs nothing and whose cost of a commit grows with the batches in the table.
The log is kept whole: it is the only place where what never was in the dataset stands, so an index can be built anew from both.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties
from deltalake.exceptions import CommitFailedError, DeltaError
from deltalake.transaction import AddAction

from fashion_dml import __version__
from fashion_dml.index.changes import MOST_CHANGES, changes_schema, check, last_of
from fashion_dml.index.commits import (
    Commit,
    as_parquet,
    commit_info,
    commit_name,
    concurrently,
    damaged,
    holds_table,
    open_table,
    refusing,
    storage_options,
    sync,
    told,
    write_synced,
)
from fashion_dml.storage import Location, UserError

SCHEMA_VERSION = 1
PREFIX = "fashion-dml."
CHECKPOINT_EVERY = 100  # commits
HANDLE_COMMITS = 16  # deltalake's view of the table may be so many commits old before it is renewed
RETRIES = 100  # of a commit that others were faster than, within deltalake
ATTEMPTS = 20  # ... and with its view renewed
AHEAD = 4  # batches read ahead; a reader holds one more
HOOKS = PostCommitHookProperties(create_checkpoint=False, cleanup_expired_logs=False)
logger = logging.getLogger(__name__)


class Catalog:
    """Attributes: location, id (of this table; another one made in its place has another), dim, attributes (vocabulary,
    `column=value` each), schema (of every batch). Several threads may use one."""

    def __init__(self, location: Location, table: DeltaTable) -> None:
        """Use `create`, `open` or `open_or_create`."""
        settings = table.metadata().configuration
        try:
            version = int(settings[f"{PREFIX}schema"])
            self.dim = int(settings[f"{PREFIX}dim"])
            self.attributes = tuple(json.loads(settings[f"{PREFIX}attributes"]))
        except (KeyError, ValueError) as error:
            raise UserError(f"{location} holds a Delta table that is no catalogue; choose another workspace.") from error
        if version > SCHEMA_VERSION:
            raise UserError(
                f"The catalogue in {location} has schema {version}, this version ({__version__}) reads up to {SCHEMA_VERSION}: "
                "update fashion-dml or choose another workspace."
            )
        self.location, self.id = location, str(table.metadata().id)
        self.schema = changes_schema(self.dim, len(self.attributes))
        self._log = location / "_delta_log"
        self._lock = threading.RLock()
        self._table, self._known = table, 0
        self._renewed(table)

    @classmethod
    def create(cls, location: Location, *, dim: int, attributes: Sequence[str]) -> Catalog:
        """An empty catalogue for vectors of `dim` dimensions and this vocabulary. Raises UserError where something is already."""
        if dim < 1 or len(set(attributes)) != len(attributes):
            raise UserError(
                f"A catalogue needs dim >= 1 and different attributes, not dim {dim} and {len(attributes)} attributes."
            )
        if location.is_local and ("\\" in location.path or unquote(location.path) != location.path):
            raise UserError(
                f"The path {location} holds a backslash or a %, which Delta tables can't have there; choose another."
            )
        with refusing(location, "created"):
            if holds_table(location):
                raise UserError(f"{location} already holds a catalogue; open it, or choose another workspace.")
            if location.is_file() or any(c.name != "_delta_log" for c in location.children()):
                raise UserError(f"{location} holds something else; a catalogue needs a place of its own.")
            location.make_dir()
            settings = {
                f"{PREFIX}schema": str(SCHEMA_VERSION), f"{PREFIX}dim": str(dim), f"{PREFIX}attributes": json.dumps([*attributes]),
                "delta.enableExpiredLogCleanup": "false", "delta.logRetentionDuration": "interval 3650 days",
            }  # fmt: skip
            table = DeltaTable.create(
                str(location), changes_schema(dim, len(attributes)), configuration=settings, raise_if_key_not_exists=False,
                storage_options=storage_options(location), name="catalogue", post_commithook_properties=HOOKS,
            )  # fmt: skip
            sync(location / "_delta_log" / commit_name(0), location / "_delta_log", location, location.parent)
        return cls(location, table)

    @classmethod
    def open(cls, location: Location, *, dim: int | None = None, attributes: Sequence[str] | None = None) -> Catalog:
        """The catalogue that is there; dim and attributes, where given, must be its own. Raises UserError."""
        catalog = cls(location, open_table(location))
        if dim not in (None, catalog.dim):
            raise UserError(
                f"The catalogue in {location} holds vectors of {catalog.dim} dimensions, not {dim}: "
                "use the model it was made for, or choose another workspace."
            )
        if attributes is not None and tuple(attributes) != catalog.attributes:
            raise UserError(
                f"The catalogue in {location} has another vocabulary of {len(catalog.attributes)} attributes, not these {len(attributes)}: "
                "use the dataset it was made for, or choose another workspace."
            )
        return catalog

    @classmethod
    def open_or_create(cls, location: Location, *, dim: int, attributes: Sequence[str]) -> Catalog:
        """As `open`, or `create` where there is none; processes may do so at once. Raises UserError."""
        with refusing(location, "read"):
            found = holds_table(location)
        if not found:
            try:
                return cls.create(location, dim=dim, attributes=attributes)
            except UserError:
                if not holds_table(location):
                    raise  # else another process was faster
        return cls.open(location, dim=dim, attributes=attributes)

    def append(self, changes: pa.Table) -> int:
        """Make a batch durable; the version of its commit. Where this raises, nothing of it is or gets visible.

        Raises UserError at bad changes (`changes.check`) and where the catalogue can't be written to. In two cases a batch may
        be in the log although this raised: the last sync of a local disk failed, or an object store's answer was lost.
        """
        check(changes, self.schema)
        if not changes.num_rows:
            raise UserError(f"A batch of changes is empty; send 1 to {MOST_CHANGES:,}.")
        file = self.location / f"changes-{uuid.uuid4().hex}.parquet"
        commit = self._link if self.location.is_local else self._put
        with self._lock, refusing(self.location, "written to"):
            version = self._known = commit(file, changes, time.time())
            if version % CHECKPOINT_EVERY == 0:
                self._summed_up()
        return version

    def _link(self, file: Location, changes: pa.Table, began: float) -> int:
        """Write and commit a batch on a local file system."""
        log, data, now = Path(self._log.path), as_parquet(changes), int(began * 1000)
        aside = log / f"_commit_{uuid.uuid4().hex}.json.tmp"
        add = {
            "path": file.name, "partitionValues": {}, "size": data.size, "modificationTime": now, "dataChange": True,
            "stats": json.dumps({"numRecords": changes.num_rows}),
        }  # fmt: skip
        info = {
            "timestamp": now,
            "operation": "WRITE",
            "operationParameters": {"mode": "Append"},
            **commit_info(changes.num_rows),
        }
        try:
            write_synced(Path(file.path), data)
            write_synced(aside, "".join(json.dumps(action) + "\n" for action in ({"commitInfo": info}, {"add": add})).encode())
            sync(self.location)
            version = 0
            while not version:
                last = self.latest()
                sync(self._commit_file(last))  # nothing acknowledged may follow a commit that can be lost
                with contextlib.suppress(FileExistsError):  # another writer has taken this version
                    os.link(aside, self._commit_file(last + 1).path)
                    version = last + 1
        except (OSError, UserError):
            if not aside.exists() or aside.stat().st_nlink == 1:  # no commit names the batch, whatever was answered
                Path(file.path).unlink(missing_ok=True)
            raise
        finally:
            aside.unlink(missing_ok=True)
        sync(self._log)
        return version

    def _put(self, file: Location, changes: pa.Table, began: float) -> int:
        """Write and commit a batch in an object store."""
        data = as_parquet(changes)
        file.write_bytes(data)
        add = AddAction(file.name, data.size, {}, int(began * 1000), True, json.dumps({"numRecords": changes.num_rows}))
        properties = CommitProperties(custom_metadata=commit_info(changes.num_rows), max_commit_retries=RETRIES)
        for attempt in range(1, ATTEMPTS + 1):
            if attempt > 1 or self._known - self._table.version() >= HANDLE_COMMITS:
                self._renewed()
            first = self._table.version() + 1
            failure: Exception | None = None
            try:
                self._commit(add, properties)
            except (DeltaError, OSError) as error:
                failure = error
            for commit in self._commits(range(first, self.latest() + 1)):  # the log decides, whatever was answered
                if commit.file == file.name:
                    return commit.version
            if not isinstance(failure, CommitFailedError) or attempt == ATTEMPTS:
                break  # else others were faster
        raise failure or damaged(self._log, f"a commit of {file.name} is not there")

    def _commit(self, add: AddAction, properties: CommitProperties) -> None:
        self._table.create_write_transaction(
            [add], "append", self._table.schema(), commit_properties=properties, post_commithook_properties=HOOKS
        )

    def latest(self) -> int:
        """The newest commit's version; 0 before the first change. Raises UserError if the log can't be read."""
        with refusing(self.location, "read"):
            end, step = self._known, 1
            while step:
                if self._commit_file(end + step).is_file():
                    end, step = end + step, step * 2
                else:
                    step //= 2
            self._known = end if self._commit_file(end).is_file() else self._renewed()
            return self._known

    def since(self, version: int, upto: int | None = None) -> Iterator[tuple[int, pa.Table]]:
        """(commit version, its changes in row order) of the commits after `version` up to `upto` (None: the newest), in order.

        Commits without changes are left out. Holds at most AHEAD + 1 batches. Raises UserError if the log ends before
        `version` or `upto`, or if a file is damaged.
        """
        end, last = self.latest(), max(version, upto or 0)
        if last > end:
            raise UserError(
                f"The catalogue in {self.location} ends at commit {end}, before {last}: it is not the one that was asked for; "
                "restore it, or build the index anew."
            )
        with refusing(self.location, "read"):
            commits = [*self._commits(range(version + 1, end + 1))]
        return self._read([c for c in commits if c.file and (upto is None or c.version <= upto)])

    def _read(self, commits: list[Commit]) -> Iterator[tuple[int, pa.Table]]:
        with refusing(self.location, "read"):
            for commit, table in zip(commits, concurrently(self._batch, commits, AHEAD), strict=True):
                yield commit.version, table

    def state(self, upto: int | None = None, seen_as: Callable[[int, pa.Table], pa.Table] = lambda _, table: table) -> pa.Table:
        """The last change of each item, deletes too, in commit order and numbered anew. All of it in memory.

        seen_as: (commit, its changes) to the changes that are taken in their place.
        """
        whole, pending, rows = self.schema.empty_table(), list[pa.Table](), 0
        for commit, table in self.since(0, upto):
            pending.append(seen_as(commit, table))
            rows += table.num_rows
            if rows > whole.num_rows + MOST_CHANGES:
                whole, pending, rows = last_of(pa.concat_tables([whole, *pending])), [], 0
        return last_of(pa.concat_tables([whole, *pending]))

    def _commits(self, versions: range) -> Iterator[Commit]:
        """Commits in order. Raises UserError where one is missing or damaged."""

        def read(version: int) -> Commit:
            file = self._commit_file(version)
            try:
                return Commit.read(file, version)
            except FileNotFoundError as error:
                raise damaged(file, "it is missing") from error

        yield from concurrently(read, versions, 4 * AHEAD)

    def _batch(self, commit: Commit) -> pa.Table:
        """The changes of a commit."""
        file = self.location / str(commit.file)
        try:
            with file.open_input() as stream:
                table = pq.read_table(stream, page_checksum_verification=True)
        except FileNotFoundError as error:
            raise damaged(file, "it is missing") from error
        except (pa.ArrowException, OSError) as error:
            raise damaged(file, error) from error
        if not table.schema.equals(self.schema) or table.num_rows != commit.rows:
            raise damaged(file, f"it has {table.num_rows} rows of {table.schema.names}, its commit says {commit.rows}")
        return table

    def _summed_up(self) -> None:
        """Write a checkpoint. What was acknowledged doesn't depend on it."""
        try:
            version = self._renewed()
            self._table.create_checkpoint()
            made = self._log / f"{version:020d}.checkpoint.parquet"
            sync(self._commit_file(version), made, self._log / "_last_checkpoint", self._log)
        except (DeltaError, OSError, UserError) as error:
            logger.warning("no checkpoint of %s was written (%s); opening it takes longer", self.location, told(error))

    def _renewed(self, table: DeltaTable | None = None) -> int:
        """Take deltalake's view of the table anew; its version."""
        self._table = table or open_table(self.location)
        if str(self._table.metadata().id) != self.id:
            raise UserError(f"The catalogue in {self.location} was replaced by another one; open it anew.")
        self._known = self._table.version()
        return self._known

    def _commit_file(self, version: int) -> Location:
        return self._log / commit_name(version)
