"""The whole loop on a generated catalogue, run again, and run with one setting changed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fashion_dml.config import (
    Baselines,
    Cluster,
    Data,
    Distill,
    Embed,
    Evaluate,
    Finetune,
    Generated,
    Index,
    Ingest,
    Model,
    Specialists,
)
from fashion_dml.inference.encode import Encoder
from fashion_dml.models.store import load_model
from fashion_dml.storage import UserError
from fashion_dml.training.baselines import BaselineSettings
from jobs.baselines import train_baselines
from jobs.export import ExportSettings, export
from jobs.pipeline import STAGES, PipelineSettings, pipeline

TINY = {
    "ingest": Ingest(
        generated=Generated(products_per_vertical=8, verticals=2, max_variants=3, image_height=48, image_width=32),
        short_side=32, shards=2, min_row_groups=4, validation_share=0.3,
    ),
    "data": Data(height=32, width=32),
    "model": Model(trunk="test_efficientnet", weights="none", dim=16),
    "specialists": Specialists(
        epochs=1, min_steps=3, max_steps=3, products_per_batch=3, validate_every=2, checkpoint_every=2, joint_draws=(1, 0.5),
    ),
    "distill": Distill(
        steps=3, images_per_batch=4, validate_every=2, checkpoint_every=2, targets="view", teachers="joined", start="joints",
    ),
    "embed": Embed(batch_images=16),
    "evaluate": Evaluate(bootstrap=20, sheets=1),
    "index": Index(shards=2, thumbnail_side=32),
    "cluster": Cluster(workers=2, cpus_per_worker=0.5),
}  # fmt: skip


def files(workspace: Path) -> dict[str, int]:
    """Path -> time of change, of all results; of the reports only the evaluation, for each job reports that it ran."""
    found = {str(p.relative_to(workspace)): p.stat().st_mtime_ns for p in workspace.rglob("*") if p.is_file()}
    return {name: t for name, t in found.items() if not name.startswith("reports/") or "evaluation" in name}


def changed(before: dict[str, int], after: dict[str, int]) -> set[str]:
    """The parts of the workspace with a file that is new, gone or written again."""
    return {name.split("/")[0] for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def read(workspace: Path, name: str) -> Any:
    return json.loads((workspace / name).read_text())


def told(workspace: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """What a dry run says."""
    pipeline(PipelineSettings(workspace=str(workspace), dry_run=True, **TINY))
    return capsys.readouterr().out


@pytest.mark.cluster
def test_the_whole_loop(
    ray_local: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path.parent)  # of this process alone: workers have directories of their own
    settings = PipelineSettings(workspace=tmp_path.name, **TINY)
    assert "images of the generated catalogue" in told(tmp_path, capsys)
    assert files(tmp_path) == {}

    assert list(pipeline(settings)) == list(STAGES)
    first = files(tmp_path)
    models = read(tmp_path, "reports/evaluation.json")["models"]
    assert set(models) == {"specialists", "joint", "unified"}  # random weights: no pretrained trunk to compare with
    for protocols in models.values():
        assert set(protocols) == {"separate", "merged"}
        assert all(0 <= p["overall"]["R@1"]["value"] <= 1 for p in protocols.values())
    assert "<html" in (tmp_path / "reports" / "evaluation.html").read_text()
    version = (tmp_path / "index" / "CURRENT").read_text().strip().strip('"')
    live = read(tmp_path, "index/CURRENT") if version.startswith("{") else None
    index = next((tmp_path / "index" / "versions").iterdir())
    manifest = json.loads((index / "manifest.json").read_text())
    assert index.name in (version if live is None else json.dumps(live))
    assert manifest["model"] == read(tmp_path, "unified/model/manifest.json")["sha256"]
    assert sum(manifest["shards"]) == read(tmp_path, "dataset/manifest.json")["images"]
    start, end = (load_model(str(tmp_path / d)).module.state_dict() for d in ("specialists/initial", "unified/model"))
    assert not torch.equal(start["head.weight"], end["head.weight"])
    student = read(tmp_path, "unified/model/manifest.json")
    joint, further = (read(tmp_path, f"specialists/{name}/model/manifest.json")["sha256"] for name in ("joint", "joint-2"))
    assert (student["inputs"]["joint"], student["inputs"]["joint-2"]) == (joint, further)
    assert (student["dim"], student["steps"], len(student["validations"])) == (16, 3, 2)
    assert Encoder(str(tmp_path / "unified" / "model")).dim == 16

    pipeline(settings)
    assert changed(first, files(tmp_path)) == set()
    said = told(tmp_path, capsys)
    assert "4 of 4 trainings finished, 0 steps, 0 images to go" in said
    assert said.count("complete") >= 4
    assert changed(first, files(tmp_path)) == set()

    exported = export(ExportSettings(workspace=str(tmp_path)))
    assert exported["files"] == ["README.md", "config.json", "model.onnx", "model.safetensors"]
    assert "| merged | " in (tmp_path / "export" / "README.md").read_text()
    (tmp_path / "export").rename(tmp_path.parent / f"{tmp_path.name}-export")

    recipes = Baselines(recipes=("joint-triplet", "pml-triplet"), images=24)
    trained = train_baselines(BaselineSettings(baselines=recipes, **settings.model_dump(exclude={"baselines"})))
    assert all(m["images"] == 24 for m in trained.values())
    distill = settings.distill.model_copy(update={"steps": 4, "start": "joint", "teachers": "specialists", "lag": 2.0})
    finetune = Finetune(steps=2, blend=True, height=48, width=32, validate_every=2, checkpoint_every=2)
    pipeline(settings.model_copy(update={"distill": distill, "finetune": finetune}))
    second = files(tmp_path)
    assert changed(first, second) == {"baselines", "unified", "embeddings", "reports", "index"}
    kept = {name for name in first if name.split("/")[0] in ("embeddings", "index") and not name.endswith("CURRENT")}
    assert all(second[name] == first[name] for name in kept)  # new files beside the old ones
    assert len(list((tmp_path / "index" / "versions").iterdir())) == 2
    assert {"joint-triplet", "pml-triplet"} < set(read(tmp_path, "reports/evaluation.json")["models"])
    student = read(tmp_path, "unified/model/manifest.json")
    found = {n: read(tmp_path, f"unified/{n}/model/manifest.json") for n in ("distilled", "finetuned", "blended")}
    assert [m["steps"] for m in found.values()] == [4, 2, 2]
    assert student["candidates"] == {n: m["validations"][-1]["R@1"] for n, m in found.items()}
    chosen = max(found.values(), key=lambda m: m["validations"][-1]["R@1"])
    assert (student["sha256"], student["inputs"]) == (chosen["sha256"], chosen["inputs"])
    assert found["distilled"]["inputs"]["joint"] == found["blended"]["inputs"]["start"] == joint


def test_unknown_stage(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"no stage 'destill'; known are ingest, group_verticals, train_specialists, embed, distill"
    ):
        pipeline(PipelineSettings(workspace=str(tmp_path), start="destill"))


@pytest.mark.parametrize(
    ("start", "message"),
    [("train_specialists", "run `python -m jobs.ingest"), ("embed", "run `python -m jobs.ingest"), ("evaluate", "jobs.ingest")],
)
def test_starting_later_needs_what_comes_before(start: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        pipeline(PipelineSettings(workspace=str(tmp_path), start=start, **TINY))
    assert not any(tmp_path.iterdir())
