"""Small photos, sources and datasets, drawn where a test needs them."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from fashion_dml.config import Generated, Ingest
from fashion_dml.data.ingest import finish, prepare
from fashion_dml.data.schema import Dataset
from fashion_dml.data.shards import write_part
from fashion_dml.data.sources.folder import Reader
from fashion_dml.data.sources.generated.source import read_generated
from fashion_dml.storage import Location

SMALL = Ingest(
    generated=Generated(products_per_vertical=24, verticals=2, max_variants=4, image_height=48, image_width=32),
    short_side=32, shards=2, min_row_groups=8,
)  # fmt: skip


def photo(seed: int, height: int = 40, width: int = 30) -> Image.Image:
    """A smooth picture that no other seed gives."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 3, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BILINEAR)


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def shop_rows(products: int = 6, images: int = 2, verticals: tuple[str, ...] = ("dresses", "shoes")) -> list[dict[str, str]]:
    """Rows of a good catalogue: every third product is a test product."""
    return [
        {
            "path": f"photos/{vertical}/{p}_{i}.jpg", "product_id": f"{vertical}-{p}", "vertical": vertical,
            "split": "test" if p % 3 == 2 else "train", "colour": ("red", "blue", "")[i % 3],
        }
        for vertical in verticals for p in range(products) for i in range(images)
    ]  # fmt: skip


def write_shop(root: Path, rows: list[dict[str, str]], name: str = "catalogue.csv") -> Path:
    """A folder with the CSV and a photo for every row."""
    root.mkdir(parents=True, exist_ok=True)
    with (root / name).open("w", newline="") as stream:
        writer = csv.DictWriter(stream, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    for n, row in enumerate(rows):
        file = root / row.get("path", "none.jpg")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(encoded(photo(n)))
    return root


def write_dataset(directory: Path, rows: pa.Table, reader: Reader, settings: Ingest, seed: int = 0) -> Dataset:
    """What jobs.ingest writes, without a cluster."""
    location = Location.of(directory)
    prepared = prepare(rows, "the test", settings, seed, {})
    reports = [write_part(location, w.part, w.rows, reader, settings, w.images_per_group, w.key) for w in prepared.work]
    finish(location, prepared, reports, settings, {}, {}, 0.0)
    return Dataset.open(location)


def small_dataset(directory: Path, settings: Ingest = SMALL) -> Dataset:
    return write_dataset(directory, *read_generated(settings.generated, 0), settings)
