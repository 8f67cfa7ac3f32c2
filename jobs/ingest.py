"""Photos to the dataset layout.

    python -m jobs.ingest folder --source photos.tar --workspace workspace
    python -m jobs.ingest generated --workspace workspace --ingest.generated.products_per_vertical 200
    python -m jobs.ingest inshop --source 'In-shop Clothes Retrieval Benchmark' --workspace workspace --ingest.validation_share 0
    python -m jobs.ingest verify --workspace workspace        # checks a dataset: jobs/verify.py

`folder` takes a folder or an uncompressed tar that holds a CSV and images, or a CSV or Parquet list with addresses
(s3://...) or image bytes; `generated` draws a catalogue. The others take a public benchmark as it was released, unpacked or
as an uncompressed tar: `inshop`, `consumer_to_shop` (DeepFashion), `sop` (Stanford Online Products), `street2shop`, `fabric`
(folders with split.csv). A published score is learned from all training products: --ingest.validation_share 0. All write
`<workspace>/dataset` (or --out). An interrupted run goes on where it stopped; an unchanged one has nothing to do.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import ray
from pydantic import Field

from fashion_dml.config import Ingest, JobSettings
from fashion_dml.data.ingest import Work, finish, prepare, summary
from fashion_dml.data.shards import PartReport, write_part
from fashion_dml.data.sources.consumer_to_shop import read_consumer_to_shop
from fashion_dml.data.sources.fabric import read_fabric
from fashion_dml.data.sources.files import Reader
from fashion_dml.data.sources.folder import read_folder
from fashion_dml.data.sources.generated.source import read_generated
from fashion_dml.data.sources.inshop import read_inshop
from fashion_dml.data.sources.sop import read_sop
from fashion_dml.data.sources.street2shop import read_street2shop
from fashion_dml.storage import Location, UserError, read_manifest
from jobs import verify
from jobs.common import connect, console, main, print_table, write_report

Read = Callable[[str, Ingest], tuple[pa.Table, Reader, dict[str, str]]]
KINDS: dict[str, Read | None] = {
    "folder": read_folder, "generated": None, "inshop": read_inshop, "consumer_to_shop": read_consumer_to_shop, "sop": read_sop,
    "street2shop": read_street2shop, "fabric": read_fabric,
}  # fmt: skip
"""What reads the source of each kind; None where there is no source."""


class IngestSettings(JobSettings):
    """Sections that this job reads."""

    kind: str = Field("generated", description=f"{', '.join(KINDS)}; also as the first argument")
    source: str = Field("", description="folder, uncompressed tar, or list (kind folder)")
    out: str = Field("", description="dataset directory; empty: <workspace>/dataset")
    ingest: Ingest = Ingest()


@ray.remote(num_cpus=0.5)
def _write(dataset: str, work: Work, reader: Reader, settings: Ingest) -> PartReport:
    return write_part(Location.of(dataset), work.part, work.rows, reader, settings, work.images_per_group, work.key)


def read_source(settings: IngestSettings) -> tuple[pa.Table, Reader, dict[str, str], str]:
    """(rows, reader, inputs, name of the source)."""
    if settings.kind not in KINDS:
        raise UserError(f"There is no source {settings.kind!r}; known are {', '.join(KINDS)}.")
    read = KINDS[settings.kind]
    if read is None:
        drawn, reader = read_generated(settings.ingest.generated, settings.seed)
        return drawn, reader, {}, "the generated catalogue"
    if not settings.source:
        raise UserError(f"The kind {settings.kind} needs --source: a folder or an uncompressed tar with a list and images.")
    return *read(settings.source, settings.ingest), settings.source


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
    dataset.make_dir()  # refuses here, not in many tasks at once
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
    for reason, left_out in manifest["dropped"].items():
        console.print(f"left out: {left_out['count']:,} {reason}, first {left_out['first'][0]}")
    print_table(f"{dataset}: {manifest['images']:,} images, {manifest['bytes'] / 1e6:.1f} MB", *summary(manifest))
    write_report(settings.workspace, "ingest", settings, started, manifest=manifest)
    return manifest


def entry(argv: list[str] | None = None) -> int:
    """Exit code of the command line; the first argument may name the kind."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args[:1] == ["verify"]:
        return verify.entry(args[1:])
    if args and not args[0].startswith("-"):
        args = ["--kind", args[0], *args[1:]]
    return main(IngestSettings, ingest, prog="python -m jobs.ingest", doc=__doc__, argv=args)


if __name__ == "__main__":
    sys.exit(entry())
