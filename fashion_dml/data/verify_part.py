"""Checks of one images file: its row groups, its rows, and a sample of its images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fashion_dml.data.decode import UnreadableImage, to_rgb
from fashion_dml.data.digests import short_digests
from fashion_dml.data.schema import DOMAINS, Dataset, Part, images_schema
from fashion_dml.data.sources.rows import hash64

DAMAGED = (pa.ArrowException, OSError, UnicodeDecodeError)
"""What reading a damaged file raises."""
GROUP_IMAGES, GROUP_BYTES = 256, 8 << 20
DISTRACTOR = ".gallery"
"""End of the product ids that put a training image into a gallery on purpose, see sources/listed.py."""
Add = Callable[[str], None]


@dataclass
class Held:
    """What is kept of a file's rows: digests of image bytes and ids (uint64 [N]), which are distractors (bool [N])."""

    images: np.ndarray
    ids: np.ndarray
    distractors: np.ndarray
    groups: list[int]  # row groups that could be read
    decoded: int = 0


def check_part(dataset: Dataset, part: Part, products: pa.Table, add: Add, *, seed: int, sample: int) -> Held:
    """Check one images file, a row group at a time; `products` are those of products.parquet in it, by place."""
    file = str(dataset.images_file(part))
    kept: list[Held] = []
    try:
        with dataset.images_file(part).open_input() as stream:
            reader = pq.ParquetFile(stream)
            if not reader.schema_arrow.equals(images_schema(len(dataset.attributes))):
                told = ", ".join(f"{f.name} {f.type}" for f in reader.schema_arrow)
                add(f"{file}: the columns are {told}; they must be {', '.join(images_schema(0).names)}.")
                return _joined([])
            pointed = {g: list(found) for g, found in groupby(products.to_pylist(), key=lambda r: int(r["row_group"]))}
            for g in sorted(set(pointed) - set(range(reader.num_row_groups))):
                add(f"{file}: products.parquet points at row group {g}, the file has {reader.num_row_groups}.")
            chosen = _sample(reader.metadata.num_rows, sample, [seed, hash64(part.relative)])
            homes: dict[str, int] = {}
            start = 0
            for g in range(reader.num_row_groups):
                where, rows = f"{file}, row group {g}", reader.metadata.row_group(g).num_rows
                picks = [i - start for i in chosen if start <= i < start + rows]
                start += rows
                try:
                    table = reader.read_row_group(g)
                except DAMAGED as error:
                    add(f"{where}: can't be read ({' '.join(str(error).split())[:200]}).")
                    continue
                kept.append(_check_group(table, g, where, part, pointed.get(g, []), homes, picks, add))
    except DAMAGED as error:
        add(f"{file}: can't be read ({' '.join(str(error).split())[:200]}).")
    return _joined(kept)


def _joined(kept: list[Held]) -> Held:
    none = np.empty(0, np.uint64)
    return Held(
        np.concatenate([none, *(h.images for h in kept)]), np.concatenate([none, *(h.ids for h in kept)]),
        np.concatenate([np.empty(0, bool), *(h.distractors for h in kept)]), [g for h in kept for g in h.groups],
        sum(h.decoded for h in kept),
    )  # fmt: skip


def _sample(rows: int, sample: int, seed: list[int]) -> list[int]:
    """The first row and others, at most `sample`."""
    if rows == 0 or sample == 0:
        return []
    others = np.random.default_rng(seed).choice(rows - 1, min(sample, rows) - 1, replace=False)
    return [0, *sorted(int(i) + 1 for i in others)]


def _check_group(
    table: pa.Table, g: int, where: str, part: Part, pointed: list[dict[str, Any]], homes: dict[str, int], picks: list[int], add: Add
) -> Held:  # fmt: skip
    if empty := [name for name in table.column_names if table[name].null_count]:
        add(f"{where}: {empty[0]} is null in {table[empty[0]].null_count} rows.")
        return _joined([])
    products, labels, images = (table[c].to_pylist() for c in ("product_id", "label", "image"))
    starts = [i for i in range(len(products)) if i == 0 or products[i] != products[i - 1]]
    runs = [(products[a], a, b - a) for a, b in zip(starts, [*starts[1:], len(products)], strict=True)]
    size = sum(map(len, images))
    if len(runs) > 1 and (len(products) > GROUP_IMAGES or size > GROUP_BYTES):
        limits = f"{GROUP_IMAGES} images and {GROUP_BYTES:,} bytes"
        add(f"{where}: {len(products):,} images of {len(runs)} products in {size:,} bytes, more than {limits}.")
    seen: set[str] = set()
    for product, first, _ in runs:
        home = homes.setdefault(product, g)
        if home != g:
            add(f"{where}: product_id {product!r} is split, it stands in row group {home} too.")
        elif product in seen:
            add(f"{where}: product_id {product!r} is not adjacent, it comes again in row {first}.")
        seen.add(product)
    _check_pointers(runs, labels, where, pointed, add)
    for column, known in (("vertical", (part.vertical,)), ("domain", DOMAINS)):
        for value in table[column].unique().to_pylist():
            if value not in known:
                add(f"{where}: {column} is {value!r}, it must be {' or '.join(known)}.")
    signs = np.asarray(table["attributes"].combine_chunks().flatten())
    if len(wrong := signs[np.abs(signs.astype(np.int16)) > 1]):
        add(f"{where}: attributes hold {wrong[0]}, they must be 1, -1 or 0.")
    for i in picks:
        _check_image(images[i], table["width"][i].as_py(), table["height"][i].as_py(), f"{where}, row {i}", add)
    ids = [i.encode() for i in table["image_id"].to_pylist()]
    distractors = np.array([part.split == "gallery" and p.endswith(DISTRACTOR) for p in products], bool)
    return Held(short_digests(images), short_digests(ids), distractors, [g], len(picks))


def _check_pointers(
    runs: list[tuple[str, int, int]], labels: list[int], where: str, pointed: list[dict[str, Any]], add: Add
) -> None:
    """products.parquet names each product of a row group, with its place and label, and no others."""
    there = {product: (first, rows) for product, first, rows in reversed(runs)}
    for row in pointed:
        product, place = row["product_id"], (row["first_row"], row["rows"])
        found = there.pop(product, None)
        if found is None:
            add(f"{where}: products.parquet points at product_id {product!r}, which is not there.")
        elif found != place:
            told = f"{place[1]} images from row {place[0]}"
            add(f"{where}: product_id {product!r} has {found[1]} images from row {found[0]}, products.parquet says {told}.")
        elif any(label != row["label"] for label in labels[found[0] : sum(found)]):
            wrong = sorted(set(labels[found[0] : sum(found)]) - {row["label"]})
            add(f"{where}: product_id {product!r} has the label {wrong[0]}, products.parquet says {row['label']}.")
    for product in there:
        add(f"{where}: product_id {product!r} is not in products.parquet at this place.")


def _check_image(data: bytes, width: int, height: int, where: str, add: Add) -> None:
    try:
        size = to_rgb(data).size
    except UnreadableImage as error:
        add(f"{where}: the image can't be decoded ({error}).")
        return
    if size != (width, height):
        add(f"{where}: the image is {size[0]} x {size[1]} pixels, the row says {width} x {height}.")
