"""A complete dataset opened: its parts and verticals, and what is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from fashion_dml.data.schema import PRODUCTS, Dataset, Part, images_schema
from fashion_dml.storage import UserError


@pytest.fixture
def copy(small: Dataset, tmp_path: Path) -> Path:
    return Path(shutil.copytree(small.location.path, tmp_path / "dataset"))


def test_parts_name_every_images_file(small: Dataset) -> None:
    root = Path(small.location.path) / "images"
    assert {str(f.relative_to(root)) for f in root.rglob("*.parquet")} == {p.relative for p in small.parts()}
    assert small.parts() == sorted(small.parts(), key=lambda p: (p.split, p.vertical, p.shard))
    assert small.parts("test", ["tops"]) == [p for p in small.parts() if (p.split, p.vertical) == ("test", "tops")] != []
    assert Part("train", "tops", 7).relative == "split=train/vertical=tops/part-00007.parquet"


def test_verticals_and_vocabulary(small: Dataset) -> None:
    assert small.verticals() == small.verticals("train") == sorted(small.manifest["verticals"])
    assert small.verticals("nowhere") == []
    file = small.images_file(small.parts()[0]).path
    assert pq.read_schema(file).equals(images_schema(len(small.attributes)))
    assert small.products.schema.equals(PRODUCTS)


def test_an_incomplete_dataset_is_not_opened(copy: Path) -> None:
    (copy / "manifest.json").unlink()
    with pytest.raises(
        UserError, match=r"There is no complete result in .*: run `python -m jobs\.ingest folder\|generated` first\."
    ):
        Dataset.open(str(copy))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"schema": 99}, r"has schema 99, this version \(.*\) reads up to 1: update fashion-dml or choose another workspace\."),
        ({"kind": "index"}, r"holds a 'index', not a dataset; give the directory that jobs\.ingest wrote\."),
    ],
)
def test_a_newer_or_another_result_is_refused(copy: Path, change: dict[str, object], message: str) -> None:
    file = copy / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UserError, match=message):
        Dataset.open(str(copy))


def test_a_missing_products_table_is_named(copy: Path) -> None:
    (copy / "products.parquet").unlink()
    with pytest.raises(
        UserError, match=r"products\.parquet is missing though the dataset's manifest is there; ingest the dataset again\."
    ):
        Dataset.open(str(copy))
