"""One place for URIs: local paths, s3:// and gs:// through pyarrow.fs, and how a result becomes complete.

A result directory is complete when its `manifest.json` is there. It is written last, and every file before it is
written atomically, so a killed process leaves nothing that looks finished.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs

from fashion_dml import __version__
from fashion_dml.local_copies import local_copy

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
ABANDONED_S = 3600.0  # a draft that nobody has touched for so long is a killed process's


class UserError(Exception):
    """Something the user can mend: what was wrong, the value, the limit, what to do; in one sentence."""


@dataclass(frozen=True)
class Location:
    """A file or directory, local or in an object store. `location / "name"` goes down."""

    filesystem: pafs.FileSystem
    path: str
    scheme: str = "file"

    @classmethod
    def of(cls, uri: str | Path | Location) -> Location:
        if isinstance(uri, Location):
            return uri
        text = str(uri)
        if "://" in text and not text.startswith("file://"):
            try:
                filesystem, path = pafs.FileSystem.from_uri(text)
            except (ValueError, OSError) as error:
                raise UserError(
                    f"The address {text!r} can't be opened ({error}); use a path, s3://bucket/... or gs://bucket/..."
                ) from error
            return cls(filesystem, path, text.split("://", 1)[0])
        return cls(pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(text.removeprefix("file://"))))

    def __truediv__(self, name: str) -> Location:
        return Location(self.filesystem, f"{self.path.rstrip('/')}/{name}", self.scheme)

    def __str__(self) -> str:
        return self.path if self.is_local else f"{self.scheme}://{self.path}"

    @property
    def is_local(self) -> bool:
        return self.scheme == "file"

    @property
    def name(self) -> str:
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    @property
    def parent(self) -> Location:
        return Location(self.filesystem, self.path.rstrip("/").rsplit("/", 1)[0] or "/", self.scheme)

    def _kind(self) -> pafs.FileType:
        return self.filesystem.get_file_info(self.path).type

    def exists(self) -> bool:
        return self._kind() != pafs.FileType.NotFound

    def is_file(self) -> bool:
        return self._kind() == pafs.FileType.File

    def is_dir(self) -> bool:
        return self._kind() == pafs.FileType.Directory

    def size(self) -> int:
        return int(self.filesystem.get_file_info(self.path).size)

    def children(self) -> list[Location]:
        """Direct children, sorted by name; empty if the directory is missing."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path, allow_not_found=True))
        return [Location(self.filesystem, i.path, self.scheme) for i in sorted(found, key=lambda i: i.path)]

    def walk(self) -> list[Location]:
        """All files below, sorted by path."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path, recursive=True, allow_not_found=True))
        return [
            Location(self.filesystem, i.path, self.scheme)
            for i in sorted(found, key=lambda i: i.path)
            if i.type == pafs.FileType.File
        ]

    def sizes(self) -> dict[str, int]:
        """Path below this directory -> bytes, of all files below it."""
        found = self.filesystem.get_file_info(pafs.FileSelector(self.path, recursive=True, allow_not_found=True))
        return {i.path.removeprefix(self.path).lstrip("/"): int(i.size) for i in found if i.type == pafs.FileType.File}

    def open_input(self) -> Any:
        return self.filesystem.open_input_file(self.path)

    def read_bytes(self) -> bytes:
        with self.filesystem.open_input_stream(self.path) as stream:
            return bytes(stream.read())

    def read_json(self) -> Any:
        return json.loads(self.read_bytes())

    def make_dir(self) -> None:
        """Create the directory where there is none. Raises UserError if it can't be written to."""
        try:
            self.filesystem.create_dir(self.path, recursive=True)
        except OSError as error:
            raise UserError(f"{self} can't be written to ({error}); choose a place that is there and is yours.") from error

    @contextlib.contextmanager
    def writing(self) -> Iterator[Any]:
        """An output stream; the file appears whole when the block ends, and not at all if it fails.

        Raises UserError on a full disk.
        """
        self.parent.make_dir()
        try:
            yield from self._writing()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise UserError(
                    f"There is no space left to write {self}: free some, then run the job again; it goes on where it stopped."
                ) from error
            raise

    def _writing(self) -> Iterator[Any]:
        if not self.is_local:  # an object store shows a file only when its upload has been closed
            with tempfile.TemporaryFile() as whole:  # closing an upload halfway would publish the half
                yield whole
                whole.seek(0)
                with self.filesystem.open_output_stream(self.path) as stream:
                    shutil.copyfileobj(whole, stream, 1 << 20)
            return
        aside = f"{self.path}.{uuid.uuid4().hex[:8]}.partial"
        try:
            with self.filesystem.open_output_stream(aside) as stream:
                yield stream
            os.replace(aside, self.path)
        finally:
            Path(aside).unlink(missing_ok=True)

    def write_bytes(self, data: bytes) -> None:
        with self.writing() as stream:
            stream.write(data)

    def write_json(self, value: Any) -> None:
        self.write_bytes((json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode())

    def delete(self) -> None:
        """Remove the file, or the directory with all it holds; nothing happens if it is missing."""
        kind = self._kind()
        if kind == pafs.FileType.File:
            self.filesystem.delete_file(self.path)
        elif kind == pafs.FileType.Directory:
            self.filesystem.delete_dir(self.path)

    def sha256(self) -> str:
        """Hex digest of the file, read in blocks."""
        digest = hashlib.sha256()
        with self.filesystem.open_input_stream(self.path) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return digest.hexdigest()

    def local_file(self) -> Path:
        """A path that other libraries can open: the file itself, or a copy of it (local_copies.py)."""
        return Path(self.path) if self.is_local else local_copy(self.filesystem, self.scheme, self.path)


def sha256_json(value: Any) -> str:
    """Digest of a value's canonical JSON: the key under which settings are compared."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":"), default=str).encode()).hexdigest()


def read_manifest(directory: Location) -> dict[str, Any] | None:
    """The manifest of a complete result, or None where there is no complete result.

    Raises UserError when it was written by a newer version of this software.
    """
    file = directory / MANIFEST
    if not file.is_file():
        return None
    try:
        manifest: dict[str, Any] = file.read_json()
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); delete {directory} and run its job again.") from error
    if not isinstance(manifest, dict):
        raise UserError(f"{file} holds no manifest; delete {directory} and run its job again.")
    schema = manifest.get("schema")
    if not isinstance(schema, int) or schema > SCHEMA_VERSION:
        raise UserError(
            f"{file} has schema {schema!r}, this version ({__version__}) reads up to {SCHEMA_VERSION}: update fashion-dml or choose another workspace."
        )
    return manifest


def write_manifest(
    directory: Location, *, kind: str, config: Any, inputs: dict[str, str], seconds: float, **more: Any
) -> dict[str, Any]:
    """Make a result complete. `inputs` maps a name to the sha256 of what the result was made from; `more` holds counts."""
    manifest = {
        "schema": SCHEMA_VERSION, "kind": kind, "code": __version__, "config": config, "inputs": inputs, "seconds": round(seconds, 3), **more,
    }  # fmt: skip
    (directory / MANIFEST).write_json(manifest)
    return manifest


def require_manifest(directory: Location, *, made_by: str) -> dict[str, Any]:
    """The manifest, or a UserError that names the job to run first."""
    manifest = read_manifest(directory)
    if manifest is None:
        raise UserError(f"There is no complete result in {directory}: run `{made_by}` first.")
    return manifest


def manifest_sha256(directory: Location) -> str:
    """Digest of the manifest but for its seconds: stands for the whole complete result in another result's `inputs`."""
    manifest = (directory / MANIFEST).read_json()
    return sha256_json({k: v for k, v in manifest.items() if k != "seconds"})


@contextlib.contextmanager
def publish(target: Location) -> Iterator[Location]:
    """A draft directory that takes the target's place when the block ends; the block writes the manifest last.

    Local: written aside, then renamed over the target. That must be moved aside first, since a directory that isn't empty can't be
    renamed over; `recover` brings it back if the process is killed just then. Object store: written in place after the old manifest is
    removed, so that the directory counts as incomplete until the new manifest is there.
    """
    if not target.is_local:
        (target / MANIFEST).delete()
        yield target
        return
    recover(target, ABANDONED_S)  # another process may be publishing the same
    place = Path(target.path)
    place.parent.mkdir(parents=True, exist_ok=True)
    draft, old = (place.parent / f".{place.name}.{uuid.uuid4().hex[:8]}.{kind}" for kind in ("partial", "old"))
    try:
        draft.mkdir()
        yield Location.of(draft)
        if place.is_dir():
            os.replace(place, old)
        os.replace(draft, place)
        _remove(old)
    finally:
        _remove(draft)


def recover(target: Location, abandoned_s: float = 0) -> None:
    """After a process was killed in `publish`: bring back the result that it had moved aside, and remove what else it left.

    abandoned_s: seconds after which a draft that nobody touches is taken for a killed process's; 0 where nobody publishes this now.
    Several may do this at once.
    """
    place = Path(target.path)
    if not target.is_local or not place.parent.is_dir():
        return
    name = re.compile(rf"\.{re.escape(place.name)}\.[0-9a-f]{{8}}\.(partial|old)")
    left = [d for d in place.parent.iterdir() if name.fullmatch(d.name)]
    for old in (d for d in left if d.suffix == ".old"):
        if not place.exists() and (old / MANIFEST).is_file():
            with contextlib.suppress(FileNotFoundError):  # another one was faster
                os.replace(old, place)
        _remove(old)
    for draft in (d for d in left if d.suffix == ".partial"):
        with contextlib.suppress(FileNotFoundError):  # published, or removed by another one
            if time.time() - draft.stat().st_mtime >= abandoned_s:
                _remove(draft)


def _remove(directory: Path) -> None:
    """Delete a directory, if it is there; its manifest first, since what is half deleted must not look complete."""
    (directory / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
