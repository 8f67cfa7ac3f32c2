"""jobs.group_verticals from end to end, small; and the specialists that take its groups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from drawn import SMALL, small_dataset

from fashion_dml.config import Cluster, Data, Group, Ingest, Model, Specialists
from fashion_dml.data.schema import Dataset
from fashion_dml.evaluation.html import render_groups
from fashion_dml.storage import UserError
from fashion_dml.training.assignments import TrainSettings, assignments
from fashion_dml.training.grouping import GroupSettings, members
from fashion_dml.training.trials import Trials
from jobs.group_verticals import group_verticals


def three_verticals(validation_share: float = 0.3) -> Ingest:
    generated = SMALL.generated.model_copy(update={"verticals": 3, "products_per_vertical": 16})
    return SMALL.model_copy(update={"generated": generated, "validation_share": validation_share})


def settings(workspace: Path, **group: Any) -> GroupSettings:
    return GroupSettings(
        workspace=str(workspace), data=Data(height=32, width=32, executor="threads"), group=Group(epochs=1, min_steps=2, **group),
        model=Model(trunk="test_efficientnet", weights="none", dim=16), cluster=Cluster(workers=2, cpus_per_worker=0.5, threads_per_worker=1),
        specialists=Specialists(products_per_batch=4),
    )  # fmt: skip


@pytest.mark.cluster
def test_groups_are_searched_once_and_taken(ray_local: str, tmp_path: Path) -> None:
    small_dataset(tmp_path / "dataset", three_verticals())
    everything = settings(tmp_path, tolerance=1.0)
    report = group_verticals(everything)
    order = report["order"]
    assert report["groups"] == {f"{order[0]}-and-2": tuple(sorted(order))}
    for curve in report["curves"]:
        assert curve["sizes"] == [1, 2, 3]
        for place, vertical in enumerate(curve["order"]):
            assert [r is None for r in curve["recall"][vertical]] == [n < place for n in range(3)]
    models = {m: m.stat().st_mtime_ns for m in (tmp_path / "groups" / "trials").glob("*/model/manifest.json")}
    assert len(models) == len(report["trials"])
    steps = {len(json.loads(m.read_text())["config"]["verticals"]): json.loads(m.read_text())["images"] for m in models}
    assert steps[3] > steps[2] > steps[1]  # more company is not less training

    assert group_verticals(everything)["trials"] == report["trials"]
    assert {m: m.stat().st_mtime_ns for m in models} == models
    stored = json.loads((tmp_path / "reports" / "group_verticals.json").read_text())
    assert stored["groups"] == {name: list(verticals) for name, verticals in report["groups"].items()}
    page = (tmp_path / "reports" / "group_verticals.html").read_text()
    assert page.count("<svg") == 2
    assert "://" not in page

    dataset = Dataset.open(str(tmp_path / "dataset"))
    searched = TrainSettings(workspace=str(tmp_path), specialists=Specialists(grouping="searched"))
    assert {a.name: a.verticals for a in assignments(dataset, searched, joint=False)} == report["groups"]
    small_dataset(tmp_path / "other", three_verticals(0.2))
    with pytest.raises(
        UserError, match=r"groups was found on another dataset than .*other: run `python -m jobs\.group_verticals`"
    ):
        assignments(Dataset.open(str(tmp_path / "other")), searched, joint=False)


def test_certain_work_comes_before_what_may_be_of_no_use(tmp_path: Path) -> None:
    trials = Trials(
        small_dataset(tmp_path / "dataset", three_verticals()), settings(tmp_path, sizes=(1, 3), tolerance=0.0, chance=0.0)
    )
    first, second, third = trials.order
    everything = members(trials.order)
    assert trials.wanted(3)[:3] == [(first,), (second,), (third,)]
    trials.findings.recall.update({(v,): {v: 0.5} for v in trials.order})
    # The search asks about the first two; the curves end with all three; after a no it would ask about the first and the third.
    assert trials.wanted(1) == [members([first, second]), everything]
    assert trials.wanted(3) == [members([first, second]), everything, members([first, third])]
    trials.findings.recall[members([first, second])] = {first: 0.4, second: 0.5}
    assert trials.wanted(1)[0] == members([first, third])


def test_a_search_needs_validation_products(tmp_path: Path) -> None:
    dataset = small_dataset(tmp_path / "dataset", three_verticals(0.0))
    with pytest.raises(UserError, match=r"has no validation products to decide on: ingest with ingest\.validation_share"):
        Trials(dataset, settings(tmp_path))


def test_groups_that_were_never_searched_for(small: Dataset, tmp_path: Path) -> None:
    searched = TrainSettings(workspace=str(tmp_path), specialists=Specialists(grouping="searched"))
    with pytest.raises(UserError, match=r"no complete result in .*groups: run `python -m jobs\.group_verticals` first"):
        assignments(small, searched, joint=False)


def test_names_on_the_page_are_escaped() -> None:
    evil = "<script>alert(1)</script>"
    report = {
        "groups": {evil: [evil]}, "order": [evil], "queries": {evil: 5}, "tolerance": 0.02, "chance": 1.0, "alone": {evil: None},
        "grouped": {evil: 0.5}, "least": {evil: None}, "curves": [{"order": [evil], "sizes": [1], "recall": {evil: [0.5]}}],
    }  # fmt: skip
    assert evil not in render_groups(report, title=evil)
