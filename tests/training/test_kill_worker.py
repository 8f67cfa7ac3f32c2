"""Drills on a cluster: a killed training worker, teams of two, and a vertical that can't be trained."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from drawn import SMALL, small_dataset, write_dataset

from fashion_dml.config import Cluster, Data, Generated, Model, Specialists
from fashion_dml.data.schema import Dataset
from fashion_dml.data.sources.generated.source import read_generated
from fashion_dml.models.store import load_model
from fashion_dml.training.specialists import TrainSettings
from jobs import common
from jobs.train_specialists import train_specialists

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

ROOT = Path(__file__).parents[2]
WORKER = "ray::RayTrainWorker"
ARGUMENTS = {
    "data.height": 32, "data.width": 32, "data.executor": "threads", "data.lanes": 2, "model.trunk": "test_efficientnet",
    "model.weights": "none", "model.dim": 16, "specialists.products_per_batch": 4, "specialists.epochs": 1,
    "specialists.min_steps": 200, "specialists.checkpoint_every": 10, "specialists.validate_every": 50, "cluster.workers": 2,
}  # fmt: skip


def until(true: Callable[[], Any], process: subprocess.Popen[bytes], seconds: float = 300) -> Any:
    """Poll until `true()` is, while the process lives; its value."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert process.poll() is None, f"the job ended with {process.returncode} before that"
        assert time.monotonic() < end, f"still not true after {seconds} s"
        time.sleep(0.02)
    return value


def start(workspace: Path, log: Path) -> subprocess.Popen[bytes]:
    """`python -m jobs.train_specialists` with a Ray of its own."""
    arguments = [text for name, value in ARGUMENTS.items() for text in (f"--{name}", str(value))]
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.train_specialists", "--workspace", str(workspace), *arguments],
            cwd=ROOT, env=clean, stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip


def training_workers(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of this job, and no other's, in which trainings run."""
    found = []
    for process in psutil.Process(job.pid).children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(WORKER):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def weights(workspace: Path) -> dict[str, str]:
    """Training -> sha256 of its published weights."""
    files = (workspace / "specialists").glob("*/model/model.safetensors")
    return {f.parents[1].name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


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

    undisturbed = start(other, tmp_path / "alone.log")
    try:
        assert undisturbed.wait(600) == 0, (tmp_path / "alone.log").read_text()
    finally:
        undisturbed.kill()
    assert set(weights(one)) == {"joint", *Dataset.open(str(one / "dataset")).verticals("train")}
    assert weights(one) == weights(other)


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
