"""What the tasks of `jobs.build_index` do: train on a sample, write a shard, find the effort that reaches the recall.

Each leaves a receipt in the version that is being built, so that an interrupted build doesn't repeat it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Set
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import ray

from fashion_dml.config import Index
from fashion_dml.data.decode import UnreadableImage
from fashion_dml.data.schema import Part
from fashion_dml.data.thumbnail import thumbnail
from fashion_dml.index import manifest as versions
from fashion_dml.index.candidates import open_files
from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import matrix
from fashion_dml.index.choose import choose, tune
from fashion_dml.index.live import owner
from fashion_dml.index.manifest import CANDIDATES, CODES, ITEMS, VECTORS
from fashion_dml.index.segment import SegmentWriter, product_numbers
from fashion_dml.index.shard import EXACT_ROWS
from fashion_dml.index.train import Trained, sample_rows, train
from fashion_dml.index.translate import keep, to_translate, translated
from fashion_dml.storage import Location, UserError

TRAINED = "trained"
PICTURES = 64  # embedded at once
BLOCK = 256  # changed items that a sample takes together


@dataclass(frozen=True)
class ShardTask:
    """What one task turns into one shard. Addresses are strings, so that any node can open them.

    parts: verticals ascend; catalog: the live catalogue whose changes up to commit `upto` are folded in, "" for none.
    """

    shard: int
    version: str
    dataset: str
    embeddings: str
    parts: tuple[Part, ...]
    model: str
    dim: int
    attributes: int
    settings: Index
    catalog: str = ""
    upto: int = 0


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


def changes_of(task: ShardTask) -> tuple[set[str], pa.Table | None]:
    """(ids that the catalogue has changed, the items among them that it has now); ({}, None) without a catalogue."""
    if not task.catalog:
        return set(), None
    location = Location.of(task.catalog)
    state = Catalog.open(location).state(task.upto, lambda commit, table: translated(table, location, task.model, commit)[0])
    return set(state["item_id"].to_pylist()), state.filter(pc.invert(state["delete"]))


def taken(task: ShardTask, items: pa.Table) -> pa.Table:
    """Those of the changed items that this shard takes."""
    mine = [owner(i, task.settings.shards) == task.shard for i in items["item_id"].to_pylist()]
    return items.filter(pa.array(mine, pa.bool_()))


def write_shard(task: ShardTask, directory: Path, trained: Trained) -> SegmentWriter:
    """The shard's files in a local directory; returns the closed writer. Memory: vectors, ids, changed items, one row group."""
    gone, new = changes_of(task)
    parts: dict[str, list[Part]] = {}
    for part in task.parts:
        parts.setdefault(part.vertical, []).append(part)
    upserted = {}
    if new is not None:
        new = taken(task, new).sort_by([(c, "ascending") for c in ("vertical", "product_id", "item_id")])
        upserted = {v: new.filter(pc.equal(new["vertical"], v)) for v in new["vertical"].unique().to_pylist()}
    verticals = sorted({*parts, *upserted})
    ids: list[str] = []
    for vertical in verticals:
        for part in parts.get(vertical, []):
            ids += [i for i in _ids(task, part) if i not in gone]
        ids += upserted[vertical]["item_id"].to_pylist() if vertical in upserted else []
    with SegmentWriter(directory, ids, attributes=task.attributes, trained=trained) as writer:
        for vertical in verticals:
            for rows, vectors in (found for part in parts.get(vertical, []) for found in row_groups(task, part)):
                places = [i for i, image_id in enumerate(rows["image_id"].to_pylist()) if image_id not in gone]
                if not places:
                    continue
                kept = rows.take(places)
                images = zip(kept["image"], kept["width"].to_pylist(), kept["height"].to_pylist(), strict=True)
                thumbnails = [thumbnail(data.as_py(), w, h, task.settings.thumbnail_side) for data, w, h in images]
                attributes = matrix(kept, "attributes")
                writer.add(vertical, kept["product_id"].to_pylist(), vectors[places], attributes, thumbnails)
            if vertical in upserted:
                table = upserted[vertical]
                products, thumbnails = table["product_id"].to_pylist(), table["thumbnail"].to_pylist()
                writer.add(vertical, products, matrix(table, "vector"), matrix(table, "attributes"), thumbnails)
    return writer


def _filed(index: str, version: str, name: str, write: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
    """What `write` returns, with the digests of the files that it leaves in the folder it is given: they go to <version>/<name>.

    A receipt beside them saves an interrupted build the work.
    """
    place = versions.version_dir(Location.of(index), version)
    receipt = place / "receipts" / f"{name}.json"
    if receipt.is_file():
        known: dict[str, Any] = receipt.read_json()
        return known
    if place.is_local:  # beside the target, so that finished files move by renaming
        Path(place.path).mkdir(parents=True, exist_ok=True)
        for left in Path(place.path).glob(f".{name}.*"):
            shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=f".{name}.", dir=place.path if place.is_local else None) as draft:
        done = write(Path(draft))
        files = {}
        for file in sorted(Path(draft).iterdir()):
            target = place / name / file.name
            files[f"{name}/{file.name}"] = {"sha256": Location.of(file).sha256(), "bytes": file.stat().st_size}
            if target.is_local:
                Path(target.path).parent.mkdir(exist_ok=True)
                os.replace(file, target.path)
            else:
                with file.open("rb") as source, target.writing() as sink:
                    shutil.copyfileobj(source, sink, 1 << 20)
    done["files"] = files
    receipt.write_json(done)
    return done


@ray.remote(num_cpus=1)
def train_task(index: str, tasks: list[ShardTask]) -> dict[str, Any]:
    """Choose the kind, if it is to be chosen, and train it once for all shards: {"kind", "choice", "files"}."""

    def write(draft: Path) -> dict[str, Any]:
        s = tasks[0].settings
        gone, new = changes_of(tasks[0])
        rows = max(_rows(task, gone, new) for task in tasks)
        kind: str = s.kind
        choice = None
        if kind == "auto":
            kind = "flat"
            if rows > EXACT_ROWS:  # fewer are scanned whatever the kind
                found = choose(
                    *_sample(tasks, s.sample, gone, new), store=s.store, rows=rows, memory_bytes=s.memory_bytes, recall=s.recall
                )
                kind, choice = found.kind, found.as_json()
        trained = train(kind, s.store, tasks[0].dim, rows, _sample(tasks, sample_rows(kind, s.store, rows), gone, new)[0])
        trained.write(draft)
        return {"kind": kind, "choice": choice}

    return _filed(index, tasks[0].version, TRAINED, write)


@ray.remote(num_cpus=1)
def translate_task(catalog: str, upto: int, model_dir: str, model: str) -> dict[str, Any]:
    """Embed by this model the pictures of changes that the catalogue holds in another model's vectors: {"pictures", "hidden"}.

    hidden: ids of items whose last change has no picture.
    """
    log, encoder, pictures = Catalog.open(Location.of(catalog)), None, 0
    for commit, others in to_translate(log, model, 0, upto):
        if encoder is None:
            from fashion_dml.inference.encode import Encoder  # torch: only where there is something to embed

            encoder = Encoder(model_dir)
        drawn: dict[int, np.ndarray] = {}
        for row, picture in enumerate(others["thumbnail"].to_pylist()):
            with contextlib.suppress(UnreadableImage):  # as without a picture
                drawn[row] = encoder.pixels(picture)
        vectors, shown = np.full((others.num_rows, encoder.dim), np.nan, np.float32), [*drawn]
        for block in (shown[i : i + PICTURES] for i in range(0, len(shown), PICTURES)):
            vectors[block] = encoder.embed(np.stack([drawn[row] for row in block]))
        keep(log.location, model, commit, others, vectors)
        pictures += len(shown)
    hidden: set[str] = set()
    for commit, changes in log.since(0, upto):
        changes, lost = translated(changes, log.location, model, commit)
        hidden = (hidden - set(changes["item_id"].to_pylist())) | set(lost)
    return {"pictures": pictures, "hidden": sorted(hidden)}


@ray.remote(num_cpus=1)
def shard_task(index: str, task: ShardTask, begun: dict[str, Any]) -> dict[str, Any]:
    """One shard, from what `train_task` returned: {"files", "items", "products", "verticals"}."""

    def write(draft: Path) -> dict[str, Any]:
        place = versions.version_dir(Location.of(index), task.version)
        files = {Path(name).name: (place / name).local_file() for name in begun["files"]}
        written = write_shard(task, draft, Trained.read(begun["kind"], files))
        return {"items": len(written.ids), "products": written.products, "verticals": written.counts}

    return _filed(index, task.version, versions.shard_name(task.shard), write)


@ray.remote(num_cpus=1)
def tune_task(index: str, task: ShardTask, kind: str) -> dict[str, Any]:
    """The effort with which a built shard reaches `index.recall`: {"effort", "recall", "points"}."""

    def write(draft: Path) -> dict[str, Any]:
        place = versions.version_dir(Location.of(index), task.version) / versions.shard_name(task.shard)
        files = {name: (place / name).local_file() for name in (VECTORS, CODES, CANDIDATES, ITEMS)}
        store, candidates = open_files(kind, files, threads=1)
        assert candidates is not None
        effort, recall, points = tune(store, candidates, task.settings.recall, product_numbers(files[ITEMS]))
        return {"effort": asdict(effort), "recall": recall, "points": [asdict(p) for p in points]}

    return _filed(index, task.version, "tuned", write)


def _ids(task: ShardTask, part: Part) -> list[str]:
    """Of the images of a part, in its order."""
    with (Location.of(task.embeddings) / part.relative).open_input() as stream:
        ids: list[str] = pq.read_table(stream, columns=["image_id"])["image_id"].to_pylist()
        return ids


def _rows(task: ShardTask, gone: Set[str], new: pa.Table | None) -> int:
    """Items that the shard will hold; gone, new: as changes_of gives them."""
    if new is not None:
        kept = sum(sum(i not in gone for i in _ids(task, part)) for part in task.parts)
        return kept + taken(task, new).num_rows
    rows = 0
    for part in task.parts:
        with (Location.of(task.embeddings) / part.relative).open_input() as stream:
            rows += pq.ParquetFile(stream).metadata.num_rows
    return rows


def _sample(tasks: list[ShardTask], count: int, gone: Set[str], new: pa.Table | None) -> tuple[np.ndarray, np.ndarray]:
    """About `count` vectors of all shards in random order, float32 [n, D], and numbers of their products [n]: whole row groups,
    drawn with a fixed seed, and blocks of the catalogue's changes; gone, new: as changes_of gives them."""
    if count == 0:
        return np.empty((0, tasks[0].dim), np.float32), np.empty(0, np.int64)

    def group(task: ShardTask, part: Part, number: int) -> tuple[np.ndarray, list[str]]:
        with (Location.of(task.embeddings) / part.relative).open_input() as stream:
            rows = pq.ParquetFile(stream).read_row_group(number, columns=["image_id", "embedding"])
        with (Location.of(task.dataset) / "images" / part.relative).open_input() as stream:
            names = pq.ParquetFile(stream).read_row_group(number, columns=["product_id"])["product_id"].to_pylist()
        vectors = rows["embedding"].combine_chunks().flatten().to_numpy().reshape(-1, task.dim)
        kept = [place for place, i in enumerate(rows["image_id"].to_pylist()) if i not in gone]
        return vectors[kept], [names[place] for place in kept]

    def block(first: int) -> tuple[np.ndarray, list[str]]:
        rows = new.slice(first, BLOCK)  # type: ignore[union-attr]
        return matrix(rows, "vector"), rows["product_id"].to_pylist()

    rng = np.random.default_rng(0)
    places: list[Callable[[], tuple[np.ndarray, list[str]]]] = []
    for task, part in [(t, part) for t in tasks for part in t.parts]:
        with (Location.of(task.embeddings) / part.relative).open_input() as stream:
            places += [partial(group, task, part, number) for number in range(pq.ParquetFile(stream).num_row_groups)]
    if new is not None:
        places += [partial(block, first) for first in range(0, new.num_rows, BLOCK)]
    found: list[np.ndarray] = []
    numbers: dict[str, int] = {}
    products: list[int] = []
    for at in rng.permutation(len(places)):
        vectors, names = places[at]()
        found.append(vectors)
        products += [numbers.setdefault(name, len(numbers)) for name in names]
        if len(products) >= count:
            break
    chosen = rng.permutation(len(products))[:count]
    return np.ascontiguousarray(np.concatenate(found)[chosen], np.float32), np.array(products)[chosen]
