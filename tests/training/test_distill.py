"""A distillation that can't read its dataset says which file, once, and isn't tried again and again."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
from drawn import small_dataset
from test_teachers import specialist
from train_helpers import DATA, MODEL

from fashion_dml.config import Cluster, Distill
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import Location, UserError
from fashion_dml.training.distill import run
from fashion_dml.training.student import DistillSettings
from fashion_dml.training.teachers import write_teachers


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:100])


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("split", "damage", "executor"),
    [("train", cut, "ray"), ("train", cut, "threads"), ("train", Path.unlink, "ray"), ("validation", Path.unlink, "threads")],
)
def test_a_damaged_or_lost_file_ends_the_run_with_one_sentence(
    split: str, damage: Callable[[Path], None], executor: str, ray_local: str, tmp_path: Path
) -> None:
    small_dataset(tmp_path / "dataset")
    dataset = Dataset.open(str(tmp_path / "dataset"))
    write_teachers(Location.of(tmp_path), [specialist(tmp_path, v) for v in dataset.verticals("train")], {}, 0.0)
    for part in dataset.parts(split):
        damage(Path(dataset.images_file(part).path))
    settings = DistillSettings(
        workspace=str(tmp_path), data=DATA.model_copy(update={"executor": executor, "decode": "task"}), cluster=Cluster(workers=1, cpus_per_worker=0.5),
        model=MODEL.model_copy(update={"head": "random"}), distill=Distill(steps=3, targets="view"),
    )  # fmt: skip
    began = time.monotonic()
    with pytest.raises(
        UserError, match=r"^The unified model failed: a file of the dataset is damaged or missing \(.*\): ingest"
    ) as caught:
        run(settings, lambda queue, stop: None)
    told = str(caught.value)
    assert f"split={split}/vertical=" in told
    assert not any(word in told for word in ("ray::", "line ", "UDF"))  # no traceback, no advice of Ray's
    assert time.monotonic() - began < 120
