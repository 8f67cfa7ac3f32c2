"""Which models a workspace has to measure, and their names in the report."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from drawn import small_dataset

from fashion_dml.config import Model
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location, UserError, manifest_sha256
from fashion_dml.training.teachers import Teacher, write_teachers
from jobs.measured_models import named, of_workspace

TINY = Model(trunk="test_efficientnet", weights="none", dim=16)


def write_model(at: Path, dataset: str | None = None) -> str:
    torch.manual_seed(0)
    return save_model(Location.of(at), Embedder(TINY, 32, 32), inputs={} if dataset is None else {"dataset": dataset})


def found(workspace: Path, dataset: Dataset, model: Model = TINY) -> dict[str, dict[str, str]]:
    return of_workspace(Location.of(workspace), model, dataset, dataset.verticals("test"))


def test_without_pretrained_weights_there_is_no_pretrained_model(
    tmp_path: Path, small: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "unified" / "model")
    assert list(found(tmp_path, small)) == ["unified"]
    assert "model.weights = none: there is no pretrained trunk" in capsys.readouterr().out


def test_pretrained_has_the_weights_that_training_started_from(tmp_path: Path, small: Dataset) -> None:
    def pretrained(weights: str) -> set[str]:
        return set(found(tmp_path, small, Model(trunk="resnet18", weights=weights))["pretrained"].values())

    assert pretrained("auto") == {"timm:resnet18"}
    assert pretrained("/weights/mine.safetensors") == {"timm:resnet18@/weights/mine.safetensors"}


def with_all_models(workspace: Path, dataset: Dataset) -> None:
    """Every kind of model that a workspace has, made from the dataset; the specialists as their teachers' manifest has them."""
    digest = manifest_sha256(dataset.location)
    teachers = [
        Teacher(v, f"s-{v}", f"{workspace}/specialists/s-{v}/model", "0" * 64, "unused", 16) for v in dataset.verticals()
    ]
    write_teachers(Location.of(workspace), teachers, {}, 0.0)
    for directory in ("baselines/joint-triplet", "specialists/joint", "unified"):
        write_model(workspace / directory / "model", digest)


def test_each_vertical_has_its_own_specialist(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path / "dataset")
    with_all_models(tmp_path, dataset)
    models = found(tmp_path, dataset)
    assert list(models) == ["specialists", "joint-triplet", "joint", "unified"]
    assert models["specialists"] == {v: f"{tmp_path}/specialists/s-{v}/model" for v in dataset.verticals()}
    assert set(models["joint"].values()) == {f"{tmp_path}/specialists/joint/model"}


def test_models_of_another_dataset_are_left_out(tmp_path: Path, small: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    """As after an ingestion with other splits: they may have been trained on what are test products now."""
    with_all_models(tmp_path, small_dataset(tmp_path / "dataset"))
    manifest = Location.of(tmp_path / "dataset" / "manifest.json")
    manifest.write_json(manifest.read_json() | {"inputs": {"photos": "others"}})
    dataset = Dataset.open(str(tmp_path / "dataset"))
    resnet = Model(trunk="resnet18", weights="auto")
    assert list(found(tmp_path, dataset, resnet)) == ["pretrained"]
    told = " ".join(capsys.readouterr().out.split())
    for directory, job in (
        ("teachers", "embed"),
        ("baselines/joint-triplet/model", "baselines"),
        ("specialists/joint/model", "train_specialists"),
        ("unified/model", "distill"),
    ):
        assert f"{tmp_path}/{directory} was made from another dataset and is left out: run `python -m jobs.{job}` again" in told
    with pytest.raises(UserError, match="There is no model in"):
        found(tmp_path, dataset)
    write_model(tmp_path / "specialists" / "joint" / "model", manifest_sha256(dataset.location))
    assert list(found(tmp_path, dataset)) == ["joint"]


def test_a_workspace_without_models(tmp_path: Path, small: Dataset) -> None:
    with pytest.raises(
        UserError, match=r"There is no model in .*: run `python -m jobs.train_specialists` first, or give --models"
    ):
        found(tmp_path, small)


@pytest.mark.parametrize(
    ("models", "names"),
    [
        (["/runs/one/model", "color-histogram", "timm:resnet18"], ["one/model", "color-histogram", "timm:resnet18"]),
        (
            ["s3://bucket/unified/model/", "gs://bucket/unified/model"],
            ["s3://bucket/unified/model/", "gs://bucket/unified/model"],
        ),
        (["runA/unified/model", "runB/unified/model/"], ["runA/unified/model", "runB/unified/model"]),
        (
            ["/a/x/u/model", "/b/x/u/model", "/b/y/u/model", "/c/v/model"],
            ["a/x/u/model", "b/x/u/model", "y/u/model", "v/model"],
        ),
        (["unified/model", "/runs/unified/model"], ["unified/model", "runs/unified/model"]),
    ],
)
def test_models_have_names_of_their_own(models: list[str], names: list[str]) -> None:
    assert named(models) == dict(zip(names, models, strict=True))


@pytest.mark.parametrize(
    "models",
    [
        ["a/model", "a/model"],
        ["s3://b/m", "s3://b/m/"],
        ["./a/model", "b/model", "a/model/"],
        ["timm:resnet18", "timm:resnet18"],
        ["color-histogram"] * 2,
    ],
)
def test_a_model_given_twice_is_refused(models: list[str]) -> None:
    with pytest.raises(
        UserError, match=rf"^--models has '{models[0]}' and '{models[-1]}', which are the same model; give it once\.$"
    ):
        named(models)
