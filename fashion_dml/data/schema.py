"""The dataset layout: what an ingest job writes and every other job reads.

    dataset/manifest.json                                        written last; `files` holds the sha256 of the others
    dataset/products.parquet                                     one row per product (and vertical, where one has several)
    dataset/images/split=S/vertical=V/part-NNNNN.parquet         one row per image; NNNNN is the product's shard

A product's images are adjacent and lie in one row group, so a product is atomic for every reader.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fashion_dml.storage import Location, UserError, require_manifest

PRODUCTS_FILE = "products.parquet"
SPLITS = ("train", "validation", "test", "query", "gallery")
"""Products of `test` search among themselves. A benchmark with roles has `query` and `gallery` instead, which share products."""
DOMAINS = ("shop", "consumer", "street")
VERTICAL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")

PRODUCTS = pa.schema([
    ("product_id", pa.string()), ("label", pa.int64()), ("vertical", pa.string()), ("split", pa.string()),
    ("shard", pa.int32()), ("row_group", pa.int32()), ("first_row", pa.int32()), ("rows", pa.int32()),
])  # fmt: skip
"""`first_row` counts from the start of the row group; `label` numbers the products of the whole dataset from 0."""


def images_schema(attributes: int) -> pa.Schema:
    """One row per image. `image` is an encoded JPEG; `attributes` int8 [A]: 1 yes, -1 no, 0 unknown."""
    return pa.schema([
        ("image_id", pa.string()), ("product_id", pa.string()), ("label", pa.int64()), ("vertical", pa.string()),
        ("domain", pa.string()), ("view", pa.string()), ("image", pa.binary()), ("width", pa.int32()), ("height", pa.int32()),
        ("attributes", pa.list_(pa.int8(), attributes or -1)),  # lists of a fixed length 0 can't be read back from Parquet
    ])  # fmt: skip


def embeddings_schema(dim: int) -> pa.Schema:
    """Rows in the order, row groups and files of the images they belong to; `embedding` float32 [D], unit length."""
    return pa.schema([("image_id", pa.string()), ("embedding", pa.list_(pa.float32(), dim))])


@dataclass(frozen=True)
class Part:
    """One images file. `relative` is the path below `images/`, and the same below an embeddings directory."""

    split: str
    vertical: str
    shard: int

    @property
    def relative(self) -> str:
        return f"split={self.split}/vertical={self.vertical}/part-{self.shard:05d}.parquet"


@dataclass(frozen=True)
class Dataset:
    """A complete dataset: its manifest and its products; images stay in their files."""

    location: Location
    manifest: dict[str, Any]
    products: pa.Table

    @classmethod
    def open(cls, uri: str | Location) -> Dataset:
        location = Location.of(uri)
        manifest = require_manifest(location, made_by="python -m jobs.ingest folder|generated")
        if manifest.get("kind") != "dataset":
            raise UserError(
                f"{location} holds a {manifest.get('kind')!r}, not a dataset; give the directory that jobs.ingest wrote."
            )
        file = location / PRODUCTS_FILE
        if not file.is_file():
            raise UserError(f"{file} is missing though the dataset's manifest is there; ingest the dataset again.")
        with file.open_input() as stream:
            return cls(location, manifest, pq.read_table(stream))

    @property
    def attributes(self) -> list[str]:
        """Vocabulary of the attributes column, `column=value` each."""
        return list(self.manifest["attributes"])

    def verticals(self, split: str | None = None) -> list[str]:
        """Sorted names of the verticals, of one split or of all."""
        table = self.products if split is None else self.products.filter(pc.field("split") == split)
        return sorted(table["vertical"].unique().to_pylist())

    def parts(self, split: str | None = None, verticals: list[str] | None = None) -> list[Part]:
        """The images files, sorted by split, vertical and shard."""
        rows = (
            self.products.select(["split", "vertical", "shard"])
            .group_by(["split", "vertical", "shard"])
            .aggregate([])
            .to_pylist()
        )
        found = {Part(r["split"], r["vertical"], r["shard"]) for r in rows}
        kept = [p for p in found if (split is None or p.split == split) and (verticals is None or p.vertical in verticals)]
        return sorted(kept, key=lambda p: (p.split, p.vertical, p.shard))

    def images_file(self, part: Part) -> Location:
        return self.location / "images" / part.relative
