"""The subject `scale`: costs from a record made by hand, the command that prints the table, and a small real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fashion_dml.cli import parse_overrides
from fashion_dml.storage import UserError
from jobs.benchmarks import scale
from jobs.benchmarks.scale_costs import Part, Parts, free_cores, jobs_of, parts, times
from jobs.benchmarks.scale_run import Event, Record
from jobs.benchmarks.scale_table import ScaleSettings, markdown, predictions
from jobs.common import main

MADE = Parts(Part(8, 12), Part(2, 1), Part(0.1, 0.12), Part(1, 0.5), Part(3, 2))


def by_hand(lengths: dict[str, int], keep_every: int, submitted: float = 100.0, startup: float = 40.0) -> Record:
    """The record of one worker whose parts cost MADE."""
    record = Record(submitted, {name: (steps, 64 * steps) for name, steps in lengths.items()}, cpu=[(submitted, 0.0)])
    now, cpu = submitted + startup, 20.0

    def add(part: Part, times: int = 1) -> None:
        nonlocal now, cpu
        now, cpu = now + times * part.seconds, cpu + times * part.cores

    def note(kind: str, name: str, step: int = 0) -> None:
        record.events.append(Event(now, kind, name, step))
        record.cpu.append((now, cpu))

    for number, (name, steps) in enumerate(lengths.items()):
        note("take", name)
        add(MADE.later if number else MADE.first)
        for step in range(1, steps + 1):
            add(MADE.step)
            if step % 10 == 0 or step == steps:
                note("step", name, step)
                if step % keep_every == 0 and step < steps:
                    add(MADE.keep)
        add(MADE.publish)
        note("end", name)
    return record


def test_the_parts_of_a_record_are_found() -> None:
    record = by_hand({"a": 90, "b": 47, "c": 40}, 20)
    found = parts(record, 20)
    for name, part in vars(MADE).items():
        assert getattr(found, name).seconds == pytest.approx(part.seconds), name
        assert getattr(found, name).cores == pytest.approx(part.cores), name
    assert Record.of(record.as_json()) == record


def test_a_run_of_one_worker_at_these_costs_is_predicted_exactly() -> None:
    found = by_hand({"a": 90, "b": 47, "c": 40}, 20)
    assert times(found).startup == pytest.approx(40)
    rows, _ = scale.compared({1: found}, MADE, 2.0, 20, 0.0, {1: 1.0})
    assert [(r.name, r.value, r.goal) for r in rows] == [("predicted_over_measured_makespan/1", pytest.approx(1), 1.2)]
    assert sum(phase.seconds for phase in jobs_of(found, MADE, 20)[1].work) == pytest.approx(47 * 0.1 + 2 * 1 + 3)


def test_a_machine_at_half_its_pace_is_expected_to_take_twice_as_long() -> None:
    found = by_hand({"a": 90, "b": 47, "c": 40}, 20)
    rows, shown = scale.compared({1: found}, MADE, 2.0, 20, 0.0, {1: 2.0})
    assert rows[0].value == pytest.approx(2)
    assert shown["1"]["predicted_ends"]["c"] == pytest.approx(2 * times(found).makespan)


def test_a_record_that_shows_too_little_is_refused() -> None:
    with pytest.raises(UserError, match=r"no keep, later: let it train longer"):
        parts(by_hand({"a": 30}, 100), 100)


def test_cores_that_slow_each_other_down_do_less() -> None:
    assert free_cores(1.0, 1.0, 2, MADE) == 2
    assert free_cores(1.0, 0.9, 2, MADE) == 2  # noise
    assert free_cores(1.0, 1.5, 2, MADE) == pytest.approx(2 * (1 + 0.5 * 0.2) / 1.5)  # a fifth of the other core was busy
    assert free_cores(1.0, 1.0, 1, MADE) == 1


def test_the_table_of_your_own_numbers(capsys: pytest.CaptureFixture[str]) -> None:
    argv = ["--gpus", "8", "--images", "1000000", "--costs.images_per_gpu_s", "4100"]
    assert main(ScaleSettings, lambda s: print(markdown(predictions(s))), prog="table", doc="", argv=argv) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[-1].startswith("| 1,000,000 | 8 |")


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [(["--gpus", "0"], "gpus.0 = 0"), (["--costs.decode_s", "-1"], "costs.decode_s = -1"), (["--site.gpu_hour", "-2"], "site.gpu_hour = -2"),
     (["--work.images", "0"], "work.images = 0"), (["--costs.utilisation", "1.5"], "costs.utilisation = 1.5"),
     (["--work.images", "5"], "give --images in place of --work.images")],
)  # fmt: skip
def test_numbers_that_can_not_be_are_named(argv: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(ScaleSettings, lambda s: None, prog="table", doc="", argv=argv) == 2
    assert sentence in capsys.readouterr().err
    assert parse_overrides(ScaleSettings, argv, prog="table", doc="")[1]


@pytest.mark.slow
@pytest.mark.cluster
def test_a_small_real_run(tmp_path: Path) -> None:
    sizes = scale.Sizes(products=24, epochs=12, calibration_epochs=16, keep_every=20, products_per_batch=4, workers=(1, 2))
    rows, details = scale.run(str(tmp_path), sizes)
    assert [r.name for r in rows] == [
        "predicted_over_measured_makespan/1", "predicted_over_measured_makespan/2", "images_per_s_over_one_worker/2"
    ]  # fmt: skip
    assert all(r.value > 0 for r in rows)
    assert all(r.value < 3 for r in rows)  # a wide limit: such a small run is mostly start-up
    assert set(details["runs"]) == {"1", "2"}
    assert len(details["runs"]["2"]["ends"]) == 5
    json.dumps(details)


def test_the_page_has_the_table_of_the_code() -> None:
    page = Path(__file__).parents[2] / "docs" / "scale.md"
    assert markdown(predictions(ScaleSettings())) in page.read_text(encoding="utf-8")
