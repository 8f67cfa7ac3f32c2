"""A workspace to serve for the benchmark: a model of the demo's size, an index of 100,000 vectors, photos that are in it."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import faiss
import numpy as np
import torch

from fashion_dml.config import Generated, Model
from fashion_dml.data.sources.generated.catalogue import catalogue
from fashion_dml.data.sources.generated.picture import render
from fashion_dml.index.manifest import KIND, activate, index_root, keep_model, shard_name, version_dir
from fashion_dml.index.segment import write_segment
from fashion_dml.index.train import train
from fashion_dml.inference.encode import Encoder
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location, write_manifest
from jobs.benchmarks.index_versions import DIM, embeddings

ROWS, SHARDS, PHOTOS = 100_000, 2, 64
PHOTO_HEIGHT, PHOTO_WIDTH, QUALITY = 600, 400, 90  # as shops show them on a page of one product
HEIGHT, WIDTH = 128, 96  # of the model's input, as the demo's
VERSION = "v-benchmark"


@dataclass(frozen=True)
class Made:
    """Where it is, and JPEGs of catalogue items by item_id."""

    workspace: str
    photos: dict[str, bytes]


def make(root: Path) -> Made:
    """Write it all under an empty directory."""
    home = Location.of(root)
    torch.manual_seed(0)
    sha256 = save_model(home / "unified" / "model", Embedder(Model(dim=DIM), HEIGHT, WIDTH).eval())
    keep_model(index_root(home), home / "unified" / "model", sha256)
    photos = dict(_drawn())
    encoder = Encoder(home / "unified" / "model", threads=1)
    for name, data in photos.items():
        (home / "photos" / f"{name}.jpg").write_bytes(data)
    vectors = np.concatenate([embeddings(ROWS - PHOTOS), encoder.encode(list(photos.values()))])
    ids = [f"item-{i:08d}" for i in range(ROWS - PHOTOS)] + list(photos)
    _write_index(index_root(home), sha256, ids, vectors)
    return Made(str(root), photos)


def _drawn() -> list[tuple[str, bytes]]:
    """(image id, JPEG) of photos of different products."""
    settings = Generated(products_per_vertical=PHOTOS // 4, verticals=4, image_height=PHOTO_HEIGHT, image_width=PHOTO_WIDTH)
    first = {row.product_id: row for row in catalogue(settings, seed=0)}
    found = []
    for row in list(first.values())[:PHOTOS]:
        written = io.BytesIO()
        render(row, settings, seed=0).save(written, "JPEG", quality=QUALITY)
        found.append((row.image_id, written.getvalue()))
    return found


def _write_index(index: Location, model: str, ids: list[str], vectors: np.ndarray) -> None:
    """A version of kind flat whose rows are dealt to the shards in turn."""
    faiss.omp_set_num_threads(1)
    files: dict[str, dict[str, str | int]] = {}
    counts = []
    for shard in range(SHARDS):
        rows = range(shard, len(ids), SHARDS)
        place = Path((version_dir(index, VERSION) / shard_name(shard)).path)
        place.mkdir(parents=True)
        mine, n = [ids[i] for i in rows], len(rows)
        write_segment(
            place, vectors=vectors[shard::SHARDS], item_ids=mine, product_ids=[f"p-{i}" for i in mine], verticals=["all"] * n,
            attributes=np.where(np.random.default_rng(shard).random((n, 12)) < 0.2, 1, -1).astype(np.int8), thumbnails=[b""] * n,
            trained=train("flat", "fp32", DIM, n, vectors[:1000]),
        )  # fmt: skip
        files |= {
            f"{shard_name(shard)}/{f.name}": {"sha256": f.sha256(), "bytes": f.size()}
            for f in (version_dir(index, VERSION) / shard_name(shard)).children()
        }
        counts.append(n)
    write_manifest(
        version_dir(index, VERSION), kind=KIND, config={}, inputs={}, seconds=0, model=model, dim=DIM, index="flat", store="fp32",
        effort={"probes": 0, "candidates": 0}, catalog=0, shards=counts, products=len(ids), verticals={"all": {"items": len(ids), "products": len(ids)}},
        attributes=[f"{column}={value}" for column in ("colour", "print", "fabric", "sleeve") for value in "abc"], files=files,
    )  # fmt: skip
    activate(index, VERSION)
