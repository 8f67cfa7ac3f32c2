"""Whether a dataset keeps the contracts of its layout: what is wrong, one sentence each, with the file and the value.

Memory: the products table, one row group of images at a time, and two 8-byte digests of every image.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fashion_dml.data.schema import PRODUCTS, PRODUCTS_FILE, SPLITS, Dataset, Part
from fashion_dml.data.verify_part import DAMAGED, Held, check_part
from fashion_dml.storage import MANIFEST, Location, UserError, require_manifest

MOST = 1000
"""Findings that are kept; further ones are counted."""
NAMED = 20
"""Findings of one kind that are named where a check looks at the whole dataset at once."""
MEASURED = ("test", "query", "gallery")


@dataclass
class Verified:
    """What was looked at, and what is wrong with it."""

    files: int = 0
    images: int = 0
    decoded: int = 0
    found: int = 0
    findings: list[str] = field(default_factory=list)

    def add(self, finding: str) -> None:
        self.found += 1
        if len(self.findings) < MOST:
            self.findings.append(finding)


def verify(dataset: str | Location, *, seed: int = 0, sample: int = 4) -> Verified:
    """Check a whole dataset; `sample` images of every file are decoded, the first and others by `seed`."""
    root, result = Location.of(dataset), Verified()
    opened = _open(root, result)
    if opened is None:
        return result
    _check_files(opened, result)
    _check_products(opened, result)
    _check_counts(opened, result)
    held: list[tuple[Part, Held]] = []
    for part, products in _by_part(opened):
        if not opened.images_file(part).is_file():
            continue  # named by _check_files
        held.append((part, check_part(opened, part, products, result.add, seed=seed, sample=sample)))
        result.files += 1
        result.images += len(held[-1][1].images)
        result.decoded += held[-1][1].decoded
    _check_ids(opened, held, result)
    _check_leaks(opened, held, result)
    return result


def _by_part(dataset: Dataset) -> Iterator[tuple[Part, pa.Table]]:
    """Every images file with the rows of products.parquet that point into it, by row group and place."""
    keys = ["split", "vertical", "shard"]
    table = dataset.products.sort_by([(name, "ascending") for name in (*keys, "row_group", "first_row")])
    counted = dataset.products.group_by(keys).aggregate([("rows", "count")]).to_pylist()
    start = 0
    for row in sorted(counted, key=lambda r: tuple(r[k] for k in keys)):
        yield Part(row["split"], row["vertical"], row["shard"]), table.slice(start, row["rows_count"])
        start += row["rows_count"]


def _open(root: Location, result: Verified) -> Dataset | None:
    """The dataset, if its manifest and products can be read at all."""
    try:
        manifest = require_manifest(root, made_by="python -m jobs.ingest")
    except UserError as error:
        result.add(str(error))
        return None
    if manifest.get("kind") != "dataset":
        result.add(f"{root / MANIFEST}: kind is {manifest.get('kind')!r}, not 'dataset'.")
        return None
    kinds = {"attributes": list, "images": int, "products": int, "verticals": dict}
    wrong = [name for name, kind in kinds.items() if not isinstance(manifest.get(name), kind)]
    for name in wrong:
        result.add(f"{root / MANIFEST}: {name} is {str(manifest.get(name))[:80]}, not a {kinds[name].__name__}.")
    try:
        with (root / PRODUCTS_FILE).open_input() as stream:
            products = pq.read_table(stream)
    except DAMAGED as error:
        result.add(f"{root / PRODUCTS_FILE}: can't be read ({' '.join(str(error).split())[:200]}).")
        return None
    if not products.schema.equals(PRODUCTS):
        told = ", ".join(f"{f.name} {f.type}" for f in products.schema)
        result.add(f"{root / PRODUCTS_FILE}: the columns are {told}; they must be {', '.join(PRODUCTS.names)}.")
        return None
    for split in set(products["split"].to_pylist()) - set(SPLITS):
        result.add(f"{root / PRODUCTS_FILE}: a product has the split {split!r}; known are {', '.join(SPLITS)}.")
    return None if wrong else Dataset(root, manifest, products)


def _check_files(dataset: Dataset, result: Verified) -> None:
    """What the manifest lists is there and unaltered, and nothing else is."""
    root, listed = dataset.location, dataset.manifest.get("files")
    there = set(root.sizes())
    expected = {PRODUCTS_FILE, *(f"images/{p.relative}" for p in dataset.parts())}
    for name in sorted(expected - there):
        result.add(f"{root / name}: the file is missing.")
    for name in sorted(there - expected - {MANIFEST}):
        result.add(f"{root / name}: the file is a stray, no product of {PRODUCTS_FILE} lies in it.")
    if not isinstance(listed, dict):
        result.add(f"{root / MANIFEST}: no sha256 of the files is recorded, so altered ones can't be told; ingest again.")
        return
    for name in sorted(expected ^ set(listed)):
        where = f"is not listed in {MANIFEST}" if name in expected else f"is listed in {MANIFEST}, but holds no product"
        result.add(f"{root / name}: the file {where}.")
    for name in sorted(expected & set(listed) & there):
        digest = (root / name).sha256()
        if digest != listed[name]:
            result.add(
                f"{root / name}: altered after ingest, its sha256 is {digest[:12]}..., {MANIFEST} says {str(listed[name])[:12]}..."
            )


def _check_products(dataset: Dataset, result: Verified) -> None:
    """One label a product, one shard, one split but for query and gallery; each pointed at once."""
    file, products = dataset.location / PRODUCTS_FILE, dataset.products
    role = pc.if_else(pc.is_in(products["split"], pa.array(["query", "gallery"])), "query and gallery", products["split"])
    table = products.append_column("role", role)
    for key, value, what in (
        ("product_id", "label", "labels"), ("label", "product_id", "products"), ("product_id", "shard", "shards"),
    ):  # fmt: skip
        for row in _several(table, key, value):
            result.add(f"{file}: {key} {row[key]!r} has several {what}, {row['min']!r} and {row['max']!r}.")
    for row in _several(table, "product_id", "role"):
        result.add(f"{file}: product_id {row['product_id']!r} leaks, it is in the splits {row['min']} and {row['max']}.")
    counted = table.group_by(["product_id", "vertical", "split"]).aggregate([("label", "count")])
    for row in counted.filter(pc.field("label_count") > 1).slice(0, NAMED).to_pylist():
        where = f"split {row['split']}, vertical {row['vertical']}"
        result.add(f"{file}: product_id {row['product_id']!r} stands {row['label_count']} times in {where}.")


def _several(table: pa.Table, key: str, value: str) -> list[dict[str, Any]]:
    """The first keys that have more than one value: {key, min, max}."""
    counted = table.group_by([key]).aggregate([(value, "count_distinct"), (value, "min"), (value, "max")])
    found = counted.filter(pc.field(f"{value}_count_distinct") > 1).sort_by(key).slice(0, NAMED).to_pylist()
    return [{key: r[key], "min": r[f"{value}_min"], "max": r[f"{value}_max"]} for r in found]


def _check_counts(dataset: Dataset, result: Verified) -> None:
    """The manifest's counts are those of the products."""
    file, products = dataset.location / MANIFEST, dataset.products
    totals = {"images": pc.sum(products["rows"]).as_py() or 0, "products": pc.count_distinct(products["label"]).as_py()}
    for name, count in totals.items():
        if dataset.manifest[name] != count:
            result.add(f"{file}: {name} is {dataset.manifest[name]:,}, {PRODUCTS_FILE} has {count:,}.")
    counted = products.group_by(["vertical", "split"]).aggregate([("rows", "sum"), ("rows", "count")]).to_pylist()
    there = {(r["vertical"], r["split"]): {"products": r["rows_count"], "images": r["rows_sum"]} for r in counted}
    told = {(v, s): cell for v, cells in dataset.manifest["verticals"].items() for s, cell in cells.items()}
    for vertical, split in sorted(there.keys() | told.keys()):
        if there.get((vertical, split)) != told.get((vertical, split)):
            where = f"vertical {vertical}, split {split}"
            result.add(f"{file}: {where} is {told.get((vertical, split))}, {PRODUCTS_FILE} has {there.get((vertical, split))}.")


def _check_ids(dataset: Dataset, held: list[tuple[Part, Held]], result: Verified) -> None:
    """No two images have the same id."""
    if not held:
        return
    ids = np.concatenate([h.ids for _, h in held])
    order = np.argsort(ids, kind="stable")
    twice = np.flatnonzero(ids[order][1:] == ids[order][:-1])
    for i in twice[:NAMED]:
        (a, image), (b, _) = (_image(dataset, held, int(order[i + n])) for n in (0, 1))
        result.add(f"{dataset.images_file(b)}: image_id {image!r} stands in {a.relative} too.")


def _check_leaks(dataset: Dataset, held: list[tuple[Part, Held]], result: Verified) -> None:
    """No image of train is measured on, under whatever name; distractors of a gallery may be training images."""
    starts = np.cumsum([0, *(len(h.images) for _, h in held)])
    sides: list[tuple[list[np.ndarray], list[np.ndarray]]] = [
        ([], []),
        ([], []),
    ]  # (digests, places) of train, of what is measured
    for (part, h), start in zip(held, starts, strict=False):
        if part.split == "train" or part.split in MEASURED:
            digests, places = sides[part.split != "train"]
            kept = np.flatnonzero(~h.distractors)
            digests.append(h.images[kept])
            places.append(start + kept)
    if not all(digests for digests, _ in sides):
        return
    (train, train_at), (measured, measured_at) = ((np.concatenate(d), np.concatenate(p)) for d, p in sides)
    known, first = np.unique(train, return_index=True)
    leaked = np.flatnonzero(np.isin(measured, known))
    for i in leaked[:NAMED]:
        part, image = _image(dataset, held, int(measured_at[i]))
        same = first[np.searchsorted(known, measured[i])]
        where, trained = _image(dataset, held, int(train_at[same]))
        result.add(
            f"{dataset.images_file(part)}: image_id {image!r} leaks, it has the same bytes as {trained!r} of {where.relative}."
        )
    if len(leaked) > NAMED:
        result.add(
            f"{dataset.location / 'images'}: {len(leaked) - NAMED:,} more images of {', '.join(MEASURED)} are in train too."
        )


def _image(dataset: Dataset, held: list[tuple[Part, Held]], place: int) -> tuple[Part, str]:
    """(file, id) of the image at a place in the order of reading."""
    for part, h in held:
        if place < len(h.images):
            with dataset.images_file(part).open_input() as stream:
                ids = pq.ParquetFile(stream).read_row_groups(h.groups, columns=["image_id"])["image_id"]
            return part, str(ids[place].as_py())
        place -= len(h.images)
    raise IndexError(place)
