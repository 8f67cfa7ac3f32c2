"""A list of images of one's own, as CSV or Parquet: which columns it has and what the rows become.

    path,product_id,vertical,split,colour
    photos/17.jpg,dress-4,dresses,train,red
    s3://bucket/photos/18.jpg,dress-4,dresses,train,blue

Column names are settings. A Parquet list may hold the encoded images themselves in the column `image`: binary, or a
struct with a field `bytes`.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pacsv
import pyarrow.parquet as pq

from fashion_dml.config import Columns
from fashion_dml.storage import UserError

ROW = "row://"
"""Prefix of the ref of an image that lies in the list itself; the row's number from 0 follows."""


@dataclass(frozen=True)
class OwnList:
    """`columns` are trimmed text; `inside` [N] says which rows bring their image; `first` is the first row's number."""

    origin: str
    columns: dict[str, pa.Array]
    header: list[str]
    inside: pa.Array
    unit: str

    def place(self, row: int) -> str:
        """A row in words: line 2 is the first one of a CSV."""
        return f"{self.origin}, {self.unit} {row + (2 if self.unit == 'line' else 1)}"


def read_csv(data: bytes, origin: str) -> OwnList:
    """A CSV with a header line. Raises UserError for what can't be parsed and for columns of one name."""
    try:
        in_order = pacsv.ReadOptions(use_threads=False)  # then an error names its row
        header = pacsv.open_csv(io.BytesIO(data), read_options=in_order).schema.names
        if twice := sorted(n for n in set(header) if header.count(n) > 1):
            raise UserError(f"{origin} has two columns {twice[0]!r}; rename or remove one.")
        table = pacsv.read_csv(
            io.BytesIO(data),
            read_options=in_order,
            convert_options=pacsv.ConvertOptions(column_types={n: pa.string() for n in header}, strings_can_be_null=False),
        )
    except (pa.ArrowInvalid, UnicodeDecodeError) as error:
        raise UserError(
            f"{origin} can't be read as CSV ({str(error).splitlines()[0]}); it needs a header line and commas."
        ) from error
    return OwnList(origin, _trimmed(table), header, pa.array([False] * table.num_rows, pa.bool_()), "line")


def read_parquet(stream: Any, origin: str, columns: Columns) -> OwnList:
    """A Parquet list, without its images. Raises UserError for a file or a column of the wrong type."""
    try:
        file = pq.ParquetFile(stream)
        header = file.schema_arrow.names
        if twice := sorted(n for n in set(header) if header.count(n) > 1):
            raise UserError(f"{origin} has two columns {twice[0]!r}; rename or remove one.")
        wanted = {columns.path, columns.product_id, columns.vertical, columns.split, columns.image_id, *columns.attributes}
        table = file.read([n for n in header if n in wanted and n != columns.image])
        inside = _inside(file, origin, columns.image) if columns.image in header else pa.array([False] * table.num_rows)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{origin} can't be read as Parquet ({str(error).splitlines()[0]}); write it again.") from error
    texts = {}
    for name in table.column_names:
        try:
            texts[name] = table[name].cast(pa.string())
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise UserError(f"{origin}: the column {name!r} is {table[name].type}, not text or numbers.") from error
    return OwnList(origin, _trimmed(pa.table(texts)), header, inside, "row")


def _inside(file: pq.ParquetFile, origin: str, column: str) -> pa.Array:
    """[N] bool: the row has image bytes. A few images are in memory at a time, however large the row groups are."""
    kind = file.schema_arrow.field(column).type
    plain = pa.types.is_binary(kind) or pa.types.is_large_binary(kind)
    if not plain and not (pa.types.is_struct(kind) and kind.get_field_index("bytes") >= 0):
        raise UserError(
            f"{origin}: the column {column!r} is {kind}, not encoded images; name another with --ingest.columns.image."
        )
    found: list[bool] = []
    for batch in file.iter_batches(1024, columns=[column if plain else f"{column}.bytes"]):
        images = batch.column(0)
        found += pc.is_valid(images if plain else pc.struct_field(images, "bytes")).to_pylist()
    return pa.array(found, pa.bool_())


def _trimmed(table: pa.Table) -> dict[str, pa.Array]:
    return {n: pc.fill_null(pc.utf8_trim_whitespace(table[n]), "").combine_chunks() for n in table.column_names}


def fixed_rows(given: OwnList, columns: Columns) -> pa.Table:
    """The rows of a source, with refs as the list gives them. Raises UserError for a column that is missing."""
    bytes_only = columns.path not in given.header and columns.image in given.header and given.unit == "row"
    for setting in ("path", "product_id", "vertical", "split"):
        if getattr(columns, setting) not in given.header and not (setting == "path" and bytes_only):
            raise UserError(
                f"{given.origin} has no column {getattr(columns, setting)!r} (it has {', '.join(given.header)}); "
                f"add it, or name the right one with --ingest.columns.{setting}."
            )
    if columns.image_id and columns.image_id not in given.header:
        raise UserError(
            f"{given.origin} has no column {columns.image_id!r} for ingest.columns.image_id; it has {', '.join(given.header)}."
        )
    n = len(given.inside)
    numbers = pa.array([f"{ROW}{i}" for i in range(n)], pa.string())
    path = given.columns.get(columns.path, pa.array([""] * n, pa.string()))
    ref = pc.if_else(given.inside, numbers, path)
    named = pc.if_else(pc.equal(path, ""), pc.replace_substring(numbers, ROW, "row-"), path)
    ids = given.columns[columns.image_id] if columns.image_id else image_ids(named)
    fixed = {
        "ref": ref, "image_id": ids, "product_id": given.columns[columns.product_id], "vertical": given.columns[columns.vertical],
        "split": given.columns[columns.split], "domain": pa.array(["shop"] * n, pa.string()), "view": pa.array([""] * n, pa.string()),
    }  # fmt: skip
    return pa.table({**fixed, **{a: given.columns[a] for a in columns.attributes if a in given.columns}})


def image_ids(paths: pa.Array) -> pa.Array:
    """Image ids from paths: the file's stem where stems are unique, else the path with / as -."""
    stems = [PurePosixPath(p).stem for p in paths.to_pylist()]
    if len(set(stems)) == len(stems):
        return pa.array(stems, pa.string())
    return pa.array([str(PurePosixPath(p).with_suffix("")).replace("/", "-") for p in paths.to_pylist()], pa.string())
