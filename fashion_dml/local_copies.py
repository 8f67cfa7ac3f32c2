"""Files of an object store as local ones: copied once a node, and deleted when the store holds them no more."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path

import pyarrow.fs as pafs

ADDRESS = ".address"  # beside a copy: what it is of


def local_copy(filesystem: pafs.FileSystem, scheme: str, path: str) -> Path:
    """A copy of the file, kept by address, size and time of change. Making one deletes those whose file has changed or gone, as when
    `index.keep_versions` leaves no more of an index version; processes that have them open keep what they opened."""
    copy = home() / _key(filesystem, scheme, path) / path.rsplit("/", 1)[-1]
    if not copy.exists():
        with contextlib.suppress(OSError):  # what can't be looked at now is looked at with the next copy
            _sweep(filesystem, scheme, path.split("/", 1)[0])
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        (copy.parent / ADDRESS).write_text(f"{scheme}://{path}")
        aside = copy.with_suffix(f".{uuid.uuid4().hex[:8]}.partial")
        try:
            with filesystem.open_input_stream(path) as source, aside.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
            aside.replace(copy)
        finally:
            aside.unlink(missing_ok=True)
    return copy


def home() -> Path:
    """Where this user's copies lie on this machine."""
    return Path(tempfile.gettempdir()) / f"fashion-dml-{os.getuid()}"


def _key(filesystem: pafs.FileSystem, scheme: str, path: str) -> str:
    info = filesystem.get_file_info(path)
    return hashlib.sha256(f"{scheme}://{path}|{info.size}|{info.mtime_ns}".encode()).hexdigest()[:24]


def _sweep(filesystem: pafs.FileSystem, scheme: str, bucket: str) -> None:
    """Delete copies of this bucket's files that are other files by now, or none."""
    for note in home().glob(f"*/{ADDRESS}"):
        of, _, path = note.read_text().partition("://")
        if of == scheme and path.startswith(f"{bucket}/") and note.parent.name != _key(filesystem, scheme, path):
            shutil.rmtree(note.parent, ignore_errors=True)
