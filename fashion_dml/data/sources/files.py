"""The files of a source, in a folder or in an uncompressed tar, and the readers of its images."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from fashion_dml.data.decode import FORMATS, UnreadableImage, open_image
from fashion_dml.storage import Location, UserError, sha256_json


class Reader(Protocol):
    """Turns a row's `ref` into pixels, in any process."""

    def load(self, ref: str) -> Image.Image:
        """An RGB image; raises UnreadableImage or OSError."""


@dataclass(frozen=True)
class FolderReader:
    """`formats` are PIL's names of those that are decoded, whatever suffix a file has."""

    root: Location
    formats: tuple[str, ...] = FORMATS

    def load(self, ref: str) -> Image.Image:
        try:
            data = (self.root / ref).read_bytes()
        except FileNotFoundError as error:
            raise UnreadableImage("the file is missing", reason="missing file") from error
        return open_image(data, self.formats)


@dataclass(frozen=True)
class TarReader:
    """Members are read by offset, so that any task reads its own images without passing over the others."""

    archive: Location
    members: dict[str, tuple[int, int]]
    formats: tuple[str, ...] = FORMATS

    def load(self, ref: str) -> Image.Image:
        offset, size = self.members[ref]
        with self.archive.open_input() as stream:
            stream.seek(offset)
            return open_image(bytes(stream.read(size)), self.formats)


@dataclass(frozen=True)
class Files:
    """A folder or plain tar with `names`: path below it -> (offset, bytes)."""

    source: str
    location: Location
    names: dict[str, tuple[int, int]]
    folder: bool
    hashes: dict[str, str] = field(default_factory=dict)
    """sha256 of the lists that were read; they and the images' sizes are the inputs of a dataset."""

    @classmethod
    def open(cls, source: str, holds: str) -> Files:
        """List a source. Raises UserError where there is none, or a file that is no plain tar; `holds` says what is expected."""
        location = Location.of(source)
        if not location.exists():
            raise UserError(f"The source {source!r} does not exist; give --source a folder or a tar with {holds}.")
        if location.is_dir():
            return cls(source, location, {name: (0, size) for name, size in location.sizes().items()}, True)
        return cls(source, location, tar_members(location), False)

    def read(self, name: str) -> bytes:
        """The bytes of one of its lists."""
        if self.folder:
            data = (self.location / name).read_bytes()
        else:
            offset, size = self.names[name]
            with self.location.open_input() as stream:
                stream.seek(offset)
                data = bytes(stream.read(size))
        self.hashes[name] = hashlib.sha256(data).hexdigest()
        return data

    def reader(self, refs: list[str], formats: tuple[str, ...] = FORMATS) -> Reader:
        """A reader of these of its files."""
        if self.folder:
            return FolderReader(self.location, formats)
        return TarReader(self.location, {r: self.names[r] for r in refs}, formats)

    def inputs(self, refs: list[str]) -> dict[str, str]:
        """What a dataset of these images is made from. Sizes stand for the images: to hash them would read them twice."""
        sizes = sorted((r, self.names[r][1]) for r in set(refs))
        return {"lists": sha256_json(self.hashes), "images": sha256_json(sizes)}


def tar_members(location: Location) -> dict[str, tuple[int, int]]:
    """Name -> (offset, size) of every regular file of a plain tar."""
    try:
        with location.open_input() as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            return {m.name.removeprefix("./"): (m.offset_data, m.size) for m in archive if m.isreg()}
    except tarfile.TarError as error:
        raise UserError(f"{location} is not a plain tar file ({error}); give a folder or an uncompressed .tar.") from error
