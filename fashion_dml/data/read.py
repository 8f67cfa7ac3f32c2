"""Reading a window: its row groups once, its batches in order; still encoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fashion_dml.data.decode import UnreadableImage, decode
from fashion_dml.data.plan import Near, Plan, Window
from fashion_dml.data.schema import Part
from fashion_dml.storage import Location, UserError

BATCH = pa.schema([
    ("image", pa.binary()), ("label", pa.int64()), ("image_id", pa.string()),
    ("epoch", pa.int32()), ("step", pa.int32()), ("lane", pa.int32()), ("size", pa.int32()),
])  # fmt: skip
"""`size` is the number of rows of the batch: Ray Data may cut and join tables on their way."""


@dataclass(frozen=True)
class Sources:
    """Where a plan's files are, and what to read of them.

    targets: vertical -> embeddings directory of its teacher (distillation). attributes: read those of the images, too.
    labels: of the nodes whose tasks read them; empty: any.
    """

    images: str
    split: str
    targets: dict[str, str] | None = None
    attributes: bool = False
    labels: dict[str, str] = field(default_factory=dict)


def read_window(plan: Plan, window: Window, sources: Sources, near: Near | None = None) -> Iterator[pa.Table]:
    """One table a batch, columns of BATCH, `target` (fixed list float32 [D]) with teachers, `attributes` if asked for."""
    images, targets = [], []
    for g in window.groups:
        vertical, shard, row_group = (int(v) for v in plan.group_key[g])
        part = Part(sources.split, plan.verticals[vertical], shard)
        columns = ["image", "label", "image_id", *(["attributes"] if sources.attributes else [])]
        images.append(read_row_group(Location.of(sources.images) / part.relative, row_group, columns))
        if sources.targets is not None:
            targets.append(_teacher(Location.of(sources.targets[part.vertical]), part, row_group, images[-1]["image_id"]))
    table = pa.concat_tables(images).combine_chunks()
    if targets:
        table = table.append_column("target", pa.chunked_array([c for t in targets for c in t.chunks]))
    offsets = np.r_[0, np.cumsum([t.num_rows for t in images])][:-1]
    for b, pick in enumerate(plan.picks(window, near)):
        batch = table.take(pa.array(offsets[pick[:, 0]] + pick[:, 1]))
        n = batch.num_rows
        for name, value in (("epoch", window.epoch), ("step", window.first_step + b), ("lane", window.lane), ("size", n)):
            batch = batch.append_column(name, pa.array(np.full(n, value, np.int32)))
        yield batch


def _teacher(embeddings: Location, part: Part, row_group: int, image_ids: pa.ChunkedArray) -> pa.ChunkedArray:
    """The targets of a row group of images, from the same place of the embeddings."""
    try:
        found = read_row_group(embeddings / part.relative, row_group, ["image_id", "embedding"])
    except (FileNotFoundError, pa.ArrowInvalid):  # no such file, no such row group
        found = None
    if found is None or not found["image_id"].equals(image_ids):
        raise UserError(
            f"The teacher embeddings of {part.relative}, row group {row_group}, are not those of the dataset's images: "
            f"run `python -m jobs.embed` again."
        )
    return found["embedding"]


def read_row_group(file: Location, row_group: int, columns: list[str]) -> pa.Table:
    """These columns of one row group of a Parquet file. Raises ArrowInvalid with the file's name where it is damaged."""
    try:
        with file.open_input() as stream:
            return pq.ParquetFile(stream).read_row_group(row_group, columns=columns)
    except pa.ArrowInvalid as error:
        raise pa.ArrowInvalid(f"{file}: {error}") from error


def decode_batch(table: pa.Table, height: int, width: int) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """(pixels uint8 [n, height, width, 3], the row each one really shows int64 [n], ids of corrupt images).

    A corrupt image is replaced by another one of the batch, of the same product if there is one; the second result
    says which, so that label and target follow. Raises UserError if no image of the batch can be read.
    """
    column = table["image"]
    labels = table["label"].to_numpy()
    shown = np.arange(table.num_rows)
    pixels = np.empty((table.num_rows, height, width, 3), np.uint8)
    corrupt = []
    for i in range(table.num_rows):
        try:
            pixels[i] = decode(column[i].as_py(), height, width)
        except UnreadableImage:
            corrupt.append(i)
    if corrupt:
        good = np.setdiff1d(shown, corrupt)
        if len(good) == 0:
            raise UserError(
                f"All stored images of a batch are corrupt, first {table['image_id'][0].as_py()!r}: ingest the dataset again."
            )
        for i in corrupt:
            same = good[labels[good] == labels[i]]
            shown[i] = same[0] if len(same) else good[i % len(good)]
            pixels[i] = pixels[shown[i]]
    return pixels, shown, [table["image_id"][i].as_py() for i in corrupt]


def with_pixels(table: pa.Table, height: int, width: int) -> pa.Table:
    """The table with decoded pixels (one binary value a row) in place of encoded bytes, for decoding in tasks."""
    pixels, shown, corrupt = decode_batch(table, height, width)
    data = pa.array([p.tobytes() for p in pixels], pa.binary())
    bad = pa.array([i if i in corrupt else "" for i in table["image_id"].to_pylist()])
    moved = table.take(pa.array(shown)) if corrupt else table
    at = moved.column_names.index("image")
    return moved.set_column(at, "image", data).append_column("corrupt", bad)
