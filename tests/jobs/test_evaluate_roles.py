"""jobs.evaluate on datasets with the splits query and gallery: queries are searched there, others among themselves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import shop_rows, write_dataset, write_shop

from fashion_dml.config import Ingest
from fashion_dml.data.schema import Dataset, embeddings_schema
from fashion_dml.data.sources.folder import read_folder
from fashion_dml.evaluation.protocol import Measured, evaluate
from fashion_dml.storage import Location
from jobs.evaluate import entry, measured_splits, vertical_items

SETTINGS = Ingest(short_side=32, shards=2, min_row_groups=2, validation_share=0)


@pytest.fixture
def roles(tmp_path: Path) -> Dataset:
    """Two test products in each vertical with a query and two gallery images; one product's gallery is in the other vertical, where
    nobody asks."""
    rows = shop_rows(images=3)
    for n, row in enumerate(rows):
        if row["split"] == "test":
            row["split"] = "query" if n % 3 == 0 else "gallery"
    moved = [r for r in rows if r["split"] == "gallery" and r["product_id"] == "dresses-5"]
    for row in moved:
        row["vertical"] = "bags"
    for i in range(4):
        rows.append(
            {**rows[0], "path": f"photos/bags/{i}.jpg", "product_id": f"bags-{i // 2}", "vertical": "bags", "split": "train"}
        )
    return write_dataset(tmp_path / "dataset", *read_folder(str(write_shop(tmp_path / "shop", rows)), SETTINGS)[:2], SETTINGS)


def test_the_splits_that_are_measured(roles: Dataset, small: Dataset) -> None:
    assert measured_splits(roles, "test") == measured_splits(roles, "query") == ("query", "gallery")
    assert measured_splits(roles, "validation") == ("validation",)
    assert measured_splits(small, "test") == ("test",)


def test_queries_search_the_gallery_of_every_vertical(roles: Dataset, tmp_path: Path) -> None:
    """Embeddings of one direction for each product: every answer that is in an index is found there."""
    directory = Location.of(tmp_path / "embeddings")
    for part in roles.parts():
        rows = pq.read_table(roles.images_file(part).path, columns=["image_id", "label"], partitioning=None)
        vectors = np.eye(16, dtype=np.float32)[rows["label"].to_numpy()]
        table = pa.table([rows["image_id"], pa.array(list(vectors), pa.list_(pa.float32(), 16))], schema=embeddings_schema(16))
        with (directory / part.relative).writing() as stream:
            pq.write_table(table, stream)
    given = [vertical_items(roles, v, directory, ("query", "gallery")) for v in ("bags", "dresses", "shoes")]
    assert [(len(v.queries.labels), len(v.index.labels)) for v in given] == [(0, 2), (2, 2), (2, 4)]
    separate, merged = (evaluate(given, p) for p in ("separate", "merged"))
    assert isinstance(separate, Measured)
    assert isinstance(merged, Measured)
    assert separate.queries.relevant.tolist() == [2, 0, 2, 2]  # dresses-5 has no answer in its own vertical
    assert merged.queries.relevant.tolist() == [2, 2, 2, 2]
    assert merged.queries.summary()["R@1"] == 1


@pytest.mark.cluster
def test_the_report_says_what_was_searched_where(ray_local: str, roles: Dataset, tmp_path: Path) -> None:
    argv = ["--models", "color-histogram", "--dataset", str(roles.location), "--workspace", str(tmp_path / "w")]
    assert entry([*argv, "--evaluate.bootstrap", "10", "--evaluate.level", "product"]) == 0
    told = json.loads((tmp_path / "w" / "reports" / "evaluation.json").read_text())
    assert told["dataset"]["split"] == "query in gallery"
    assert {v: (c["queries"], c["gallery"]) for v, c in told["dataset"]["verticals"].items()} == {
        "bags": (0, 2),
        "dresses": (2, 2),
        "shoes": (2, 4),
    }
    found = told["models"]["color-histogram"]
    assert [(found[p]["queries"], found[p]["unscored"], found[p]["gallery"]) for p in ("separate", "merged")] == [
        (4, 1, "product"),
        (4, 0, "product"),
    ]
