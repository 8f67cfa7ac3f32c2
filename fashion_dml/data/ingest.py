"""From a source's rows to the work of an ingest job: one images file each, and the manifest at the end."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fashion_dml.config import Ingest
from fashion_dml.data.digests import Hashed
from fashion_dml.data.schema import PRODUCTS, PRODUCTS_FILE, SPLITS, Part
from fashion_dml.data.shards import PartReport, shard_count, shard_of
from fashion_dml.data.sources.left_out import LeftOut, attached
from fashion_dml.data.sources.rows import attribute_matrix, check_rows, hold_out_validation, vocabulary
from fashion_dml.storage import Location, UserError, sha256_json, write_manifest


@dataclass(frozen=True)
class Work:
    """One images file to write; `rows` are arguments of shards.write_part."""

    part: Part
    rows: list[dict[str, Any]]
    images_per_group: int
    key: str


@dataclass(frozen=True)
class Ingestion:
    """A checked source, cut into work."""

    table: pa.Table
    words: list[str]
    work: list[Work]
    shards: int
    left_out: LeftOut


def prepare(rows: pa.Table, origin: str, settings: Ingest, seed: int, inputs: dict[str, str]) -> Ingestion:
    """Check the rows, hold out validation products, number the products, and cut the images into files."""
    left_out = attached(rows)
    check_rows(rows, origin)
    table = hold_out_validation(rows, settings.validation_share, seed)
    words = vocabulary(table)
    shards = shard_count(settings.shards, table.num_rows)
    products = table.group_by(["product_id"]).aggregate([]).sort_by("product_id")["product_id"].to_pylist()
    label = {p: i for i, p in enumerate(products)}
    shard = {p: shard_of(p, shards, seed) for p in products}
    ids = table["product_id"].to_pylist()
    table = table.append_column("label", pa.array([label[p] for p in ids], pa.int64()))
    table = table.append_column("shard", pa.array([shard[p] for p in ids], pa.int32()))
    table = table.sort_by(
        [
            ("split", "ascending"),
            ("vertical", "ascending"),
            ("shard", "ascending"),
            ("label", "ascending"),
            ("image_id", "ascending"),
        ]
    )
    per_split = {
        (r["split"], r["vertical"]): r["ref_count"]
        for r in table.group_by(["split", "vertical"]).aggregate([("ref", "count")]).to_pylist()
    }
    key = sha256_json({"inputs": inputs, "seed": seed, "settings": settings.model_dump(mode="json"), "words": words})
    work = []
    for part, start, stop in _parts(table):
        # Small verticals get small row groups, so that their images still fill several lanes.
        group = max(1, min(settings.row_group_images, per_split[part.split, part.vertical] // settings.min_row_groups))
        block = table.slice(start, stop - start)
        matrix = attribute_matrix(block, words)
        columns = ("ref", "image_id", "product_id", "label", "vertical", "domain", "view")
        listed = [{**r, "attributes": a} for r, a in zip(block.select(columns).to_pylist(), matrix, strict=True)]
        work.append(Work(part, listed, group, sha256_json({"key": key, "rows": [r["image_id"] for r in listed]})))
    return Ingestion(table, words, work, shards, left_out)


def _parts(table: pa.Table) -> Iterable[tuple[Part, int, int]]:
    """Runs of equal (split, vertical, shard) in the sorted table."""
    columns = [table[c].combine_chunks() for c in ("split", "vertical", "shard")]
    changed = np.zeros(table.num_rows, bool)
    for column in columns:
        changed[1:] |= pc.not_equal(column[1:], column[:-1]).to_numpy(zero_copy_only=False)
    starts = [0, *np.flatnonzero(changed).tolist()]
    for a, b in zip(starts, [*starts[1:], table.num_rows], strict=True):
        yield Part(columns[0][a].as_py(), columns[1][a].as_py(), columns[2][a].as_py()), a, b


def finish(
    dataset: Location,
    ingestion: Ingestion,
    reports: list[PartReport],
    settings: Ingest,
    config: Any,
    inputs: dict[str, str],
    seconds: float,
) -> dict[str, Any]:
    """Write products.parquet and, last, the manifest. Raises UserError if too many images were unreadable."""
    reports = sorted(reports, key=lambda r: r.part.relative)  # tasks end in any order, the manifest is the same
    left_out = _counted(ingestion.left_out, reports)
    unreadable = [u for r in reports for u in r.unreadable]
    total = ingestion.table.num_rows + ingestion.left_out.damaged  # of the images that should be there
    if left_out.damaged > settings.max_unreadable * total:
        first = unreadable[0] if unreadable else left_out.first_damaged()
        raise UserError(
            f"{left_out.damaged} of {total} images are unreadable, more than ingest.max_unreadable = {settings.max_unreadable:.1%}; "
            f"the first is {first}; mend or remove them, or raise the limit."
        )
    products = sorted((p for r in reports for p in r.products), key=lambda p: (p["label"], p["vertical"], p["split"]))
    with (dataset / PRODUCTS_FILE).writing() as stream, Hashed(stream) as hashed:
        pq.write_table(pa.Table.from_pylist(products, PRODUCTS), hashed)
    files = {f"images/{r.part.relative}": r.sha256 for r in reports if r.products} | {PRODUCTS_FILE: hashed.sha256}
    counts: dict[str, dict[str, dict[str, int]]] = {}
    for product in products:
        cell = counts.setdefault(product["vertical"], {}).setdefault(product["split"], {"products": 0, "images": 0})
        cell["products"] += 1
        cell["images"] += product["rows"]
    _drop_strays(dataset, {r.part.relative for r in reports if r.products})
    return write_manifest(
        dataset, kind="dataset", config=config, inputs=inputs, seconds=seconds, attributes=ingestion.words, shards=ingestion.shards,
        images=sum(r.images for r in reports), products=len({p["label"] for p in products}), bytes=sum(r.bytes for r in reports),
        unreadable={"count": len(unreadable), "first": unreadable[:20]}, dropped=left_out.dropped(), protocol=left_out.notes, verticals=counts,
        files=files,
    )  # fmt: skip


def _counted(found: LeftOut, reports: list[PartReport]) -> LeftOut:
    """What the source left out, and what couldn't be read after it."""
    total = LeftOut(dict(found.counts), {r: list(f) for r, f in found.first.items()}, list(found.damage), found.notes)
    for report in reports:
        for what, reason in zip(report.unreadable, report.reasons, strict=True):
            total.add(reason, what, damage=True)
    return total


def _drop_strays(dataset: Location, kept: set[str]) -> None:
    """Remove files of an earlier ingest with other settings: a reader of the folder must not meet them."""
    root = dataset / "images"
    for file in root.walk():
        if file.path.removeprefix(root.path).lstrip("/") not in kept:
            file.delete()


def summary(manifest: dict[str, Any]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """(header, rows) of the table that the job prints: vertical, then products and images of each split that there is."""
    verticals: dict[str, dict[str, dict[str, int]]] = manifest["verticals"]
    cells = [(s, w) for s in SPLITS if any(s in found for found in verticals.values()) for w in ("products", "images")]
    rows = [(v, *(f"{found[s][w]:,}" if s in found else "0" for s, w in cells)) for v, found in sorted(verticals.items())]
    totals = (f"{sum(found[s][w] for found in verticals.values() if s in found):,}" for s, w in cells)
    return ("vertical", *(f"{s} {w}" for s, w in cells)), [*rows, ("all", *totals)]
