"""Photos to the dataset layout.

    python -m jobs.ingest folder --source photos.tar --workspace workspace
    python -m jobs.ingest generated --workspace workspace --ingest.generated.products_per_vertical 200

`folder` takes a folder or an uncompressed tar that holds a CSV and images; `generated` draws a catalogue. Both write
`<workspace>/dataset` (or --out). An interrupted run goes on where it stopped; an unchanged one has nothing to do.
"""

from __future__ import annotations

import sys
import time
from typing import Any

import pyarrow as pa
import ray
from pydantic import Field

from fashion_dml.config import Ingest, JobSettings
from fashion_dml.data.ingest import Work, finish, prepare, summary
from fashion_dml.data.shards import PartReport, write_part
from fashion_dml.data.sources.folder import Reader, read_folder
from fashion_dml.data.sources.generated.source import read_generated
from fashion_dml.storage import Location, UserError, read_manifest
from jobs.common import connect, console, main, print_table, write_report

KINDS = ("folder", "generated")


class IngestSettings(JobSettings):
    """Sections that this job reads."""

    kind: str = Field("generated", description="folder or generated; also as the first argument")
    source: str = Field("", description="folder or tar with a CSV and images (kind folder)")
    out: str = Field("", description="dataset directory; empty: <workspace>/dataset")
    ingest: Ingest = Ingest()


@ray.remote(num_cpus=0.5)
def _write(dataset: str, work: Work, reader: Reader, settings: Ingest) -> PartReport:
    return write_part(Location.of(dataset), work.part, work.rows, reader, settings, work.images_per_group, work.key)


def read_source(settings: IngestSettings) -> tuple[pa.Table, Reader, dict[str, str], str]:
    """(rows, reader, inputs, name of the source)."""
    if settings.kind == "folder":
        if not settings.source:
            raise UserError("The kind folder needs --source: a folder or an uncompressed tar with a CSV and images.")
        rows, reader, inputs = read_folder(settings.source, settings.ingest)
        return rows, reader, inputs, settings.source
    if settings.kind == "generated":
        rows, reader = read_generated(settings.ingest.generated, settings.seed)
        return rows, reader, {}, "the generated catalogue"
    raise UserError(f"There is no source {settings.kind!r}; known are {', '.join(KINDS)}.")


def ingest(settings: IngestSettings) -> dict[str, Any]:
    """Write the dataset; returns its manifest."""
    started = time.monotonic()
    dataset = Location.of(settings.out) if settings.out else Location.of(settings.workspace) / "dataset"
    known = read_manifest(dataset)
    rows, reader, inputs, origin = read_source(settings)
    config = settings.model_dump(mode="json", include={"seed", "kind", "ingest"})
    if known and known["config"] == config and known["inputs"] == inputs:
        console.print(f"{dataset} is complete and unchanged")
        return known
    prepared = prepare(rows, origin, settings.ingest, settings.seed, inputs)
    (dataset / "manifest.json").delete()  # incomplete from here until the new manifest
    connect()
    shared = ray.put(reader)
    pending: list[Any] = []
    reports: list[PartReport] = []
    todo = list(prepared.work)
    most = max(2, int(2 * ray.cluster_resources().get("CPU", 1)) + 2)  # bounded: rows of a few files in flight
    with console.status("writing images") as status:
        while todo or pending:
            while todo and len(pending) < most:
                pending.append(_write.remote(str(dataset), todo.pop(), shared, settings.ingest))
            done, pending = ray.wait(pending)
            reports += ray.get(done)
            status.update(f"writing images: {sum(r.images for r in reports):,} of {prepared.table.num_rows:,}")
    manifest = finish(dataset, prepared, reports, settings.ingest, config, inputs, time.monotonic() - started)
    unreadable = manifest["unreadable"]
    if unreadable["count"]:
        console.print(f"[yellow]{unreadable['count']} unreadable images left out, first {unreadable['first'][0]}[/yellow]")
    header = ("vertical", *(f"{s} {w}" for s in ("train", "validation", "test") for w in ("products", "images")))
    print_table(f"{dataset}: {manifest['images']:,} images, {manifest['bytes'] / 1e6:.1f} MB", header, summary(manifest))
    write_report(settings.workspace, "ingest", settings, started, manifest=manifest)
    return manifest


def entry(argv: list[str] | None = None) -> int:
    """Exit code of the command line; the first argument may name the kind."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and not args[0].startswith("-"):
        args = ["--kind", args[0], *args[1:]]
    return main(IngestSettings, ingest, prog="python -m jobs.ingest", doc=__doc__, argv=args)


if __name__ == "__main__":
    sys.exit(entry())
