"""A CSV with an image folder or tar beside it, as retailers export them."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Protocol

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
from PIL import Image

from fashion_dml.config import Ingest
from fashion_dml.data.decode import open_image
from fashion_dml.storage import Location, UserError, sha256_json


class Reader(Protocol):
    """Turns a row's `ref` into pixels, in any process."""

    def load(self, ref: str) -> Image.Image:
        """An RGB image; raises UnreadableImage or OSError."""


@dataclass(frozen=True)
class FolderReader:
    root: Location

    def load(self, ref: str) -> Image.Image:
        return open_image((self.root / ref).read_bytes())


@dataclass(frozen=True)
class TarReader:
    """Members are read by offset, so that any task reads its own images without passing over the others."""

    archive: Location
    members: dict[str, tuple[int, int]]

    def load(self, ref: str) -> Image.Image:
        offset, size = self.members[ref]
        with self.archive.open_input() as stream:
            stream.seek(offset)
            return open_image(bytes(stream.read(size)))


def read_folder(source: str, settings: Ingest) -> tuple[pa.Table, Reader, dict[str, str]]:
    """(rows before checks, reader, inputs) of a folder or tar. Raises UserError for missing files or columns."""
    location = Location.of(source)
    if not location.exists():
        raise UserError(f"The source {source!r} does not exist; give --source a folder or a tar with a CSV and images.")
    if location.is_dir():
        names = {name: (0, size) for name, size in location.sizes().items()}
        csv_name = _find_csv(names, settings.csv, source)
        data = (location / csv_name).read_bytes()
    else:
        names = _tar_members(location)
        csv_name = _find_csv(names, settings.csv, source)
        offset, size = names[csv_name]
        with location.open_input() as stream:
            stream.seek(offset)
            data = bytes(stream.read(size))
    origin = f"{source}:{csv_name}"
    rows = _rows(data, settings, origin)
    base = str(PurePosixPath(csv_name).parent)
    refs = [str(PurePosixPath(base) / ref) if base != "." else ref for ref in rows["ref"].to_pylist()]
    for line, (ref, given) in enumerate(zip(refs, rows["ref"].to_pylist(), strict=True), start=2):
        if given.startswith("/") or ".." in PurePosixPath(given).parts:
            raise UserError(f"{origin}, line {line}: the path {given!r} leaves the source; paths are relative to the CSV.")
        if str(PurePosixPath(ref)) not in names:
            raise UserError(
                f"{origin}, line {line}: there is no image {given!r} in the source; add the file or remove the row."
            )
    refs = [str(PurePosixPath(ref)) for ref in refs]
    rows = rows.set_column(0, "ref", pa.array(refs))
    reader: Reader = FolderReader(location) if location.is_dir() else TarReader(location, {r: names[r] for r in refs})
    listed = sorted((r, names[r][1]) for r in refs)  # sizes stand for the images: to hash them all would read them twice
    return rows, reader, {"csv": hashlib.sha256(data).hexdigest(), "images": sha256_json(listed)}


def _tar_members(location: Location) -> dict[str, tuple[int, int]]:
    """Name -> (offset, size) of every regular file of a plain tar."""
    try:
        with location.open_input() as stream, tarfile.open(fileobj=stream, mode="r:") as archive:
            return {m.name.removeprefix("./"): (m.offset_data, m.size) for m in archive if m.isreg()}
    except tarfile.TarError as error:
        raise UserError(f"{location} is not a plain tar file ({error}); give a folder or an uncompressed .tar.") from error


def _find_csv(names: dict[str, tuple[int, int]], wanted: str, source: str) -> str:
    """The CSV that was asked for, or the only one nearest to the top."""
    if wanted:
        if wanted not in names:
            raise UserError(f"There is no {wanted!r} in {source!r}; set ingest.csv to a file in it.")
        return wanted
    found = sorted((n for n in names if n.lower().endswith(".csv")), key=lambda n: (n.count("/"), n))
    top = [n for n in found if n.count("/") == found[0].count("/")] if found else []
    if len(top) != 1:
        what = "no CSV" if not top else f"{len(top)} CSV files ({', '.join(top[:3])})"
        raise UserError(f"{source!r} holds {what}; it needs one that lists the images, or ingest.csv naming it.")
    return top[0]


def _rows(data: bytes, settings: Ingest, origin: str) -> pa.Table:
    columns = settings.columns
    try:
        header = pacsv.open_csv(io.BytesIO(data)).schema.names
        if twice := sorted(n for n in set(header) if header.count(n) > 1):
            raise UserError(f"{origin} has two columns {twice[0]!r}; rename or remove one.")
        table = pacsv.read_csv(
            io.BytesIO(data),
            convert_options=pacsv.ConvertOptions(column_types={n: pa.string() for n in header}, strings_can_be_null=False),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(
            f"{origin} can't be read as CSV ({str(error).splitlines()[0]}); it needs a header line and commas."
        ) from error
    for setting in ("path", "product_id", "vertical", "split"):
        if getattr(columns, setting) not in header:
            raise UserError(
                f"{origin} has no column {getattr(columns, setting)!r} (it has {', '.join(header)}); "
                f"add it, or name the right one with --ingest.columns.{setting}."
            )
    if columns.image_id and columns.image_id not in header:
        raise UserError(f"{origin} has no column {columns.image_id!r} for ingest.columns.image_id; it has {', '.join(header)}.")
    trimmed = {n: pc.utf8_trim_whitespace(table[n]).combine_chunks() for n in header}
    path = trimmed[columns.path]
    n = table.num_rows
    fixed = {
        "ref": path, "image_id": trimmed[columns.image_id] if columns.image_id else _ids(path), "product_id": trimmed[columns.product_id],
        "vertical": trimmed[columns.vertical], "split": trimmed[columns.split],
        "domain": pa.array(["shop"] * n), "view": pa.array([""] * n),
    }  # fmt: skip
    return pa.table({**fixed, **{a: trimmed[a] for a in columns.attributes if a in header}})


def _ids(paths: pa.Array) -> pa.Array:
    """Image ids from paths: the file's stem where stems are unique, else the path with / as -."""
    stems = [PurePosixPath(p).stem for p in paths.to_pylist()]
    if len(set(stems)) == len(stems):
        return pa.array(stems, pa.string())
    return pa.array([str(PurePosixPath(p).with_suffix("")).replace("/", "-") for p in paths.to_pylist()], pa.string())
