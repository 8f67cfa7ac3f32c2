"""The files of a catalogue's log, and what is said of those that are damaged or can't be reached.

Commit files are read here, not by deltalake: Delta's change feed gives commits in no order, and an emptied commit file passes
there for a commit without changes.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from fashion_dml import __version__
from fashion_dml.storage import Location, UserError

BATCH = re.compile(r"changes-[0-9a-f]{32}\.parquet")
COMMIT = re.compile(r"(\d{20})\.json")
CHECKPOINT = re.compile(r"(\d{20})\.checkpoint\.parquet")
A = TypeVar("A")
B = TypeVar("B")


@dataclass(frozen=True)
class Commit:
    """What a commit file says. file: the batch's name, None where it brings none; rows: its changes."""

    version: int
    file: str | None
    rows: int

    @classmethod
    def read(cls, file: Location, version: int) -> Commit:
        """Raises FileNotFoundError, or UserError if it is damaged or was written by other software."""
        try:
            actions = [json.loads(line) for line in file.read_bytes().decode().split("\n") if line.strip()]
            (info,) = (a["commitInfo"] for a in actions if "commitInfo" in a)
            adds = [a["add"] for a in actions if "add" in a and a["add"]["dataChange"]]
            rows = info.get("changes")
            if rows is None and adds:
                raise UserError(
                    f"{file} brings rows that fashion-dml did not write; restore the catalogue from before and leave it to fashion-dml."
                )
            if rows is None:
                return cls(version, None, 0)
            (add,) = adds
            if not BATCH.fullmatch(add["path"]) or json.loads(add["stats"])["numRecords"] != rows:
                raise ValueError("it contradicts itself")
            return cls(version, add["path"], int(rows))
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise damaged(file, error) from error


def commit_name(version: int) -> str:
    return f"{version:020d}.json"


def commit_info(rows: int) -> dict[str, Any]:
    return {"changes": rows, "isBlindAppend": True, "clientVersion": f"fashion-dml.{__version__}"}


def as_parquet(changes: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    pq.write_table(
        changes, sink, write_page_checksum=True, write_statistics=False, use_dictionary=["product_id", "vertical", "model"]
    )
    return sink.getvalue()


def write_synced(file: Path, data: Any) -> None:
    with file.open("xb") as stream:
        stream.write(data)
        stream.flush()
        os.fsync(stream.fileno())


def sync(*places: Location) -> None:
    """Bring local files and directories to the disk; an object store has done so."""
    for place in places:
        if place.is_local:
            handle = os.open(place.path, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def concurrently(work: Callable[[A], B], items: Iterable[A], width: int) -> Iterator[B]:
    """work(item) of each item in order, `width` of them under way at a time in threads."""
    with ThreadPoolExecutor(width) as pool:
        pending: deque[Future[B]] = deque()
        for item in items:
            pending.append(pool.submit(work, item))
            if len(pending) >= width:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def files(directory: Location) -> list[pafs.FileInfo]:
    found = directory.filesystem.get_file_info(pafs.FileSelector(directory.path, allow_not_found=True))
    return sorted((f for f in found if f.type == pafs.FileType.File), key=lambda f: f.path)


def holds_table(location: Location) -> bool:
    names = [f.base_name for f in files(location / "_delta_log")]
    return any(COMMIT.fullmatch(n) or CHECKPOINT.fullmatch(n) for n in names)


def storage_options(location: Location) -> dict[str, str]:
    """For deltalake, which reads the same variables as pyarrow but must be told of plain HTTP and of the region found."""
    if location.scheme != "s3":
        return {}
    options = {"AWS_CONDITIONAL_PUT": "etag"}
    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if endpoint:
        options |= {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(endpoint.startswith("http://")).lower()}
    region = getattr(location.filesystem, "region", "")
    return options | ({"AWS_REGION": region} if region else {})


def open_table(location: Location) -> DeltaTable:
    """Raises UserError where there is no table, or one that can't be read; names the file if one is damaged."""
    with refusing(location, "read"):
        try:
            return DeltaTable(str(location), storage_options=storage_options(location))
        except (DeltaError, OSError):
            if not holds_table(location):
                raise UserError(f"There is no catalogue in {location}; check the address, or create one there.") from None
            check_log(location / "_delta_log")
            raise


def check_log(log: Location) -> None:
    """Raises UserError at the first file that is damaged or missing, if there is one."""
    previous = -1
    for info in files(log):
        file = log / info.base_name
        if found := COMMIT.fullmatch(file.name):
            if previous not in (-1, int(found[1]) - 1):
                raise damaged(log / commit_name(previous + 1), "it is missing")
            previous = Commit.read(file, int(found[1])).version
        elif CHECKPOINT.fullmatch(file.name):
            try:
                with file.open_input() as stream:
                    pq.read_table(stream)
            except (pa.ArrowException, OSError) as error:
                raise damaged(file, error) from error


def damaged(file: Location, why: object) -> UserError:
    return UserError(
        f"{file} is damaged ({told(why)}): restore it from a copy; without it the catalogue's changes from there on can't be read."
    )


@contextlib.contextmanager
def refusing(location: Location, doing: str) -> Iterator[None]:
    """Failures of the file system or store as one sentence."""
    try:
        yield
    except (DeltaError, pa.ArrowException, OSError) as error:
        reason = told(error)
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or "os error 28" in reason:
            raise UserError(
                f"There is no space left for the catalogue in {location} ({reason}): free some and send the changes again; they were not kept."
            ) from error
        raise UserError(
            f"The catalogue in {location} can't be {doing} ({reason}); check that the place is there, is yours and answers."
        ) from error


def told(error: object) -> str:
    """What an error says, on one line, without colours and call stack."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", str(error))
    lines = [line.strip(" \t↳") for line in text.splitlines() if not re.match(r"\s*(\d+: |at )", line)]
    return " ".join(line for line in lines if line)[:300]
