"""Measure this machine: every figure against its limit or its peers, in turns in one run, medians and ratios.

    python -m jobs.benchmark stream --workspace workspace
    python -m jobs.benchmark losses        (only stream needs Ray)
    python -m jobs.benchmark               (all)

Writes `reports/benchmark-NAME.json` for each subject, and a table and a plot of all that are there, `reports/benchmark.md` and `.svg`.
"""

from __future__ import annotations

import importlib
import os
import platform
import sys
import time
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from fashion_dml.config import JobSettings
from fashion_dml.storage import Location, UserError
from jobs.benchmarks import Row, summary
from jobs.common import connect, main, print_table

SUBJECTS = (
    "evaluate",
    "index",
    "index-large",
    "ingest",
    "losses",
    "observe",
    "scale",
    "serve",
    "specialists",
    "stream",
    "train",
)
WITH_RAY = ("stream",)  # in this process


class BenchmarkSettings(JobSettings):
    """What to measure."""

    subject: str = Field("all", description=f"all, {', '.join(SUBJECTS)}; also as the first argument")
    page: str = Field("", description="markdown file whose part between the benchmark's marks is written anew from the table")


def measured(subject: str, workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """Rows of a subject, by the `run` of its file (index-large: `run_large` of that of index), and what else it tells."""
    name, _, variant = subject.partition("-")
    module = importlib.import_module(f"jobs.benchmarks.{name}")  # one at a time: peers are imported too
    found: tuple[list[Row], dict[str, Any]] = getattr(module, f"run_{variant}" if variant else "run")(workspace)
    return found


def benchmark(settings: BenchmarkSettings) -> dict[str, list[Row]]:
    """Measure and report; returns subject -> rows."""
    names = list(SUBJECTS) if settings.subject == "all" else [settings.subject]
    if unknown := [n for n in names if n not in SUBJECTS]:
        raise UserError(f"There is no benchmark {unknown[0]!r}; known are {', '.join(SUBJECTS)}.")
    if set(names) & set(WITH_RAY):
        connect()
    if settings.page:
        if not Path(settings.page).is_file():
            raise UserError(f"page = {settings.page} is no file; give a markdown file with the benchmark's marks.")
        summary.replaced(Path(settings.page).read_text(encoding="utf-8"), "")  # refused before hours of work
    found = {}
    for name in names:
        began = time.monotonic()
        rows, details = measured(name, settings.workspace)
        (Location.of(settings.workspace) / "reports" / f"benchmark-{name}.json").write_json({
            "machine": {"processor": platform.machine(), "cpus": os.cpu_count(), "system": platform.platform(terse=True)},
            "versions": {p: version(p) for p in ("fashion-dml", "ray", "torch", "pyarrow", "numpy")},
            "rows": [asdict(r) for r in rows], "details": details, "seconds": round(time.monotonic() - began, 1),
        })  # fmt: skip
        print_table(
            f"benchmark {name}", ("row", "value", "goal", "unit"),
            [(r.name, f"{r.value:.3g}", "" if r.goal is None else f"{'>=' if r.better == 'higher' else '<='} {r.goal:g}", r.unit) for r in rows],
        )  # fmt: skip
        found[name] = rows
    summarise(Location.of(settings.workspace) / "reports", settings.page)
    return found


def summarise(reports: Location, page: str) -> None:
    """Table and plot of all subjects that have a report; the table also into the page, if there is one."""
    files = {name: reports / f"benchmark-{name}.json" for name in SUBJECTS}
    there = {name: file.read_json() for name, file in files.items() if file.is_file()}
    written = summary.table(there)
    (reports / "benchmark.md").write_bytes(written.encode())
    (reports / "benchmark.svg").write_bytes(summary.plot(there))
    if page:
        Path(page).write_text(summary.replaced(Path(page).read_text(encoding="utf-8"), written), encoding="utf-8")


def entry(argv: list[str] | None = None) -> int:
    """Exit code of the command line; the first argument may name the subject."""
    args = list(sys.argv[1:] if argv is None else argv)
    if args and not args[0].startswith("-"):
        args = ["--subject", args[0], *args[1:]]
    return main(BenchmarkSettings, benchmark, prog="python -m jobs.benchmark", doc=__doc__, argv=args)


if __name__ == "__main__":
    sys.exit(entry())
