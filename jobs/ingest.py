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

import json
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, fields
from typing import Any

import pyarrow as pa
import ray
from pydantic import Field
from ray.data import DataContext

from fashion_dml.config import Cluster, Ingest, JobSettings
from fashion_dml.data.ingest import Work, check_damage, drop_drafts, finish, prepare, summary
from fashion_dml.data.placement import placed
from fashion_dml.data.ray_data import quiet_context, task_source
from fashion_dml.data.schema import Part
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
EXECUTION_FILES = 1024


class IngestSettings(JobSettings):
    """Sections that this job reads."""

    kind: str = Field("generated", description=f"{', '.join(KINDS)}; also as the first argument")
    source: str = Field("", description="folder, uncompressed tar, or list (kind folder)")
    out: str = Field("", description="dataset directory; empty: <workspace>/dataset")
    ingest: Ingest = Ingest()
    cluster: Cluster = Cluster()


def _as_table(found: PartReport | UserError) -> pa.Table:
    """One row: error, or report (JSON) and its products (an Arrow stream)."""
    if isinstance(found, UserError):
        return pa.table({"error": [str(found)], "report": [""], "products": [b""]})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, found.products.schema) as stream:
        stream.write_table(found.products)
    told = {field.name: getattr(found, field.name) for field in fields(found) if field.name != "products"}
    report = json.dumps(told | {"part": asdict(found.part)})
    return pa.table({"error": [""], "report": [report], "products": [sink.getvalue().to_pybytes()]})


def written(
    dataset: Location, work: list[Work], reader: Reader, settings: IngestSettings, watch: Callable[[list[PartReport]], None]
) -> list[PartReport]:
    """Write the files by Ray Data, a read task each; `watch` sees the reports so far whenever one comes, and may raise."""
    connect(settings.out or settings.workspace)
    shared, where = ray.put((reader, settings.ingest)), placed(settings.cluster.data_labels, "cluster.data_labels")
    address = str(dataset)

    def task(ref: Any) -> Callable[[], Iterator[pa.Table]]:
        def write() -> Iterator[pa.Table]:
            (reader, settings), one = ray.get([shared, ref])
            try:
                found: PartReport | UserError = write_part(
                    Location.of(address), one.part, one.rows, reader, settings, one.images_per_group, one.key
                )
            except UserError as error:  # as a result: Ray Data would wrap the sentence in tracebacks
                found = error
            yield _as_table(found)

        return write

    reports: list[PartReport] = []
    # Some thousand files an execution: their rows lie in the object store, and spill, only while it runs.
    for start in range(0, len(work), EXECUTION_FILES):
        tasks = [task(ray.put(one)) for one in work[start : start + EXECUTION_FILES]]
        with DataContext.current(quiet_context()):
            data = ray.data.read_datasource(task_source(tasks), override_num_blocks=len(tasks), num_cpus=0.5, **where)
        for batch in data.iter_batches(batch_size=None, batch_format="pyarrow"):
            for row in batch.to_pylist():
                if row["error"]:
                    raise UserError(row["error"])
                told = json.loads(row["report"])
                products = pa.ipc.open_stream(row["products"]).read_all()
                reports.append(PartReport(**{**told, "part": Part(**told["part"]), "products": products}))
            watch(reports)
    return reports


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
    drop_drafts(dataset)
    (dataset / "manifest.json").delete()  # incomplete from here until the new manifest
    with console.status("writing images") as status:

        def watch(reports: list[PartReport]) -> None:
            check_damage(prepared, reports, settings.ingest.max_unreadable, complete=False)
            status.update(f"writing images: {sum(r.images for r in reports):,} of {prepared.table.num_rows:,}")

        reports = written(dataset, prepared.work, reader, settings, watch)
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
