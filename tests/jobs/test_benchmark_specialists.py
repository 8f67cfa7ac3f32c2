"""The subject `specialists`: its figures from a record made by hand, the plain process it is compared with, and a small real run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_benchmark_scale import MADE, by_hand

from fashion_dml.config import Generated, Model
from fashion_dml.storage import UserError
from jobs.benchmarks import specialists
from jobs.benchmarks.scale import catalogue
from jobs.benchmarks.specialists import Sizes, overheads, plain, together


def test_what_a_training_takes_beside_its_steps() -> None:
    record = by_hand({"a": 90, "b": 47, "c": 40}, 20)
    # model and plan, validations with checkpoints, publishing; "a" was the worker's first
    assert overheads(record, 0.1) == {"b": pytest.approx(2 + 2 * 1 + 3), "c": pytest.approx(2 + 1 + 3)}


def test_the_rows_of_one_worker_are_what_its_parts_add_up_to() -> None:
    record = by_hand({"a": 90, "b": 47, "c": 40}, 20)
    apart = [by_hand({"a": 90}, 20, startup=startup) for startup in (20, 40)]
    steps = (90 + 47 + 40) * 0.1
    makespan = steps + (8 + 2 + 2) + (4 + 2 + 1) * 1 + 3 * 3
    rows, details = together(record, apart, Sizes(keep_every=20, workers=1))
    assert {r.name: (r.value, r.goal) for r in rows} == {
        "makespan_over_ideal": (pytest.approx(makespan / steps), 1.15),
        "seconds_per_added_specialist": (pytest.approx(6.5), 3.0),
        "time_over_a_job_each": (pytest.approx((40 + makespan) / (3 * (30 + 8 + 90 * 0.1 + 4 * 1 + 3))), None),
    }
    assert details["step_s"] == pytest.approx(MADE.step.seconds)


def test_a_plain_process_makes_its_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    catalogue(str(tmp_path / "dataset"), 0, Generated(products_per_vertical=8, verticals=1, test_share=0))
    monkeypatch.setattr(specialists, "MODEL", Model(trunk="test_efficientnet", weights="none"))
    assert plain(str(tmp_path), Sizes(products_per_batch=4)) > 0
    with pytest.raises(UserError, match="The plain process failed"):
        plain(str(tmp_path / "nowhere"), Sizes())


@pytest.mark.slow
@pytest.mark.cluster
def test_a_small_real_run_of_specialists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(specialists, "MODEL", Model(trunk="test_efficientnet", weights="none"))
    sizes = replace(Sizes(), products=24, verticals=4, epochs=16, keep_every=20, products_per_batch=4, turns=1)
    rows, _ = specialists.run(str(tmp_path), sizes)
    assert [r.name for r in rows] == [
        "makespan_over_ideal", "seconds_per_added_specialist", "time_over_a_job_each",
        "seconds_to_first_step/submit", "seconds_to_first_step/plain torch",
    ]  # fmt: skip
    assert all(r.value > 0 for r in rows)
