"""The report of an evaluation holds the measures of its models' vectors, and is made again when what it depends on changes."""

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
from fashion_dml.storage import Location
from jobs import evaluate as job
from jobs.evaluate import EvaluateSettings, measure_models

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


@pytest.fixture
def workspace_of_one(small: Dataset, tmp_path: Path) -> Path:
    """A workspace with the small dataset and a unified model."""
    (tmp_path / "dataset").symlink_to(str(small.location))
    write_model(tmp_path / "unified" / "model", 0)
    return tmp_path


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


@pytest.mark.cluster
def test_a_damaged_photo_is_one_sentence_and_exit_code_2(
    ray_local: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dataset = small_dataset(tmp_path / "dataset")
    file = Path(dataset.images_file(dataset.parts("test")[0]).path)
    table = pq.read_table(file, partitioning=None)
    photos = [b"\xff\xd8\xff cut", *table["image"].to_pylist()[1:]]
    pq.write_table(table.set_column(table.schema.get_field_index("image"), table.schema.field("image"), [photos]), file)
    argv = ["--models", "color-histogram", "--dataset", str(dataset.location), "--workspace", str(tmp_path)]
    assert job.entry(argv) == 2
    told = capsys.readouterr().err
    assert told.startswith(f"error: The stored image {table['image_id'][0].as_py()!r} in {file} can't be decoded (")
    assert told.endswith("restore the dataset, or delete it and ingest it again.\n")


@pytest.mark.cluster
def test_r_at_1_is_measured_whatever_was_asked_for(ray_local: str, small: Dataset, tmp_path: Path) -> None:
    """What models are compared by in tables and figures."""
    write_model(tmp_path / "one", 0)
    argv = [
        "--models",
        str(tmp_path / "one"),
        "color-histogram",
        "--dataset",
        str(small.location),
        "--workspace",
        str(tmp_path),
    ]
    assert (
        job.entry(
            [*argv, "--evaluate.recall_at", "10,5", "--evaluate.bootstrap", "20", "--data.height", "32", "--data.width", "32"]
        )
        == 0
    )
    report = json.loads((tmp_path / "reports" / "evaluation.json").read_text())
    for by in report["models"].values():
        assert [n for n in by["merged"]["overall"] if n.startswith("R@")] == ["R@1", "R@5", "R@10"]


@pytest.mark.parametrize("given", ["0", "5,-1"])
def test_a_k_below_1_is_refused_before_anything_is_embedded(
    given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert job.entry(["--workspace", str(tmp_path), "--evaluate.recall_at", given]) == 2
    bad = given.split(",")[-1]
    assert capsys.readouterr().err.startswith(
        f"error: The setting evaluate.recall_at.{given.count(',')} = {bad} can't be used: Input"
    )


@pytest.mark.cluster
def test_curves_of_a_search_for_groups_are_in_the_next_report(ray_local: str, workspace_of_one: Path) -> None:
    file = workspace_of_one / "reports" / "evaluation.json"
    given = settings(workspace_of_one)
    assert "sweet_spot" not in measure_models(given)
    before = file.stat().st_mtime_ns
    curves = [{"order": ["a", "b"], "sizes": [1, 2], "recall": {"a": [0.5, 0.25], "b": [None, 0.75]}}]
    search = {"curves": curves, "seconds": 3.5}
    Location.of(workspace_of_one / "reports" / "group_verticals.json").write_json(search)
    assert measure_models(given)["sweet_spot"] == curves
    after = file.stat().st_mtime_ns
    assert after > before
    Location.of(workspace_of_one / "reports" / "group_verticals.json").write_json(search | {"seconds": 4.5})
    measure_models(given)
    assert file.stat().st_mtime_ns == after  # only how long the search took has changed
    named = given.model_copy(update={"models": (str(workspace_of_one / "unified" / "model"),)})
    assert "sweet_spot" not in measure_models(named)
