"""The search index of a workspace: embeds the catalogue with the unified model and writes a new index version.

    python -m jobs.build_index --config jobs/configs/demo.yaml --workspace workspace

Reads <workspace>/dataset and <workspace>/unified/model; writes <workspace>/index/versions/<version>, then points
<workspace>/index/CURRENT at it. An interrupted run goes on where it stopped; an unchanged one has nothing to do.
"""

from __future__ import annotations

import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from PIL import Image
from pydantic import Field

from fashion_dml.config import Cluster, Embed, Index, JobSettings
from fashion_dml.data.decode import to_rgb
from fashion_dml.data.schema import SPLITS, Dataset, Part
from fashion_dml.index import manifest as versions
from fashion_dml.index.segment import SegmentWriter
from fashion_dml.storage import (
    Location,
    UserError,
    manifest_sha256,
    read_manifest,
    require_manifest,
    sha256_json,
    write_manifest,
)
from jobs.common import connect, console, main, print_table, write_report

THUMBNAIL_QUALITY = 85


class BuildIndexSettings(JobSettings):
    """Sections that this job reads."""

    force: bool = Field(False, description="build a new version even if the live one is up to date")
    embed: Embed = Embed()
    index: Index = Index()
    cluster: Cluster = Cluster()


@dataclass(frozen=True)
class ShardTask:
    """What one task turns into one shard. Addresses are strings, so that any node can open them."""

    shard: int
    version: str
    dataset: str
    embeddings: str
    parts: tuple[Part, ...]
    dim: int
    attributes: int
    settings: Index


def thumbnail(data: bytes, width: int, height: int, side: int) -> bytes:
    """A JPEG whose longest side is at most `side` pixels; an image that is small enough is kept as it is."""
    if max(width, height) <= side:
        return data
    image = to_rgb(data)
    image.thumbnail((side, side), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=THUMBNAIL_QUALITY)
    return buffer.getvalue()


def row_groups(task: ShardTask, part: Part) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Images of one row group after the other, each with its embeddings float32 [n, D]."""
    images_file, vectors_file = (Location.of(u) / part.relative for u in (f"{task.dataset}/images", task.embeddings))
    with images_file.open_input() as a, vectors_file.open_input() as b:
        images, vectors = pq.ParquetFile(a), pq.ParquetFile(b)
        for g in range(images.num_row_groups):
            rows, found = images.read_row_group(g), vectors.read_row_group(g)
            if not rows["image_id"].equals(found["image_id"]):
                raise UserError(
                    f"{vectors_file} doesn't belong to {images_file} (row group {g}); delete it and run the job again."
                )
            flat = found["embedding"].combine_chunks().flatten().to_numpy()
            yield rows, flat.reshape(rows.num_rows, task.dim)


def write_shard(task: ShardTask, directory: Path) -> SegmentWriter:
    """The shard's two files in a local directory; returns the closed writer. Memory: vectors, ids, one row group."""
    ids: list[str] = []
    for part in task.parts:
        with (Location.of(task.embeddings) / part.relative).open_input() as stream:
            ids += pq.read_table(stream, columns=["image_id"])["image_id"].to_pylist()
    with SegmentWriter(directory, ids, dim=task.dim, attributes=task.attributes, kind=task.settings.kind) as writer:
        for part in task.parts:
            for rows, vectors in row_groups(task, part):
                attributes = rows["attributes"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, task.attributes)
                images = zip(rows["image"], rows["width"].to_pylist(), rows["height"].to_pylist(), strict=True)
                thumbnails = [thumbnail(data.as_py(), w, h, task.settings.thumbnail_side) for data, w, h in images]
                writer.add(part.vertical, rows["product_id"].to_pylist(), vectors, attributes, thumbnails)
    return writer


@ray.remote(num_cpus=1)
def _shard(index: str, task: ShardTask) -> dict[str, Any]:
    """Build one shard and leave a receipt beside it; an earlier run's receipt of the same version saves the work."""
    version, name = versions.version_dir(Location.of(index), task.version), versions.shard_name(task.shard)
    receipt = version / "receipts" / f"{name}.json"
    if receipt.is_file():
        known: dict[str, Any] = receipt.read_json()
        return known
    if version.is_local:  # beside the target, so that finished files move by renaming
        Path(version.path).mkdir(parents=True, exist_ok=True)
        for left in Path(version.path).glob(f".{name}.*"):
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=version.path if version.is_local else None) as draft:
        written = write_shard(task, Path(draft))
        files = {}
        for file in sorted(Path(draft).iterdir()):
            target = version / name / file.name
            files[f"{name}/{file.name}"] = {"sha256": Location.of(file).sha256(), "bytes": file.stat().st_size}
            if target.is_local:
                Path(target.path).parent.mkdir(exist_ok=True)
                os.replace(file, target.path)
            else:
                with file.open("rb") as source, target.writing() as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    done = {"files": files, "items": len(written.ids), "products": written.products, "verticals": written.counts}
    receipt.write_json(done)
    return done


def _tasks(settings: Index, dataset: Dataset, embeddings: str, version: str, dim: int, parts: list[Part]) -> list[ShardTask]:
    """Dataset shard n goes to index shard n % S; in a shard the verticals ascend, as SegmentWriter needs."""
    ordered = sorted(parts, key=lambda p: (p.vertical, p.shard, p.split))
    return [
        ShardTask(
            s, version, str(dataset.location), embeddings, tuple(p for p in ordered if p.shard % settings.shards == s), dim,
            len(dataset.attributes), settings,
        )
        for s in range(settings.shards)
    ]  # fmt: skip


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


def _known(index: Location, inputs: dict[str, str], config: Any) -> versions.IndexManifest | None:
    """The live version if it was made from the same inputs with the same settings."""
    name = versions.current(index)
    raw = None if name is None else read_manifest(versions.version_dir(index, name))
    if name is None or raw is None or raw.get("inputs") != inputs or raw.get("config") != config:
        return None
    return versions.load(index, name)


def _version(index: Location, key: str) -> str:
    """The name of an interrupted build of the same content, else a new one: the time in UTC and the content's key."""
    for directory in (index / "versions").children():
        if directory.name.endswith(f"-{key}") and read_manifest(directory) is None:
            return directory.name
    return f"{datetime.now(UTC):%Y%m%dT%H%M%SZ}-{key}"


def build(settings: BuildIndexSettings) -> dict[str, Any]:
    """Build the index if it isn't up to date and make it the live one; returns the report's content."""
    from fashion_dml.inference.embed import EmbedRequest, ensure_embeddings  # brings torch, which the shard tasks don't need

    started = time.monotonic()
    workspace = Location.of(settings.workspace)
    index = versions.index_root(workspace)
    dataset = Dataset.open(workspace / "dataset")
    model_dir = workspace / "unified" / "model"
    model = require_manifest(model_dir, made_by="python -m jobs.distill")
    parts = _parts(settings.index, dataset)
    inputs = {"dataset": manifest_sha256(dataset.location), "model": manifest_sha256(model_dir)}
    config = settings.index.model_dump(mode="json", exclude={"keep_versions"})
    if not settings.force and (live := _known(index, inputs, config)) is not None:
        console.print(f"{index} is complete and unchanged: version {live.version}")
        return _report(settings, started, live, built=False, deleted=[])
    connect()
    embeddings = ensure_embeddings(workspace, dataset, [EmbedRequest(str(model_dir), parts)], settings.embed, settings.cluster)
    version = _version(index, sha256_json({"inputs": inputs, "config": config})[:8])
    directory = versions.version_dir(index, version)
    tasks = _tasks(settings.index, dataset, str(embeddings[str(model_dir)]), version, int(model["dim"]), parts)
    with console.status(f"writing {len(tasks)} index shards"):
        done = ray.get([_shard.remote(str(index), task) for task in tasks])
    verticals: dict[str, dict[str, int]] = {}
    for shard in done:
        for vertical, counts in shard["verticals"].items():
            total = verticals.setdefault(vertical, {"items": 0, "products": 0})
            for what, n in counts.items():
                total[what] += n
    write_manifest(
        directory, kind=versions.KIND, config=config, inputs=inputs, seconds=time.monotonic() - started,
        model=model["sha256"], dim=int(model["dim"]), index=settings.index.kind, shards=[shard["items"] for shard in done],
        products=sum(shard["products"] for shard in done), verticals=dict(sorted(verticals.items())),
        attributes=dataset.attributes, files={name: entry for shard in done for name, entry in shard["files"].items()},
    )  # fmt: skip
    (directory / "receipts").delete()
    versions.activate(index, version)
    deleted = versions.prune(index, settings.index.keep_versions)
    return _report(settings, started, versions.load(index, version), built=True, deleted=deleted)


def _report(
    settings: BuildIndexSettings, started: float, live: versions.IndexManifest, *, built: bool, deleted: list[str]
) -> dict[str, Any]:
    content = {
        "version": live.version, "built": built, "model": live.model, "dim": live.dim, "kind": live.kind, "items": live.items,
        "products": live.products, "shards": list(live.shards), "verticals": live.verticals, "deleted": deleted,
        "bytes": sum(int(f["bytes"]) for f in live.files.values()),
    }  # fmt: skip
    write_report(settings.workspace, "build_index", settings, started, **content)
    rows = [(v, f"{c['products']:,}", f"{c['items']:,}") for v, c in live.verticals.items()]
    print_table(f"index version {live.version}: {live.items:,} items, {live.kind}", ("vertical", "products", "items"), rows)
    return content


def entry(argv: list[str] | None = None) -> int:
    """Exit code of the command line."""
    return main(BuildIndexSettings, build, prog="python -m jobs.build_index", doc=__doc__, argv=argv)


if __name__ == "__main__":
    sys.exit(entry())
