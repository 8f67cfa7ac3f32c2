"""Small copies of the public benchmarks, written with the layouts in which they were released."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
from drawn import encoded, photo, write_dataset

from fashion_dml.config import Ingest
from fashion_dml.data.schema import Dataset
from fashion_dml.data.sources.files import Reader

LOOSE = Ingest(short_side=32, shards=2, min_row_groups=2, validation_share=0, max_unreadable=0.5)
"""Fixtures spoil a larger share of their few images than a benchmark does."""


def save(root: Path, name: str, seed: int | None = None, *, size: tuple[int, int] = (40, 30), form: str = "JPEG") -> None:
    """A drawn photo; `seed` None: drawn from the name."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(encoded(photo(sum(name.encode()) if seed is None else seed, *size), form))


def numbered_list(root: Path, name: str, header: str, rows: list[str], count: int | None = None, mark: str = "") -> None:
    """A list with its count and header; `count` None: the right one."""
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = [str(len(rows) if count is None else count), *([header] if header else []), *rows]
    file.write_bytes((mark + "\r\n".join(lines) + "\r\n\r\n").encode())


def made(directory: Path, rows: Any, reader: Reader, settings: Ingest = LOOSE) -> Dataset:
    """The dataset of a source, written without a cluster."""
    return write_dataset(directory, rows, reader, settings)


def images(dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Image id -> its stored row, with its split."""
    found = {}
    for part in dataset.parts():
        for row in pq.read_table(dataset.images_file(part).path, partitioning=None).to_pylist():
            found[row["image_id"]] = {**row, "split": part.split}
    return found


def per_split(dataset: Dataset) -> dict[str, int]:
    """Images of each split."""
    return dict(Counter(row["split"] for row in images(dataset).values()))


def dropped(dataset: Dataset) -> dict[str, int]:
    """Reason -> count of the manifest; the named ones are no more than the counted."""
    told = dataset.manifest["dropped"]
    assert all(0 < len(d["first"]) <= d["count"] for d in told.values())
    return {reason: d["count"] for reason, d in told.items()}


def mean_colour(data: bytes) -> np.ndarray:
    from fashion_dml.data.decode import open_image

    return np.asarray(open_image(data), np.float64).mean(axis=(0, 1))
