"""The search index of a workspace: embeds the catalogue with the unified model and writes a new index version.

    python -m jobs.build_index --config jobs/configs/demo.yaml --workspace workspace
    python -m jobs.build_index --workspace workspace --activate true          (services change to it in place)
    python -m jobs.build_index --workspace workspace --live 20261101T120000Z-1f2e3d4c      (back to that version; builds nothing)

Reads <workspace>/dataset, <workspace>/unified/model and, where a live catalogue has changed, <workspace>/catalog, whose changes it
folds in; writes <workspace>/index/versions/<version> and with `--activate true` points <workspace>/index/CURRENT at it, as the
pipeline does. Services that follow CURRENT open it beside the old one, then change over. An interrupted run goes on where it
stopped; an unchanged one has nothing to do.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import ray
from pydantic import Field

from fashion_dml.config import Cluster, Embed, Index, JobSettings
from fashion_dml.data.placement import placed
from fashion_dml.data.schema import SPLITS, Dataset, Part
from fashion_dml.index import manifest as versions
from fashion_dml.index.catalog import Catalog
from fashion_dml.storage import (
    MANIFEST,
    Location,
    UserError,
    manifest_sha256,
    require_manifest,
    sha256_json,
    write_manifest,
)
from jobs.common import connect, console, main, print_table, write_report
from jobs.index_tasks import ShardTask, shard_task, train_task, translate_task, tune_task

NO_EFFORT = {"probes": 0, "candidates": 0}  # of the kind flat, which looks at all


class BuildIndexSettings(JobSettings):
    """Sections that this job reads."""

    force: bool = Field(False, description="build a new version even if there is one of the same inputs and settings")
    activate: bool = Field(False, description="make the version the live one; the first one is made so anyway")
    live: str = Field("", description="build nothing: make this version, which is there, the live one, as to go back to it")
    embed: Embed = Embed()
    index: Index = Index()
    cluster: Cluster = Cluster()


def _tasks(
    settings: Index, dataset: Dataset, embeddings: str, version: str, model: dict[str, Any], parts: list[Part],
    catalog: str, upto: int,
) -> list[ShardTask]:  # fmt: skip
    """Dataset shard n goes to index shard n % S; in a shard the verticals ascend, as SegmentWriter needs."""
    ordered = sorted(parts, key=lambda p: (p.vertical, p.shard, p.split))
    return [
        ShardTask(
            s, version, str(dataset.location), embeddings, tuple(p for p in ordered if p.shard % settings.shards == s),
            model["sha256"], int(model["dim"]), len(dataset.attributes), settings, catalog, upto,
        )
        for s in range(settings.shards)
    ]  # fmt: skip


def _catalog(workspace: Location, dim: int, attributes: Sequence[str]) -> tuple[str, str, int]:
    """(address, id, last commit) of the live catalogue, ("", "", 0) if there is none."""
    location = workspace / "catalog"
    if not location.is_dir():
        return "", "", 0
    catalog = Catalog.open(location, dim=dim, attributes=attributes)
    return str(location), catalog.id, catalog.latest()


def _parts(settings: Index, dataset: Dataset) -> list[Part]:
    for split in settings.splits:
        if split not in SPLITS:
            raise UserError(f"index.splits names {split!r}; known are {', '.join(SPLITS)}.")
    parts = [p for split in settings.splits for p in dataset.parts(split)]
    if not parts:
        raise UserError(f"{dataset.location} has no images in the splits {', '.join(settings.splits)}; change index.splits.")
    shards = len({p.shard for p in dataset.parts()})
    if settings.shards > shards:
        raise UserError(
            f"index.shards = {settings.shards}, but {dataset.location} has {shards} shards: lower it, "
            "or ingest with more ingest.shards."
        )
    return parts


def _known(index: Location, inputs: dict[str, Any], config: Any) -> str | None:
    """The newest version that can be opened and was made from the same inputs with the same settings."""
    for name in reversed(versions.versions(index)):
        with contextlib.suppress(UserError):  # one that can't be opened is no reason not to build one that can
            made = versions.load(index, name)
            if (made.inputs, made.config) == (inputs, config):
                return name
    return None


def _version(index: Location, key: str) -> str:
    """The name of an interrupted build of the same content, else a new one: the time in UTC and the content's key."""
    for directory in (index / "versions").children():
        if directory.name.endswith(f"-{key}") and not (directory / MANIFEST).is_file():
            return directory.name
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{key}"


def build(settings: BuildIndexSettings) -> dict[str, Any]:
    """Build a version if there is none of these inputs, make it the live one if asked to; returns the report's content."""
    from fashion_dml.inference.embed import EmbedRequest, ensure_embeddings  # brings torch, which the shard tasks don't need

    started = time.monotonic()
    workspace = Location.of(settings.workspace)
    index = versions.index_root(workspace)
    if settings.live:
        versions.activate(index, settings.live)
        return _report(settings, started, versions.load(index, settings.live), built=False, live=True, deleted=[])
    dataset = Dataset.open(workspace / "dataset")
    model_dir = workspace / "unified" / "model"
    model = require_manifest(model_dir, made_by="python -m jobs.distill")
    parts = _parts(settings.index, dataset)
    catalog, catalog_id, upto = _catalog(workspace, int(model["dim"]), dataset.attributes)
    inputs = {"dataset": manifest_sha256(dataset.location), "model": manifest_sha256(model_dir)}
    if upto:
        inputs["catalog"] = f"{catalog_id}@{upto}"
    config = settings.index.model_dump(mode="json", exclude={"keep_versions", "leave_out_vectors"})
    if not settings.force and (known := _known(index, inputs, config)) is not None:
        versions.keep_model(index, model_dir, model["sha256"])
        console.print(f"{index} is complete and unchanged: version {known}")
        return _finish(settings, started, index, known, built=False)
    connect(settings.workspace)
    where = placed(settings.cluster.data_labels, "cluster.data_labels")
    embeddings = ensure_embeddings(workspace, dataset, [EmbedRequest(str(model_dir), parts)], settings.embed, settings.cluster)
    # CODES, so that no interrupted build of the layout without that file goes on.
    version = _version(index, sha256_json({"inputs": inputs, "config": config, "layout": versions.CODES})[:8])
    directory = versions.version_dir(index, version)
    made = str(embeddings[str(model_dir)])
    tasks = _tasks(settings.index, dataset, made, version, model, parts, catalog if upto else "", upto)
    if upto:
        with console.status("embedding changed items again where their vectors are of another model"):
            found = ray.get(translate_task.options(**where).remote(catalog, upto, str(model_dir), model["sha256"]))
        _no_item_lost(found["hidden"], settings.index.leave_out_vectors)
    with console.status("choosing and training the index"):
        begun = ray.get(train_task.options(**where).remote(str(index), tasks))
    with console.status(f"writing {len(tasks)} index shards"):
        done = ray.get(
            [shard_task.options(scheduling_strategy="SPREAD", **where).remote(str(index), task, begun) for task in tasks]
        )
    tuned: dict[str, Any] = {"effort": NO_EFFORT, "recall": 1.0, "points": []}
    if begun["kind"] != "flat":
        largest = max(range(len(tasks)), key=lambda i: done[i]["items"])
        with console.status("finding how hard a search must look"):
            tuned = ray.get(tune_task.options(**where).remote(str(index), tasks[largest], begun["kind"]))
        if tuned["recall"] < settings.index.recall:
            console.print(
                f"[yellow]recall@10 of the shards is {tuned['recall']:.3f} at most, below index.recall = {settings.index.recall:g}: "
                "take another index.kind or index.store[/yellow]"
            )
    verticals: dict[str, dict[str, int]] = {}
    for shard in done:
        for vertical, counts in shard["verticals"].items():
            total = verticals.setdefault(vertical, {"items": 0, "products": 0})
            for what, n in counts.items():
                total[what] += n
    versions.keep_model(index, model_dir, model["sha256"])
    write_manifest(
        directory, kind=versions.KIND, config=config, inputs=inputs, seconds=time.monotonic() - started,
        model=model["sha256"], dim=int(model["dim"]), index=begun["kind"], store=settings.index.store,
        effort=tuned["effort"], recall=tuned["recall"], choice=begun["choice"], curve=tuned["points"], catalog=upto,
        shards=[shard["items"] for shard in done], products=sum(shard["products"] for shard in done),
        verticals=dict(sorted(verticals.items())),
        attributes=dataset.attributes, files={name: entry for made in (begun, *done) for name, entry in made["files"].items()},
    )  # fmt: skip
    (directory / "receipts").delete()
    return _finish(settings, started, index, version, built=True)


def _no_item_lost(hidden: list[str], leave_out: bool) -> None:
    """Raises UserError where changed items would be missing from the index, unless that is wanted."""
    if not hidden:
        return
    what = f"{len(hidden)} changed items, as {hidden[0]!r}, came as vectors of another model without a picture"
    if not leave_out:
        raise UserError(
            f"{what}: send them again with pictures or with this model's vectors, delete them, or leave them out by "
            "--index.leave_out_vectors true."
        )
    console.print(f"[yellow]{what}: they are left out[/yellow]")


def _finish(settings: BuildIndexSettings, started: float, index: Location, version: str, *, built: bool) -> dict[str, Any]:
    """Make the version the live one if that is asked for, delete old ones, report."""
    live = versions.current(index)
    if version != live and (settings.activate or live is None):
        versions.activate(index, version)
        live = version
    deleted = versions.prune(index, settings.index.keep_versions) if built else []
    if version != live:
        console.print(f"version {live} stays the live one; `--activate true` changes that")
    return _report(settings, started, versions.load(index, version), built=built, live=live == version, deleted=deleted)


def _report(
    settings: BuildIndexSettings,
    started: float,
    manifest: versions.IndexManifest,
    *,
    built: bool,
    live: bool,
    deleted: list[str],
) -> dict[str, Any]:
    m = manifest
    content = {
        "version": m.version, "built": built, "live": live, "model": m.model, "dim": m.dim, "kind": m.kind, "store": m.store,
        "items": m.items, "products": m.products, "shards": list(m.shards), "verticals": m.verticals, "deleted": deleted,
        "bytes": sum(int(f["bytes"]) for f in m.files.values()), "effort": asdict(m.effort), **m.measured,
    }  # fmt: skip
    if m.measured["choice"] or m.measured["curve"]:
        from fashion_dml.evaluation.html import render_choice  # matplotlib, for a page that few builds write

        page = render_choice(content, goal=settings.index.recall, title=f"Index version {m.version}")
        (Location.of(settings.workspace) / "reports" / "build_index.html").write_bytes(page.encode())
    write_report(settings.workspace, "build_index", settings, started, **content)
    rows = [(v, f"{c['products']:,}", f"{c['items']:,}") for v, c in m.verticals.items()]
    print_table(f"index version {m.version}: {m.items:,} items, {m.kind} {m.store}", ("vertical", "products", "items"), rows)
    return content


def entry(argv: list[str] | None = None) -> int:
    """Exit code of the command line."""
    return main(BuildIndexSettings, build, prog="python -m jobs.build_index", doc=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(entry())
