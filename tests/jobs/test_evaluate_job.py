"""Which models a workspace has to measure, and that the report holds the measures of their vectors."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from drawn import small_dataset

from fashion_dml.config import Cluster, Data, Embed, Evaluate, Model
from fashion_dml.data.schema import Dataset
from fashion_dml.evaluation.metrics import measure
from fashion_dml.inference.encode import Encoder
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location, UserError
from fashion_dml.training.teachers import Teacher, write_teachers
from jobs import evaluate as job
from jobs.evaluate import EvaluateSettings, chosen_models, measure_models

TINY = Model(trunk="test_efficientnet", weights="none", dim=16)


def write_model(at: Path, seed: int) -> str:
    torch.manual_seed(seed)
    return save_model(Location.of(at), Embedder(TINY, 32, 32))


def settings(workspace: Path, **more: object) -> EvaluateSettings:
    chosen = {
        "data": Data(height=32, width=32), "model": TINY, "embed": Embed(batch_images=16), "evaluate": Evaluate(bootstrap=20, sheets=1),
        "cluster": Cluster(workers=2, cpus_per_worker=0.5),
    }  # fmt: skip
    return EvaluateSettings(workspace=str(workspace), **{**chosen, **more})


def chosen(workspace: Path, dataset: Dataset, model: Model) -> dict[str, dict[str, str]]:
    return chosen_models(settings(workspace, model=model), dataset, dataset.verticals("test"))


def test_without_pretrained_weights_there_is_no_pretrained_model(
    tmp_path: Path, small: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    write_model(tmp_path / "unified" / "model", 0)
    assert list(chosen(tmp_path, small, TINY)) == ["unified"]
    assert "model.weights = none: there is no pretrained trunk" in capsys.readouterr().out


def test_pretrained_has_the_weights_that_training_started_from(tmp_path: Path, small: Dataset) -> None:
    def pretrained(weights: str) -> set[str]:
        return set(chosen(tmp_path, small, Model(trunk="resnet18", weights=weights))["pretrained"].values())

    assert pretrained("auto") == {"timm:resnet18"}
    assert pretrained("/weights/mine.safetensors") == {"timm:resnet18@/weights/mine.safetensors"}


def test_each_vertical_has_its_own_specialist(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path / "dataset")
    verticals = dataset.verticals()
    teachers = [Teacher(v, f"s-{v}", f"{tmp_path}/specialists/s-{v}/model", "0" * 64, "unused", 16) for v in verticals]
    write_teachers(Location.of(tmp_path), teachers, {}, 0.0)
    write_model(tmp_path / "specialists" / "joint" / "model", 0)
    found = chosen(tmp_path, dataset, TINY)
    assert list(found) == ["specialists", "joint"]
    assert found["specialists"] == {v: f"{tmp_path}/specialists/s-{v}/model" for v in verticals}
    assert set(found["joint"].values()) == {f"{tmp_path}/specialists/joint/model"}


def test_a_workspace_without_models(tmp_path: Path, small: Dataset) -> None:
    with pytest.raises(
        UserError, match=r"There is no model in .*: run `python -m jobs.train_specialists` first, or give --models"
    ):
        chosen(tmp_path, small, TINY)


def test_unknown_model_is_one_sentence_and_exit_code_2(
    tmp_path: Path, small: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["--models", "color-histogram", "/nowhere", "--workspace", str(tmp_path), "--dataset", str(small.location)]
    assert job.entry(args) == 2
    assert capsys.readouterr().err.startswith("error: '/nowhere' is no model: give a directory")


@pytest.mark.cluster
def test_report_holds_the_measures_of_the_vectors(ray_local: str, small: Dataset, tmp_path: Path) -> None:
    """Two models with weights of their own and the histogram, against Encoder and measure; then nothing is done again."""
    paths = [str(tmp_path / "run" / name) for name in ("one", "two")]
    for seed, path in enumerate(paths):
        write_model(Path(path), seed)
    given = settings(tmp_path, models=(*paths, "color-histogram"), dataset=str(small.location))
    measure_models(given)
    file = tmp_path / "reports" / "evaluation.json"
    report = json.loads(file.read_text())
    assert list(report["models"]) == ["run/one", "run/two", "color-histogram"]
    for name, model in zip(report["models"], given.models, strict=True):
        encoder = Encoder(model, height=32, width=32)
        for vertical in small.verticals("test"):
            rows = [
                r
                for part in small.parts("test", [vertical])
                for r in pq.read_table(small.images_file(part).path, columns=["image", "label"]).to_pylist()
            ]
            vectors, labels = encoder.encode([r["image"] for r in rows]), np.array([r["label"] for r in rows])
            expected = measure(
                vectors, labels, vectors, labels, exclude=np.arange(len(labels)), recall_at=(1, 5, 10, 20)
            ).summary()
            found = report["models"][name]["separate"]["verticals"][vertical]
            for metric in ("R@1", "R@5", "mAP", "MAP@R"):
                assert found[metric]["value"] == pytest.approx(expected[metric], abs=1e-6)
    values = [report["models"][name]["merged"]["overall"]["mAP"]["value"] for name in report["models"]]
    assert len(set(values)) == 3

    before = file.stat().st_mtime_ns
    measure_models(given)
    assert file.stat().st_mtime_ns == before
    write_model(Path(paths[1]), 7)
    measure_models(given)
    again = json.loads(file.read_text())["models"]
    assert again["run/one"] == report["models"]["run/one"]
    assert again["run/two"] != report["models"]["run/two"]
