"""A small plan, its batches, and datasets with damaged images."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch

from fashion_dml.config import Data
from fashion_dml.data.batch import Batch
from fashion_dml.data.plan import Cursor, Plan, PlanSettings
from fashion_dml.data.read import Sources
from fashion_dml.data.schema import Dataset, embeddings_schema
from fashion_dml.data.stream import StreamStats, stream

THREADS = Data(executor="threads", decode="worker", height=40, width=32, lanes=3, window_images=24, prefetch_batches=2)
PLAN = PlanSettings(
    "vertical-wise", lanes=3, window_images=12, seed=5, products_per_batch=2, images_per_product=2, images_per_batch=4
)


def training_plan(dataset: Dataset, settings: PlanSettings = PLAN) -> Plan:
    return Plan(dataset.products.filter(pc.field("split") == "train"), settings)


def sources(dataset: Dataset, targets: Path | None = None) -> Sources:
    teachers = None if targets is None else {v: str(targets) for v in dataset.verticals()}
    return Sources(str(dataset.location / "images"), "train", teachers, attributes=True)


def collect(
    dataset: Dataset, steps: int, data: Data = THREADS, *, settings: PlanSettings = PLAN, start: Cursor = Cursor(), rank: int = 0,
    workers: int = 1, stats: StreamStats | None = None, targets: Path | None = None, early: bool = False,
) -> list[Batch]:  # fmt: skip
    plan, read = training_plan(dataset, settings), sources(dataset, targets)
    return list(stream(plan, read, data, start=start, steps=steps, rank=rank, workers=workers, stats=stats, early=early))


def same(left: list[Batch], right: list[Batch]) -> None:
    """Assert that two streams gave the same."""
    assert [(b.epoch, b.step) for b in left] == [(b.epoch, b.step) for b in right]
    for a, b in zip(left, right, strict=True):
        for name in ("labels", "lane", "row", "images", "attributes"):
            assert torch.equal(getattr(a, name), getattr(b, name)), (a.epoch, a.step, name)
        assert (a.targets is None) == (b.targets is None)
        assert a.targets is None or torch.equal(a.targets, b.targets)
        assert (a.corrupt, a.digest) == (b.corrupt, b.digest)


def rewrite(dataset: Dataset, copy: Path, change: Callable[[dict[str, Any]], bytes]) -> Dataset:
    """A copy of the dataset where every training image's bytes are `change(row)`."""
    shutil.copytree(dataset.location.path, copy)
    moved = Dataset.open(str(copy))
    for part in moved.parts("train"):
        file = moved.images_file(part).path
        source = pq.ParquetFile(file)
        tables = [source.read_row_group(g) for g in range(source.num_row_groups)]
        with pq.ParquetWriter(file, source.schema_arrow) as writer:
            for table in tables:
                images = pa.array([change(row) for row in table.to_pylist()], pa.binary())
                writer.write_table(table.set_column(table.column_names.index("image"), "image", images))
    return moved


def teacher(dataset: Dataset, directory: Path, dim: int = 3) -> dict[str, np.ndarray]:
    """Embeddings beside the images, as jobs.embed writes them; image_id -> vector."""
    known = {}
    rng = np.random.default_rng(1)
    for part in dataset.parts("train"):
        source = pq.ParquetFile(dataset.images_file(part).path)
        file = directory / part.relative
        file.parent.mkdir(parents=True, exist_ok=True)
        with pq.ParquetWriter(file, embeddings_schema(dim)) as writer:
            for g in range(source.num_row_groups):
                ids = source.read_row_group(g, columns=["image_id"])["image_id"].to_pylist()
                vectors = rng.normal(size=(len(ids), dim)).astype(np.float32)
                known.update(zip(ids, vectors, strict=True))
                cells = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), dim)
                writer.write_table(pa.table({"image_id": pa.array(ids), "embedding": cells}, schema=embeddings_schema(dim)))
    return known
