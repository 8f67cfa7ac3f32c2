"""Teachers that can't teach are refused before anything is trained, with what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from train_helpers import DATA, MODEL

from fashion_dml.config import Cluster, Distill, Finetune, Loss
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location, UserError
from fashion_dml.training.distill import run
from fashion_dml.training.student import DistillSettings, distill_plan
from fashion_dml.training.teachers import Teacher, check_fresh, read_teachers, write_teachers


def specialist(workspace: Path, vertical: str, seed: int = 0) -> Teacher:
    torch.manual_seed(seed)
    directory = workspace / "specialists" / vertical / "model"
    digest = save_model(Location.of(directory), Embedder(MODEL, 32, 32))
    return Teacher(vertical, vertical, str(directory), digest, str(workspace / "embeddings"), 16)


def written(workspace: Path, small: Dataset, **changes: Any) -> list[Teacher]:
    teachers = [specialist(workspace, v) for v in small.verticals("train")]
    teachers[0] = replace(teachers[0], **changes)
    write_teachers(Location.of(workspace), teachers, {}, 0.0)
    return teachers


def distil(workspace: Path, **settings: Any) -> None:
    run(DistillSettings(workspace=str(workspace), data=DATA, model=MODEL, **settings), lambda queue, stop: None)


def test_teachers_are_read_by_vertical(workspace: Path, small: Dataset) -> None:
    teachers = written(workspace, small)
    found = read_teachers(Location.of(workspace), small.verticals("train"))
    assert found == {t.vertical: t for t in teachers}
    check_fresh(found)


def test_a_vertical_without_a_teacher(workspace: Path, small: Dataset) -> None:
    first, *rest = small.verticals("train")
    write_teachers(Location.of(workspace), [specialist(workspace, v) for v in rest], {}, 0.0)
    with pytest.raises(UserError, match=rf"^The vertical '{first}' has no teacher in .*: run `python -m jobs\.embed` again\.$"):
        distil(workspace)


def test_embeddings_older_than_their_teacher(workspace: Path, small: Dataset) -> None:
    first = small.verticals("train")[0]
    written(workspace, small)
    specialist(workspace, first, seed=1)
    message = rf"^The specialist '{first}' was trained again after it embedded '{first}': run `python -m jobs\.embed` again\.$"
    with pytest.raises(UserError, match=message):
        distil(workspace)


def test_teachers_of_different_dimensions(workspace: Path, small: Dataset) -> None:
    written(workspace, small, dim=24)
    with pytest.raises(
        UserError, match=r"^The teachers have \[16, 24\] dimensions; train all specialists with one model\.dim\.$"
    ):
        distil(workspace)


def test_teachers_of_other_dimensions_than_the_student(workspace: Path, small: Dataset) -> None:
    teachers = [replace(specialist(workspace, v), dim=24) for v in small.verticals("train")]
    write_teachers(Location.of(workspace), teachers, {}, 0.0)
    with pytest.raises(
        UserError, match=r"have 24 dimensions, model\.dim is 16; make them equal or use distill\.loss = relational"
    ):
        distil(workspace)


def test_teachers_of_another_dataset(workspace: Path, small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> None:
    other = tmp_path_factory.mktemp("other")
    (other / "dataset").mkdir()
    Location.of(other / "dataset" / "manifest.json").write_json({"kind": "dataset"})
    write_teachers(Location.of(other), [specialist(other, v) for v in small.verticals("train")], {}, 0.0)
    (workspace / "teachers").symlink_to(other / "teachers")
    with pytest.raises(UserError, match=r"was made from another dataset than .*: run `python -m jobs\.embed` again\.$"):
        distil(workspace)


def test_a_fine_tuning_that_cannot_be(workspace: Path, small: Dataset) -> None:
    written(workspace, small)
    with pytest.raises(UserError, match=r"^loss\.name = 'tripletts' is not known; known are triplet"):
        distil(workspace, distill=Distill(steps=1), finetune=Finetune(steps=1), loss=Loss(name="tripletts"))


def test_a_student_of_more_workers_than_it_has_lanes(workspace: Path, small: Dataset) -> None:
    written(workspace, small)
    data, cluster = DATA.model_copy(update={"lanes": 64}), Cluster(workers=64)
    settings = DistillSettings(workspace=str(workspace), data=data, model=MODEL, cluster=cluster, finetune=Finetune(steps=1))
    lanes = distill_plan(small, settings).lanes
    message = rf"^cluster\.workers = 64 workers train a model together and need a lane each, but the student has {lanes}, its fine-tuning has"
    with pytest.raises(UserError, match=message):
        run(settings, lambda queue, stop: None)
