"""Images files: whole products per row group, within the limits, kept when an ingest goes on."""

from __future__ import annotations

import io
import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from drawn import encoded, photo
from PIL import Image

from fashion_dml.config import Ingest
from fashion_dml.data.decode import UnreadableImage, open_image
from fashion_dml.data.schema import Dataset, Part, images_schema
from fashion_dml.data.shards import PartReport, encode, shard_count, shard_of, write_part
from fashion_dml.storage import Location

PART = Part("train", "shoes", 3)


@dataclass
class Drawn:
    """A reader whose images are drawn from their ref; `noise` are large files, `bad` can't be read."""

    bad: tuple[str, ...] = ()
    noise: bool = False
    loaded: list[str] = field(default_factory=list)

    def load(self, ref: str) -> Image.Image:
        self.loaded.append(ref)
        if ref in self.bad:
            raise UnreadableImage("the bytes are no image")
        if self.noise:
            return Image.fromarray(np.random.default_rng(int(ref)).integers(0, 256, (120, 120, 3), dtype=np.uint8))
        return photo(int(ref))


def rows(*sizes: int) -> list[dict[str, Any]]:
    """Rows of products with so many images each."""
    owners = [p for p, n in enumerate(sizes) for _ in range(n)]
    return [
        {"ref": str(i), "image_id": f"i{i}", "product_id": f"p{p}", "label": p, "vertical": "shoes", "domain": "shop", "view": "", "attributes": [1, 0]}
        for i, p in enumerate(owners)
    ]  # fmt: skip


def write(
    root: Path, sizes: tuple[int, ...], reader: Drawn, settings: Ingest = Ingest(), images: int = 8, key: str = "k"
) -> PartReport:
    return write_part(Location.of(root), PART, rows(*sizes), reader, settings, images, key)


def groups(root: Path) -> list[list[dict[str, Any]]]:
    file = pq.ParquetFile(root / "images" / PART.relative)
    assert file.schema_arrow.equals(images_schema(2))
    return [file.read_row_group(g).to_pylist() for g in range(file.num_row_groups)]


def test_row_groups_hold_whole_products_and_no_more_images_than_asked(tmp_path: Path) -> None:
    report = write(tmp_path, (3, 3, 3, 2, 11, 1, 8, 1), Drawn())
    told = groups(tmp_path)
    assert [dict(Counter(r["product_id"] for r in g)) for g in told] == [
        {"p0": 3, "p1": 3}, {"p2": 3, "p3": 2}, {"p4": 11}, {"p5": 1}, {"p6": 8}, {"p7": 1},
    ]  # fmt: skip
    assert (report.images, report.bytes) == (32, sum(len(r["image"]) for g in told for r in g))


def test_row_groups_hold_no_more_bytes_than_asked(tmp_path: Path) -> None:
    limit = 1 << 16
    write(tmp_path, (1, 1, 2, 9, 1), Drawn(noise=True), Ingest(row_group_bytes=limit), images=256)
    told = [({r["product_id"] for r in g}, sum(len(r["image"]) for r in g)) for g in groups(tmp_path)]
    assert ({"p3"}, max(n for _, n in told)) in told  # the one that is larger than the limit stands alone
    assert [n for _, n in told if n > limit] == [max(n for _, n in told)]
    assert any(len(products) > 1 for products, _ in told)


def test_product_rows_point_at_their_images(tmp_path: Path) -> None:
    reader = Drawn(bad=("4", "6"))
    report = write(tmp_path, (3, 2, 2, 1, 5), reader, images=5)
    told = groups(tmp_path)
    seen = []
    for product in report.products.to_pylist():
        assert (product["vertical"], product["split"], product["shard"]) == ("shoes", "train", 3)
        found = told[product["row_group"]][product["first_row"] : product["first_row"] + product["rows"]]
        assert {(r["product_id"], r["label"]) for r in found} == {(product["product_id"], product["label"])}
        seen += [r["image_id"] for r in found]
    assert sorted(seen) == sorted(f"i{i}" for i in range(13) if i not in (4, 6))
    assert report.unreadable == ["4: the bytes are no image", "6: the bytes are no image"]
    for row in (r for g in told for r in g):
        expected, width, height = encode(photo(int(row["image_id"][1:])), 128, 92)
        assert (row["image"], row["width"], row["height"], row["attributes"]) == (expected, width, height, [1, 0])


def test_a_product_without_a_readable_image_is_left_out(tmp_path: Path) -> None:
    report = write(tmp_path, (2, 2), Drawn(bad=("0", "1")))
    assert report.products["product_id"].to_pylist() == ["p1"]
    assert report.products["first_row"].to_pylist() == [0]


def test_a_finished_file_is_kept_and_reported_the_same(tmp_path: Path) -> None:
    sizes = (3, 3, 2, 11, 1)
    first = write(tmp_path, sizes, Drawn(bad=("1", "16")))
    file = tmp_path / "images" / PART.relative
    os.utime(file, ns=(1, 1))
    idle = Drawn()
    assert write(tmp_path, sizes, idle) == first
    assert (idle.loaded, file.stat().st_mtime_ns) == ([], 1)


def test_a_file_of_other_inputs_is_written_again(tmp_path: Path) -> None:
    write(tmp_path, (3, 3), Drawn())
    file = tmp_path / "images" / PART.relative
    os.utime(file, ns=(1, 1))
    report = write(tmp_path, (2, 2), Drawn(), key="another")
    assert file.stat().st_mtime_ns > 1
    assert report.images == len([r for g in groups(tmp_path) for r in g]) == 4


def test_a_writer_that_fails_leaves_no_file(tmp_path: Path) -> None:
    class Broken(Drawn):
        def load(self, ref: str) -> Image.Image:
            if ref == "3":
                raise RuntimeError("out of memory")
            return super().load(ref)

    with pytest.raises(RuntimeError):
        write(tmp_path, (1, 1, 1, 1), Broken(), images=1)
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


@pytest.mark.parametrize(
    ("size", "short", "stored"),
    [((300, 400), 128, (128, 171)), ((400, 300), 128, (171, 128)), ((100, 90), 128, (100, 90)), ((1000, 4), 32, (1000, 4))],
)
def test_images_are_scaled_down_to_the_short_side_and_never_up(
    size: tuple[int, int], short: int, stored: tuple[int, int]
) -> None:
    data, width, height = encode(photo(0, size[1], size[0]), short, 92)
    assert (width, height) == Image.open(io.BytesIO(data)).size == stored


def test_quality_is_the_stored_jpegs() -> None:
    image = open_image(encoded(photo(0, 90, 90), "PNG"))
    low, high = (np.asarray(open_image(encode(image, 128, q)[0])).astype(int) for q in (30, 100))
    assert np.abs(high - np.asarray(image)).max() <= 6 < np.abs(low - np.asarray(image)).max()


def test_shards_are_even_and_depend_on_product_and_seed_alone() -> None:
    shard = [shard_of(f"p{i}", 8, 1) for i in range(4000)]
    assert max(Counter(shard).values()) < 1.2 * 500
    assert min(Counter(shard).values()) > 0.8 * 500
    assert shard == [shard_of(f"p{i}", 8, 1) for i in range(4000)]
    assert shard != [shard_of(f"p{i}", 8, 2) for i in range(4000)]
    assert [shard_of(f"p{i}", 8, 0) for i in range(4)] == [5, 0, 4, 5]  # on every machine: old datasets stay where they are


@pytest.mark.parametrize(
    ("setting", "images", "shards"), [(0, 1, 4), (0, 32_768, 4), (0, 32_769, 5), (0, 819_200, 100), (7, 10**6, 7)]
)
def test_shard_count(setting: int, images: int, shards: int) -> None:
    assert shard_count(setting, images) == shards


def test_products_table_of_a_dataset_points_at_the_right_images(small: Dataset) -> None:
    files = {part: pq.ParquetFile(small.images_file(part).path) for part in small.parts()}
    seen: Counter[str] = Counter()
    for product in small.products.to_pylist():
        file = files[Part(product["split"], product["vertical"], product["shard"])]
        table = file.read_row_group(product["row_group"])
        mine = table.slice(product["first_row"], product["rows"])
        assert mine["product_id"].unique().to_pylist() == [product["product_id"]]
        assert mine["label"].unique().to_pylist() == [product["label"]]
        assert mine["vertical"].unique().to_pylist() == [product["vertical"]]
        seen.update(mine["image_id"].to_pylist())
    assert len(seen) == sum(seen.values()) == small.manifest["images"] == sum(f.metadata.num_rows for f in files.values())
    assert small.products["label"].to_pylist() == list(range(small.manifest["products"]))
