"""The benchmark's table and plot, from reports made by hand."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from fashion_dml.storage import Location, UserError
from jobs.benchmark import SUBJECTS, summarise
from jobs.benchmarks.summary import BEGIN, END, NEAREST, WHAT, met, plot, replaced, table

MACHINE = {"machine": {"processor": "x86_64", "cpus": 2, "system": "Linux"}, "versions": {"ray": "2.60"}}


def report(*rows: tuple[str, float, str, float | None, str], seconds: float = 30.0) -> dict[str, Any]:
    named = [dict(zip(("name", "value", "unit", "goal", "better"), row, strict=True)) for row in rows]
    return {**MACHINE, "rows": named, "seconds": seconds}


REPORTS = {
    "losses": report(
        ("time_over_pml/triplet/256", 0.13, "ratio", 0.5, "lower"),
        ("time_over_pml/triplet/1024", 0.61, "ratio", 0.5, "lower"),
        ("time_over_pml/cascade/256", 0.0123, "ratio", 0.5, "lower"),
        ("time_over_pml/focus_ranking/256", 0.11, "ratio", 0.5, "lower"),
        seconds=240,
    )
    | {"details": {"cases": {"cascade/256": {}, "focus_ranking/256": {}, "focus_ranking/1024": {"left_out": "too large"}}}},
    "stream": report(
        ("first_batch_s", 3.81, "s", None, "lower"),
        ("ray_data_over_bare", 0.97, "ratio", 0.9, "higher"),
        ("no_sentence", 1.0, "s", None, "lower"),
        ("only_a_goal", 2.0, "s", 1.0, "lower"),
    ),
}  # fmt: skip


def test_every_row_with_a_sentence_or_a_goal_has_its_line() -> None:
    assert table(REPORTS).splitlines() == [
        "`python -m jobs.benchmark losses`, 4 minutes:", "", "| row | value | goal |", "|---|---|---|",
        f"| {WHAT['losses/time_over_pml']}: triplet | 256 0.13 · 1024 **0.61** | <= 0.5 |",
        f"| {WHAT['losses/time_over_pml']}: cascade | 0.012 | <= 0.5 |",
        f"| {WHAT['losses/time_over_pml']}: focus_ranking (nearest: TripletMarginLoss over all triplets) | 256 0.11 · 1024 left out | <= 0.5 |", "",
        "`python -m jobs.benchmark stream`, 30 s:", "", "| row | value | goal |", "|---|---|---|",
        f"| {WHAT['stream/first_batch_s']} | 3.81 s |  |",
        f"| {WHAT['stream/ray_data_over_bare']} | 0.97 | >= 0.9 |",
        "| `only_a_goal` | **2 s** | <= 1 |", "",
        "Measured on 2 cores (x86_64), ray 2.60.",
    ]  # fmt: skip


def test_sentences_are_of_rows_that_the_code_has() -> None:
    root = Path(__file__).parents[2] / "jobs" / "benchmarks"
    code = "\n".join(f.read_text(encoding="utf-8") for f in root.glob("*.py") if f.name != "summary.py")
    for place in WHAT:
        subject, name = place.split("/")
        assert subject in SUBJECTS
        assert re.search(rf"\"{name}[\"/]", code), place


def test_losses_names_a_peer_for_each_of_ours_and_says_which_are_others() -> None:
    from jobs.benchmarks.losses import OURS, PEERS  # torch

    assert set(PEERS) == set(OURS)
    assert NEAREST.items() < PEERS.items()
    readme = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
    for name in OURS:
        label = f": {name} (nearest: {NEAREST[name]}) |" if name in NEAREST else f": {name} |"
        for row in ("time", "memory"):
            assert readme.count(WHAT[f"losses/{row}_over_pml"] + label) == 1


def test_met() -> None:
    assert [met(r) for r in REPORTS["losses"]["rows"]] == [True, False, True, True]
    assert [met(r) for r in REPORTS["stream"]["rows"]] == [True, True, True, False]


def test_the_part_of_a_page_is_written_anew() -> None:
    page = f"before\n{BEGIN}\n\nold\n\n{END}\nafter"
    assert replaced(page, "new") == f"before\n{BEGIN}\n\nnew\n\n{END}\nafter"
    assert replaced(replaced(page, "new"), "new") == replaced(page, "new")
    for wrong in ("nothing", page + page):
        with pytest.raises(UserError, match="give it one"):
            replaced(wrong, "new")


def test_the_plot_has_a_bar_for_each_row_with_a_goal() -> None:
    drawn = plot(REPORTS)
    text = " ".join(ElementTree.fromstring(drawn).itertext())
    for name in ("losses: time_over_pml/triplet/1024", "stream: ray_data_over_bare"):
        assert name in text
    assert "first_batch_s" not in text
    assert plot(REPORTS) == drawn


def test_reports_become_files_and_a_page(tmp_path: Path) -> None:
    reports = Location.of(tmp_path)
    for name, content in REPORTS.items():
        (reports / f"benchmark-{name}.json").write_json(content)
    page = tmp_path / "README.md"
    page.write_text(f"x {BEGIN} {END} y")
    summarise(reports, str(page), str(tmp_path / "of-page.svg"))
    assert (tmp_path / "of-page.svg").read_bytes() == (tmp_path / "benchmark.svg").read_bytes()
    assert (tmp_path / "benchmark.md").read_text() == table(REPORTS)
    assert table(REPORTS) in page.read_text()
    assert (tmp_path / "benchmark.svg").read_bytes().startswith(b"<?xml")
