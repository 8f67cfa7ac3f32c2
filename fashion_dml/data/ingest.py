"""From a source's rows to the work of an ingest job: one images file each, and the manifest at the end."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fashion_dml.config import Ingest
from fashion_dml.data.digests import Hashed
from fashion_dml.data.schema import PRODUCTS_FILE, SPLITS, Part
from fashion_dml.data.shards import PartReport, shard_count, shard_of
from fashion_dml.data.sources.left_out import LeftOut, attached
from fashion_dml.data.sources.rows import attribute_matrix, check_rows, hold_out_validation, name_unlabelled, vocabulary
from fashion_dml.storage import Location, UserError, sha256_json, write_manifest

STOP_EARLY = 100


@dataclass(frozen=True)
class Work:
    """One images file to write; `table` has its part of the source's rows, `words` the attribute vocabulary."""

    part: Part
    table: pa.Table
    words: list[str]
    images_per_group: int
    key: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        """Arguments of shards.write_part. Made where the file is written: as Python objects all rows would fill the driver."""
        columns = ("ref", "image_id", "product_id", "label", "vertical", "domain", "view")
        matrix = attribute_matrix(self.table, self.words)
        return [{**row, "attributes": a} for row, a in zip(self.table.select(columns).to_pylist(), matrix, strict=True)]


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
    if settings.unlabelled:
        rows = name_unlabelled(rows)
    check_rows(rows, origin)
    table = hold_out_validation(rows, settings.validation_share, seed)
    words = vocabulary(table)
    shards = shard_count(settings.shards, table.num_rows)
    products = table["product_id"].combine_chunks().unique().sort()
    label = pc.index_in(table["product_id"], products)
    shard = pa.array((shard_of(p.as_py(), shards, seed) for p in products), pa.int32(), size=len(products))
    table = table.append_column("label", label.cast(pa.int64())).append_column("shard", shard.take(label.combine_chunks()))
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
    # What the bytes of a file depend on, beside its rows: another limit of unreadable images makes no file new.
    bytes_of = ("short_side", "jpeg_quality", "row_group_bytes", "crop", "highres", "generated")
    key = sha256_json({"inputs": inputs, "seed": seed, "settings": settings.model_dump(mode="json", include=set(bytes_of))})
    work = []
    for part, start, stop in _parts(table):
        # Small verticals get small row groups, so that their images still fill several lanes.
        group = max(1, min(settings.row_group_images, per_split[part.split, part.vertical] // settings.min_row_groups))
        block = table.slice(start, stop - start)
        work.append(Work(part, block, words, group, _digest(key, group, words, block)))
    return Ingestion(table, words, work, shards, left_out)


def _digest(key: str, images_per_group: int, words: list[str], block: pa.Table) -> str:
    """Digest of everything that an images file is made from."""
    digest = hashlib.sha256(f"{key}|{images_per_group}|{sha256_json(words)}".encode())
    for name in block.column_names:
        # Joined, so that it doesn't count how the source's columns lie in memory.
        text = pc.binary_join(pa.array([block[name].cast(pa.string()).to_pylist()]), "\0")
        digest.update(f"|{name}|".encode() + text[0].as_py().encode())
    return digest.hexdigest()


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
    check_damage(ingestion, reports, settings.max_unreadable)
    left_out = _counted(ingestion.left_out, reports)
    unreadable = [u for r in reports for u in r.unreadable]
    products = pa.concat_tables([r.products for r in reports]).sort_by(
        [(c, "ascending") for c in ("label", "vertical", "split")]
    )
    with (dataset / PRODUCTS_FILE).writing() as stream, Hashed(stream) as hashed:
        pq.write_table(products, hashed)
    written = [r for r in reports if len(r.products)]
    files = {f"images/{r.part.relative}": r.sha256 for r in written} | {PRODUCTS_FILE: hashed.sha256}
    counts: dict[str, dict[str, dict[str, int]]] = {}
    cells = products.group_by(["vertical", "split"]).aggregate([("label", "count"), ("rows", "sum")])
    for cell in cells.sort_by([("vertical", "ascending"), ("split", "ascending")]).to_pylist():
        counts.setdefault(cell["vertical"], {})[cell["split"]] = {"products": cell["label_count"], "images": cell["rows_sum"]}
    _drop_strays(dataset, {r.part.relative for r in written})
    return write_manifest(
        dataset, kind="dataset", config=config, inputs=inputs, seconds=seconds, attributes=ingestion.words, shards=ingestion.shards,
        images=sum(r.images for r in reports), products=len(products["label"].unique()), bytes=sum(r.bytes for r in reports),
        unreadable={"count": len(unreadable), "first": unreadable[:20]}, dropped=left_out.dropped(), protocol=left_out.notes, verticals=counts,
        files=files,
    )  # fmt: skip


def check_damage(ingestion: Ingestion, reports: list[PartReport], most: float, *, complete: bool = True) -> None:
    """Raise UserError if more than the share `most` of all images can't be read.

    Not `complete`: files are still being written. It is told before the end, once STOP_EARLY can't be read.
    """
    left_out = _counted(ingestion.left_out, reports)
    total = ingestion.table.num_rows + ingestion.left_out.damaged  # of the images that should be there
    if left_out.damaged > most * total and (complete or left_out.damaged >= STOP_EARLY):
        first = next((u for r in reports for u in r.unreadable), None) or left_out.first_damaged()
        raise UserError(
            f"{'' if complete else 'At least '}{left_out.damaged} of {total} images are unreadable, more than ingest.max_unreadable = {most:.1%}; "
            f"the first is {first}; mend or remove them, or raise the limit."
        )


def _counted(found: LeftOut, reports: list[PartReport]) -> LeftOut:
    """What the source left out, and what couldn't be read after it."""
    total = LeftOut(dict(found.counts), {r: list(f) for r, f in found.first.items()}, list(found.damage), found.notes)
    for report in reports:
        for what, reason in zip(report.unreadable, report.reasons, strict=True):
            total.add(reason, what, damage=True)
    return total


def drop_drafts(dataset: Location) -> None:
    """Remove what killed tasks of an earlier run left half-written: it only takes room."""
    for file in (dataset / "images").walk():
        if file.path.endswith(".partial"):
            file.delete()


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
