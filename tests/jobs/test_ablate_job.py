"""jobs.ablate from end to end, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from drawn import small_dataset

from fashion_dml.config import Ablate, Cluster, Data, Evaluate, Model, Specialists
from jobs.ablate import AblateJobSettings, ablate


@pytest.mark.cluster
def test_a_ladder_is_trained_once_and_reported(ray_local: str, tmp_path: Path) -> None:
    small_dataset(tmp_path / "dataset")
    settings = AblateJobSettings(
        workspace=str(tmp_path), method="cascade", data=Data(height=32, width=32, executor="threads"),
        model=Model(trunk="test_efficientnet", weights="none", head="random"), ablate=Ablate(steps=3), cluster=Cluster(cpus_per_worker=0.5),
        specialists=Specialists(products_per_batch=4, validate_every=100), evaluate=Evaluate(bootstrap=50),
    )  # fmt: skip
    report = ablate(settings)
    assert report["rungs"][0]["rung"] == "one head, all pairs"
    assert {c["verdict"] for c in report["claims"]} <= {"holds", "does not hold", "undecided"}
    stored = json.loads((tmp_path / "reports" / "ablate-cascade.json").read_text())
    assert stored["rungs"] == report["rungs"]
    assert "HDC, nested" in (tmp_path / "reports" / "ablate-cascade.html").read_text()
    models = sorted((tmp_path / "ablations" / "cascade").glob("*-seed*/model/manifest.json"))
    assert len(models) == 10
    config = json.loads((models[-1].parent / "config.json").read_text())
    assert (config["dim"], config["model"]["taps"]) == (384, [2, 3])
    times = [m.stat().st_mtime_ns for m in models]
    again = ablate(settings)
    assert [m.stat().st_mtime_ns for m in models] == times
    assert again["rungs"] == report["rungs"]
