"""A list (CSV or Parquet) with an image folder or tar beside it, as retailers export them, or with addresses or bytes."""

from __future__ import annotations

import io
from pathlib import PurePosixPath

import pyarrow as pa

from fashion_dml.config import Ingest
from fashion_dml.data.sources.files import Files, FolderReader, Reader, TarReader
from fashion_dml.data.sources.own_images import STORES, OwnReader, ParquetImages
from fashion_dml.data.sources.own_list import ROW, OwnList, fixed_rows, read_csv, read_parquet
from fashion_dml.storage import Location, UserError, sha256_json

__all__ = ["FolderReader", "Reader", "TarReader", "read_folder"]


def read_folder(source: str, settings: Ingest) -> tuple[pa.Table, Reader, dict[str, str]]:
    """(rows before checks, reader, inputs) of a folder, a tar or a list. Raises UserError for missing files or columns."""
    location = Location.of(source)
    if source.lower().endswith((".csv", ".parquet")) and location.is_file():
        files, name = Files(source, location.parent, {}, True), location.name  # listed below, if a row names a file
    else:
        files = Files.open(source, "a CSV and images")
        name = _find_list(files.names, settings.csv, source)
    origin = source if not files.names else f"{source}:{name}"
    given = _read(files, name, origin, settings)
    rows = fixed_rows(given, settings.columns)
    if not files.names and any(_is_file(r) for r in rows["ref"].to_pylist()):
        files.names.update({n: (0, size) for n, size in location.parent.sizes().items()})
    refs = _checked(rows["ref"].to_pylist(), given, files, name)
    rows = rows.set_column(0, "ref", pa.array(refs, pa.string()))
    digest = files.hashes[name]
    own = [r for r in refs if _is_file(r)]
    # Sizes stand for the images: to hash them all would read them twice.
    inputs = {"csv": digest, "images": sha256_json(sorted((r, files.names[r][1]) for r in own))}
    reader = files.reader(own)
    if len(own) == len(refs):
        return rows, reader, inputs
    inside = (
        ParquetImages.open(files.location / name, digest, settings.columns.image) if any(given.inside.to_pylist()) else None
    )
    return rows, OwnReader(reader, inside), inputs


def _is_file(ref: str) -> bool:
    return not ref.startswith((ROW, *STORES))


def _read(files: Files, name: str, origin: str, settings: Ingest) -> OwnList:
    """The list; its digest is kept in files.hashes. A Parquet file, which may hold images, isn't read whole."""
    if not name.lower().endswith(".parquet"):
        return read_csv(files.read(name), origin)
    if not files.folder:
        given = read_parquet(io.BytesIO(files.read(name)), origin, settings.columns)
        if any(given.inside.to_pylist()):
            raise UserError(f"{origin} holds images and lies in a tar; give the Parquet file itself as --source.")
        return given
    file = files.location / name
    files.hashes[name] = file.sha256()
    with file.open_input() as stream:
        return read_parquet(stream, origin, settings.columns)


def _checked(refs: list[str], given: OwnList, files: Files, name: str) -> list[str]:
    """Refs below the source instead of below the list. Raises UserError for a path that leaves it or isn't there."""
    base = PurePosixPath(name).parent
    made = []
    for row, ref in enumerate(refs):
        if not _is_file(ref):
            made.append(ref)
            continue
        if "://" in ref:
            raise UserError(f"{given.place(row)}: the address {ref!r} is none of {', '.join(STORES)}.")
        if ref.startswith("/") or ".." in PurePosixPath(ref).parts:
            raise UserError(f"{given.place(row)}: the path {ref!r} leaves the source; paths are relative to the CSV.")
        path = str(base / ref)
        if path not in files.names:
            raise UserError(f"{given.place(row)}: there is no image {ref!r} in the source; add the file or remove the row.")
        made.append(path)
    return made


def _find_list(names: dict[str, tuple[int, int]], wanted: str, source: str) -> str:
    """The list that was asked for, or the only one nearest to the top: a CSV, or a Parquet file where there is no CSV."""
    if wanted:
        if wanted not in names:
            raise UserError(f"There is no {wanted!r} in {source!r}; set ingest.csv to a file in it.")
        return wanted
    for suffix, kind in ((".csv", "CSV"), (".parquet", "Parquet")):
        found = sorted((n for n in names if n.lower().endswith(suffix)), key=lambda n: (n.count("/"), n))
        top = [n for n in found if n.count("/") == found[0].count("/")]
        if len(top) == 1:
            return top[0]
        if top:
            raise UserError(
                f"{source!r} holds {len(top)} {kind} files ({', '.join(top[:3])}); "
                "it needs one that lists the images, or ingest.csv naming it."
            )
    raise UserError(
        f"{source!r} holds no CSV; it needs one that lists the images (or a Parquet list), or ingest.csv naming it."
    )
