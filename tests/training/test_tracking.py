"""Curves in MLflow: a real tracking store, in a directory."""

from __future__ import annotations

from pathlib import Path

import pytest
from mlflow import MlflowClient
from s3_server import free_port
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from train_helpers import Interrupted, recipe, run_training

from fashion_dml.config import Optim, Tracking
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import UserError
from fashion_dml.training.stopping import Ask, Stopped
from fashion_dml.training.tracking import KEY, NAME, WORKSPACE, check


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tracking:
    """MLflow without a server wants to be told that a directory will do."""
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return Tracking(mlflow=str(tmp_path / "mlruns"), experiment="test")


def runs(settings: Tracking) -> list:  # type: ignore[type-arg]
    client = MlflowClient(tracking_uri=settings.mlflow)
    experiment = client.get_experiment_by_name(settings.experiment)
    assert experiment is not None
    return list(client.search_runs([experiment.experiment_id]))


def curve(settings: Tracking, run: str, name: str) -> list[tuple[int, float]]:
    history = MlflowClient(tracking_uri=settings.mlflow).get_metric_history(run, name)
    return [(m.step, m.value) for m in history]


def test_a_run_has_the_curves_that_tensorboard_has(small: Dataset, tmp_path: Path, settings: Tracking) -> None:
    home = tmp_path / "run" / "specialists" / "dresses"
    run_training(small, home, recipe(tracking=settings, config={"loss": {"name": "triplet"}, "steps": 12}))
    (run,) = runs(settings)
    assert run.info.status == "FINISHED"
    assert run.data.params == {"loss.name": "triplet", "steps": "12"}
    assert {k: run.data.tags[k] for k in (KEY, WORKSPACE, NAME)} == {
        KEY: "key",
        WORKSPACE: str(tmp_path / "run"),
        NAME: "dresses",
    }
    board = EventAccumulator(str(home / "logs"))
    board.Reload()
    names = board.Tags()["scalars"]
    assert {"train/loss", "validation/R@1", "validation/dresses/R@1"} <= set(names)
    for name in names:
        expected = [(e.step, pytest.approx(e.value, rel=1e-6)) for e in board.Scalars(name)]
        assert curve(settings, run.info.run_id, name.replace("@", "_at_")) == expected


def test_a_training_that_goes_on_does_so_in_its_run(small: Dataset, tmp_path: Path, settings: Tracking) -> None:
    home, made = tmp_path / "run" / "specialists" / "dresses", recipe(tracking=settings)
    looks = iter([""] * 5 + ["stop"])

    def asks() -> Ask:
        return next(looks)  # type: ignore[return-value]

    with pytest.raises(Stopped):
        run_training(small, home, made, asks=asks)
    assert [r.info.status for r in runs(settings)] == ["KILLED"]
    with pytest.raises(Interrupted):
        run_training(small, home, made, die_in_step=2)
    assert [r.info.status for r in runs(settings)] == ["KILLED"]
    run_training(small, home, made)
    (run,) = runs(settings)
    assert run.info.status == "FINISHED"
    assert [step for step, _ in curve(settings, run.info.run_id, "train/loss")][-1] == 12
    run_training(small, tmp_path / "run" / "specialists" / "shoes", recipe(tracking=settings, key="other", name="shoes"))
    assert len(runs(settings)) == 2


def test_the_run_of_a_training_that_fails_has_ended(small: Dataset, tmp_path: Path, settings: Tracking) -> None:
    made = recipe(tracking=settings, optim=Optim(learning_rate=1e30, warmup=0))
    with pytest.raises(UserError, match="the loss is nan"):
        run_training(small, tmp_path / "run" / "specialists" / "dresses", made)
    (run,) = runs(settings)
    assert run.info.status == "KILLED"
    assert [step for step, _ in curve(settings, run.info.run_id, "train/loss")] == [1]


def test_a_server_that_goes_away_costs_a_warning(
    small: Dataset, tmp_path: Path, settings: Tracking, caplog: pytest.LogCaptureFixture
) -> None:
    made = recipe(tracking=settings)

    def report(progress: dict[str, object]) -> None:
        if progress["step"] == 6:
            next((tmp_path / "mlruns").glob("*/*/meta.yaml")).parent.rename(tmp_path / "away")

    run_training(small, tmp_path / "run" / "specialists" / "dresses", made, report=report)
    assert "dresses: MLflow wasn't told its values" in caplog.text
    assert (tmp_path / "run" / "specialists" / "dresses" / "model" / "manifest.json").is_file()


def test_a_server_that_is_away_at_the_begin_gets_all_when_it_is_back(
    small: Dataset, tmp_path: Path, settings: Tracking, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "false")  # so MLflow refuses the directory

    def report(progress: dict[str, object]) -> None:
        if progress["step"] == 10:
            monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")

    with caplog.at_level("WARNING"):
        run_training(small, tmp_path / "run" / "specialists" / "dresses", recipe(tracking=settings), report=report)
    assert caplog.text.count("dresses: MLflow wasn't told") >= 2
    (run,) = runs(settings)
    assert [step for step, _ in curve(settings, run.info.run_id, "train/loss")] == [1, 5, 6, 10, 12]


def test_a_server_that_is_not_there_is_refused_before_anything_starts(small: Dataset, tmp_path: Path) -> None:
    nobody = Tracking(mlflow=f"http://127.0.0.1:{free_port()}")
    with pytest.raises(UserError, match=r"tracking\.mlflow = http://127.* can't be used .*; give a server's address"):
        check(nobody)
    check(Tracking())
