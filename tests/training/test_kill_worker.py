"""Drills on a cluster: a killed training worker, teams of two, and a vertical that can't be trained."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from drawn import SMALL, small_dataset, write_dataset
from kill_drill import arguments, new_group, reached, start, steps_done, training_workers, undisturbed, until, weights

from fashion_dml.config import Cluster, Data, Generated, Model, Specialists, load_settings
from fashion_dml.data.plan import Cursor
from fashion_dml.data.schema import Dataset
from fashion_dml.data.sources.generated.source import read_generated
from fashion_dml.models.store import load_model
from fashion_dml.storage import UserError
from fashion_dml.training.assignments import Assignment, TrainSettings, assignments, plan_for
from fashion_dml.training.curve import FILE
from jobs import common
from jobs.train_specialists import train_specialists

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def test_a_killed_worker_changes_nothing(tmp_path: Path) -> None:
    """SIGKILL of one worker after the first checkpoint; every specialist ends with the weights of a run left alone."""
    one, other = tmp_path / "killed", tmp_path / "alone"
    small_dataset(one / "dataset")
    shutil.copytree(one / "dataset", other / "dataset")

    job = start(one, tmp_path / "killed.log")
    try:
        checkpoint = until(lambda: next((one / "specialists").glob("*/last/manifest.json"), None), job)
        victims = until(lambda: training_workers(job), job)
        assert len(victims) == 2
        assert weights(one).keys() <= {"initial"}  # in the middle: nothing is finished
        victims[0].kill()
        step = json.loads(checkpoint.read_text())["step"]
        until(lambda: {p.pid for p in training_workers(job)} - {p.pid for p in victims}, job)  # a new group has started
        assert job.wait(600) == 0, (tmp_path / "killed.log").read_text()
    finally:
        job.kill()
    assert 0 < step < 200

    undisturbed(other, tmp_path / "alone.log")
    assert set(weights(one)) == {"joint", *Dataset.open(str(one / "dataset")).verticals("train")}
    assert weights(one) == weights(other)


def planned_digests(dataset: Dataset, assignment: Assignment, made: TrainSettings) -> tuple[list[int], list[int]]:
    """(images, sum of the CRC-32 of their ids) of every step, by the plan and the stored files alone."""
    plan = plan_for(dataset, assignment.verticals, made)
    steps = assignment.recipe.steps
    known: dict[tuple[str, int, int], list[int]] = {}
    for part in dataset.parts("train", list(assignment.verticals)):
        file = pq.ParquetFile(dataset.images_file(part).path)
        for g in range(file.num_row_groups):
            ids = file.read_row_group(g, columns=["image_id"])["image_id"].to_pylist()
            known[part.vertical, part.shard, g] = [zlib.crc32(i.encode()) for i in ids]
    images, digests = [0] * steps, [0] * steps
    for lane in range(plan.lanes):
        at = 0
        for window in plan.windows(lane, Cursor(), steps):
            keys = [plan.group_key[g] for g in window.groups]
            for pick in plan.picks(window):
                images[at] += len(pick)
                digests[at] += sum(known[plan.verticals[keys[s][0]], int(keys[s][1]), int(keys[s][2])][r] for s, r in pick)
                at += 1
    return images, digests


def test_ten_kills_at_random_steps_change_nothing(tmp_path: Path) -> None:
    """The curve of every training is the undisturbed one bit for bit, and its images are the plan's: none lost, none twice."""
    one, other = tmp_path / "killed", tmp_path / "alone"
    small_dataset(one / "dataset")
    shutil.copytree(one / "dataset", other / "dataset")
    longer = {"specialists.min_steps": 1500, "specialists.validate_every": 500, "cluster.max_failures": 10}
    lot = random.Random(os.urandom(8))
    kills: list[int] = []
    job = start(one, tmp_path / "killed.log", **longer)
    try:
        seen: set[int] = set()
        while len(kills) < 10:
            group = until(partial(new_group, job, seen), job)
            goal = steps_done(one) + lot.randrange(1, 300)
            until(partial(reached, one, goal), job)
            seen |= {p.pid for p in group}
            kills.append(steps_done(one))
            lot.choice(group).kill()
        assert job.wait(900) == 0, (tmp_path / "killed.log").read_text()
    finally:
        job.kill()
    undisturbed(other, tmp_path / "alone.log", **longer)
    assert weights(one) == weights(other)
    made = load_settings(TrainSettings, ["--workspace", str(one), *arguments(longer)], prog="", doc="")
    dataset = Dataset.open(str(one / "dataset"))
    rows = 0
    for assignment in assignments(dataset, made, joint=True):
        curve, same = (pq.read_table(w / "specialists" / assignment.name / "model" / FILE) for w in (one, other))
        assert curve.drop(["waited_ms"]).equals(same.drop(["waited_ms"]))
        images, digests = planned_digests(dataset, assignment, made)
        assert curve["images"].to_pylist() == images
        assert curve["digest"].to_pylist() == digests
        rows += sum(images)
    print(f"killed after {kills} steps; {rows} rows trained on, as planned; curves and weights equal")


def settings(workspace: Path, **cluster: Any) -> TrainSettings:
    return TrainSettings(
        workspace=str(workspace), data=Data(height=32, width=32, lanes=3), cluster=Cluster(cpus_per_worker=0.5, **cluster),
        model=Model(trunk="test_efficientnet", weights="none", dim=16),
        specialists=Specialists(epochs=1, min_steps=6, max_steps=6, products_per_batch=3, validate_every=3, checkpoint_every=3),
    )  # fmt: skip


def vector(model: Path) -> torch.Tensor:
    return torch.cat([v.flatten().double() for v in load_model(str(model)).module.state_dict().values()])


def test_a_team_of_two_trains_what_single_workers_train(ray_local: str, tmp_path: Path) -> None:
    """Three lanes on two workers, so they bring different numbers of images."""
    one, other = tmp_path / "singles", tmp_path / "team"
    small_dataset(one / "dataset")
    shutil.copytree(one / "dataset", other / "dataset")
    singles = train_specialists(settings(one, workers=2, team=1))
    team = train_specialists(settings(other, workers=2, team=2))
    assert set(team) == set(singles) == {"joint", *Dataset.open(str(one / "dataset")).verticals("train")}
    begin = vector(one / "specialists" / "initial")
    for name, manifest in team.items():
        assert (manifest["key"], manifest["steps"], manifest["images"]) == tuple(
            singles[name][k] for k in ("key", "steps", "images")
        )
        a, b = (vector(workspace / "specialists" / name / "model") for workspace in (one, other))
        assert (a - begin).norm() > 0
        assert (a - b).norm() < 0.05 * (a - begin).norm()  # rounding, which Adam blows up in its first steps


def spoil_images(dataset: Dataset, vertical: str) -> None:
    """Every training image's bytes are overwritten; files, row groups and ids stay."""
    for part in dataset.parts("train", [vertical]):
        file = pq.ParquetFile(dataset.images_file(part).path)
        groups = [file.read_row_group(g) for g in range(file.num_row_groups)]
        with pq.ParquetWriter(dataset.images_file(part).path, file.schema_arrow) as writer:
            for group in groups:
                at = group.schema.get_field_index("image")
                writer.write_table(
                    group.set_column(at, file.schema_arrow.field("image"), [[b"\xff\xd8\xffspoilt"] * len(group)])
                )


@pytest.mark.parametrize("team", [1, 2])
def test_failing_verticals_are_named_and_the_others_finish(
    team: int, ray_local: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One vertical's images are overwritten, another's validation file is cut in half; the third and fourth are whole."""
    drawn = SMALL.model_copy(update={"generated": SMALL.generated.model_copy(update={"verticals": 4})})
    assert isinstance(drawn.generated, Generated)
    dataset = write_dataset(tmp_path / "dataset", *read_generated(drawn.generated, 0), drawn)
    first, second, *good = dataset.verticals("train")
    spoil_images(dataset, first)
    cut = Path(dataset.images_file(dataset.parts("validation", [second])[0]).path)
    cut.write_bytes(cut.read_bytes()[:100])
    config = tmp_path / "config.yaml"
    made = settings(tmp_path, workers=2, team=team).model_dump(mode="json", exclude={"workspace", "seed"})
    config.write_text(json.dumps(made))
    code = common.main(
        TrainSettings, train_specialists, prog="", doc="", argv=["--config", str(config), "--workspace", str(tmp_path)]
    )
    error = capsys.readouterr().err
    assert code == 2
    assert error.startswith("error: 3 of 5 trainings failed: "), error
    assert re.search(rf"\b{first}: [^;]*images [^;]*are corrupt[^;]*ingest the dataset again", error), error
    assert f"{second}: a file of the dataset is damaged or missing" in error
    assert "joint: " in error
    assert {n for n in weights(tmp_path) if n != "initial"} == set(good)
    report = json.loads((tmp_path / "reports" / "train_specialists.json").read_text())
    assert set(report["failures"]) == {first, second, "joint"}
    assert set(report["models"]) == set(good)


def test_no_specialist_begins_where_the_joint_model_failed(ray_local: str, tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path / "dataset")
    spoil_images(dataset, dataset.verticals("train")[0])
    made = settings(tmp_path, workers=2)
    made = made.model_copy(update={"specialists": made.specialists.model_copy(update={"start": "joint"})})
    with pytest.raises(UserError, match=r"^3 of 3 trainings failed: (?=.*joint: [^;]*are corrupt)(?=.*: not finished)"):
        train_specialists(made)
    assert weights(tmp_path).keys() <= {"initial"}
