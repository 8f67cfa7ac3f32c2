"""Reading windows: targets must belong to the images; what replaces a corrupt image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from drawn import encoded, photo
from stream_helpers import collect, sources, teacher, training_plan

from fashion_dml.data.decode import decode
from fashion_dml.data.plan import Cursor
from fashion_dml.data.read import BATCH, decode_batch, read_window
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import UserError


@pytest.mark.parametrize("attributes", [False, True])
def test_tables_of_a_window_carry_their_place_in_the_plan(small: Dataset, attributes: bool) -> None:
    plan = training_plan(small)
    window = next(plan.windows(1, Cursor(0, 1), 1))
    tables = list(read_window(plan, window, replace(sources(small), attributes=attributes)))
    assert len(tables) == window.batches == 1
    assert set(tables[0].schema.names) == {*BATCH.names, *(["attributes"] if attributes else [])}
    for name, value in (("epoch", 0), ("step", 1), ("lane", 1), ("size", tables[0].num_rows)):
        assert set(tables[0][name].to_pylist()) == {value}


def _other_order(file: Path) -> None:
    table = pq.read_table(file)
    pq.write_table(table.take(list(range(table.num_rows))[::-1]), file)


def _fewer_row_groups(file: Path) -> None:
    pq.write_table(pq.ParquetFile(file).read_row_group(0), file)


@pytest.mark.parametrize("spoil", [_other_order, _fewer_row_groups, Path.unlink])
def test_targets_of_other_images_are_refused(small: Dataset, tmp_path: Path, spoil: object) -> None:
    teacher(small, tmp_path)
    for file in tmp_path.rglob("*.parquet"):
        spoil(file)  # type: ignore[operator]
    with pytest.raises(
        UserError, match=r"The teacher embeddings of split=train/vertical=.*run `python -m jobs\.embed` again\."
    ):
        collect(small, 10, targets=tmp_path)


def table(images: list[bytes], labels: list[int]) -> pa.Table:
    return pa.table(
        {"image": pa.array(images, pa.binary()), "label": labels, "image_id": [f"i{n}" for n in range(len(images))]}
    )


def test_a_corrupt_image_without_another_of_its_product_shows_some_other_image() -> None:
    good = [encoded(photo(n)) for n in range(3)]
    pixels, shown, corrupt = decode_batch(table([good[0], good[1], good[2], b"bad", b"bad"], [0, 0, 1, 1, 2]), 40, 30)
    assert corrupt == ["i3", "i4"]
    assert shown.tolist()[:4] == [0, 1, 2, 2]
    assert shown[4] in (0, 1, 2)
    for i, row in enumerate(shown):
        assert np.array_equal(pixels[i], decode(good[row], 40, 30))


def test_a_batch_without_corrupt_images_is_shown_as_it_is() -> None:
    _, shown, corrupt = decode_batch(table([encoded(photo(n)) for n in range(3)], [0, 1, 2]), 20, 20)
    assert (shown.tolist(), corrupt) == ([0, 1, 2], [])
