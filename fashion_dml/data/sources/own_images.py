"""Readers of the images that a list of one's own names: beside it, in an object store, or in the list itself."""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from functools import lru_cache

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image

from fashion_dml.data.decode import UnreadableImage, open_image
from fashion_dml.data.sources.files import Reader
from fashion_dml.data.sources.own_list import ROW
from fashion_dml.storage import Location, UserError

STORES = ("s3://", "gs://", "gcs://", "abfs://", "abfss://")
GROUP_BYTES = 512 << 20
"""Most bytes of the images in one row group of a list: a task that wants one image reads its row group."""
HELD_BYTES = 768 << 20

_held: OrderedDict[tuple[str, str, int], pa.ChunkedArray] = OrderedDict()


@lru_cache(maxsize=64)
def _bucket(address: str) -> Location:
    return Location.of(address)


def stored(uri: str) -> Location:
    """An object by its address; the key is taken as it is written, blanks and % included."""
    scheme, _, path = uri.partition("://")
    bucket, _, key = path.partition("/")
    return _bucket(f"{scheme}://{bucket}") / key


@dataclass(frozen=True)
class ParquetImages:
    """Rows of the image column of a Parquet list; `starts` are the first rows of its row groups, and the end."""

    file: Location
    version: str
    column: str
    starts: tuple[int, ...]

    @classmethod
    def open(cls, file: Location, version: str, column: str) -> ParquetImages:
        """Raises UserError for row groups that are too large to be read for one image. `version` tells files of one name apart."""
        with file.open_input() as stream:
            metadata = pq.ParquetFile(stream).metadata
        starts = [0]
        for g in range(metadata.num_row_groups):
            group = metadata.row_group(g)
            chunks = [group.column(c) for c in range(group.num_columns)]
            size = sum(c.total_uncompressed_size for c in chunks if c.path_in_schema.split(".")[0] == column)
            if size > GROUP_BYTES:
                raise UserError(
                    f"{file}: row group {g} holds {size >> 20:,} MiB of images, more than {GROUP_BYTES >> 20}; "
                    f"write the list with smaller row groups (row_group_size=1000)."
                )
            starts.append(starts[-1] + group.num_rows)
        return cls(file, version, column, tuple(starts))

    def load(self, ref: str) -> Image.Image:
        row = int(ref.removeprefix(ROW))
        group = bisect_right(self.starts, row) - 1
        data = self._group(group)[row - self.starts[group]].as_py()
        if data is None:
            raise UnreadableImage("the row has no image bytes", reason="missing file")
        return open_image(data)

    def _group(self, group: int) -> pa.ChunkedArray:
        """A row group's images; the last ones stay in memory, for a part's rows come from everywhere."""
        key = (str(self.file), f"{self.version}:{self.column}", group)
        if key in _held:
            _held.move_to_end(key)
            return _held[key]
        with self.file.open_input() as stream:
            found = pq.ParquetFile(stream).read_row_group(group, columns=[self.column])[self.column]
        if pa.types.is_struct(found.type):
            found = pc.struct_field(found, "bytes")
        _held[key] = found
        while len(_held) > 1 and sum(v.nbytes for v in _held.values()) > HELD_BYTES:
            _held.popitem(last=False)
        return found


@dataclass(frozen=True)
class OwnReader:
    """Each ref to the reader of its kind."""

    files: Reader
    rows: ParquetImages | None = None

    def load(self, ref: str) -> Image.Image:
        if ref.startswith(ROW) and self.rows is not None:
            return self.rows.load(ref)
        if ref.startswith(STORES):
            try:
                data = stored(ref).read_bytes()
            except FileNotFoundError as error:
                raise UnreadableImage("the object is missing", reason="missing file") from error
            return open_image(data)
        return self.files.load(ref)
