"""TensorBoard logs on the local disk and in an object store, which knows no appending."""

from __future__ import annotations

from pathlib import Path

import pyarrow.fs as pafs
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from fashion_dml.storage import Location
from fashion_dml.training.board import Board


@pytest.mark.parametrize("scheme", ["file", "s3"])
def test_logs_can_be_read_after_every_save(scheme: str, tmp_path: Path) -> None:
    store = Location(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "unified/logs", "s3")

    def losses() -> list[tuple[int, float]]:
        read = EventAccumulator(str(tmp_path / "unified" / "logs"))
        read.Reload()
        return [(e.step, e.value) for e in read.Scalars("loss")]

    with Board(Location.of(tmp_path / "unified" / "logs") if scheme == "file" else store) as board:
        board.add("loss", 2.0, 1)
        board.save()
        assert losses() == [(1, 2.0)]
        board.add("loss", 1.0, 2)
    assert losses() == [(1, 2.0), (2, 1.0)]
    assert len(list((tmp_path / "unified" / "logs").iterdir())) == 1
