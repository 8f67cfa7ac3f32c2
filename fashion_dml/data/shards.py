"""Writing the dataset layout: which product goes to which shard, and one images file with whole products per row group."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from fashion_dml.config import Ingest
from fashion_dml.data.decode import UnreadableImage
from fashion_dml.data.digests import Hashed
from fashion_dml.data.schema import PRODUCTS, Part, images_schema
from fashion_dml.data.sources.files import Reader
from fashion_dml.data.sources.rows import hash64
from fashion_dml.storage import Location

IMAGES_PER_SHARD = 8192


def shard_count(setting: int, images: int) -> int:
    """The configured number of shards, or 4 and one more for every 8,192 images."""
    return setting or max(4, -(-images // IMAGES_PER_SHARD))


def shard_of(product_id: str, shards: int, seed: int) -> int:
    """A product's shard: uniform, and the same wherever it is computed."""
    return hash64(product_id, seed) % shards


@dataclass
class PartReport:
    """What was written, with its rows of schema.PRODUCTS, and what was left out with the reason."""

    part: Part
    products: pa.Table = field(default_factory=PRODUCTS.empty_table)
    images: int = 0
    bytes: int = 0
    unreadable: list[str] = field(default_factory=list)
    reasons: list[str] = field(default_factory=list)  # of each unreadable one
    sha256: str = ""  # of the file


def encode(image: Image.Image, short_side: int, quality: int) -> tuple[bytes, int, int]:
    """(JPEG bytes, width, height) with the short side at most `short_side`; never scaled up."""
    scale = min(1.0, short_side / min(image.size))
    if scale < 1:
        image = image.resize(
            (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
        )
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue(), image.width, image.height


def write_part(
    dataset: Location, part: Part, rows: list[dict[str, Any]], reader: Reader, settings: Ingest, images_per_group: int, key: str
) -> PartReport:
    """Write one images file atomically; a file of the same `key` is kept and only reported again.

    rows: one dict per image (ref, image_id, product_id, label, vertical, domain, view, attributes int8 [A]), a
    product's images adjacent. `key` digests everything the file depends on. An unreadable image is left out and named.
    """
    file = dataset / "images" / part.relative
    if (known := _existing(file, part, key)) is not None:
        return known
    report = PartReport(part)
    products: list[dict[str, Any]] = []
    schema = images_schema(len(rows[0]["attributes"]))
    group: list[dict[str, Any]] = []
    group_bytes, group_index = 0, 0
    with (
        file.writing() as stream,
        Hashed(stream) as hashed,
        pq.ParquetWriter(
            hashed, schema, compression="none", use_dictionary=["vertical", "domain", "view", "product_id"]
        ) as writer,
    ):

        def flush() -> None:
            nonlocal group, group_bytes, group_index
            if group:
                writer.write_table(pa.Table.from_pylist(group, schema), row_group_size=len(group))
                group, group_bytes, group_index = [], 0, group_index + 1

        for product in _products(rows):
            images = []
            for row in product:
                try:
                    data, width, height = encode(reader.load(row["ref"]), settings.short_side, settings.jpeg_quality)
                except (UnreadableImage, OSError) as error:
                    report.unreadable.append(f"{row['ref']}: {error}".replace("\n", " "))
                    report.reasons.append(getattr(error, "reason", "unreadable file"))
                    continue
                images.append({**{k: v for k, v in row.items() if k != "ref"}, "image": data, "width": width, "height": height})
            if not images:
                continue
            size = sum(len(i["image"]) for i in images)
            # A product stays whole: one larger than the limits gets a row group of its own.
            if group and (len(group) + len(images) > images_per_group or group_bytes + size > settings.row_group_bytes):
                flush()
            products.append({
                "product_id": images[0]["product_id"], "label": images[0]["label"], "vertical": part.vertical, "split": part.split,
                "shard": part.shard, "row_group": group_index, "first_row": len(group), "rows": len(images),
            })  # fmt: skip
            group.extend(images)
            group_bytes += size
            report.images += len(images)
            report.bytes += size
        flush()
        writer.add_key_value_metadata({
            "fashion_dml.key": key, "fashion_dml.unreadable": "\n".join(report.unreadable),
            "fashion_dml.reasons": "\n".join(report.reasons),
        })  # fmt: skip
    report.sha256, report.products = hashed.sha256, pa.Table.from_pylist(products, PRODUCTS)
    return report


def _products(rows: list[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    start = 0
    for i in range(1, len(rows) + 1):
        if i == len(rows) or rows[i]["product_id"] != rows[start]["product_id"]:
            yield rows[start:i]
            start = i


def _existing(file: Location, part: Part, key: str) -> PartReport | None:
    """The report of a file that an earlier, interrupted run finished from the same inputs."""
    if not file.is_file():
        return None
    with file.open_input() as stream:
        reader = pq.ParquetFile(stream)
        metadata = reader.metadata.metadata or {}
        if metadata.get(b"fashion_dml.key", b"").decode() != key:
            return None
        named, reasons = (
            [u for u in metadata.get(f"fashion_dml.{what}".encode(), b"").decode().split("\n") if u]
            for what in ("unreadable", "reasons")
        )
        if len(named) != len(reasons):  # a file of an older version
            return None
        report = PartReport(part, unreadable=named, reasons=reasons)
        products: list[dict[str, Any]] = []
        for g in range(reader.num_row_groups):
            table = reader.read_row_group(g, columns=["product_id", "label", "image"])
            ids, labels = table["product_id"].to_pylist(), table["label"].to_pylist()
            starts = [i for i in range(len(ids)) if i == 0 or ids[i] != ids[i - 1]]
            for a, b in zip(starts, [*starts[1:], len(ids)], strict=True):
                products.append({
                    "product_id": ids[a], "label": labels[a], "vertical": part.vertical, "split": part.split,
                    "shard": part.shard, "row_group": g, "first_row": a, "rows": b - a,
                })  # fmt: skip
            report.images += len(ids)
            report.bytes += sum(len(v) for v in table["image"].to_pylist())
    report.sha256, report.products = file.sha256(), pa.Table.from_pylist(products, PRODUCTS)
    return report
