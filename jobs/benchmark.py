"""Measure this machine: every figure against its limit or its peers, measured in the same run.

    python -m jobs.benchmark stream --workspace workspace
    python -m jobs.benchmark losses        (only stream needs Ray)
    python -m jobs.benchmark               (all)

Writes `reports/benchmark-NAME.json` for each subject, and a table and a plot of all that are there, `reports/benchmark.md` and `.svg`.
"""

from __future__ import annotations

import importlib
import subprocess
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
from jobs.benchmarks.machine import machine
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
    plot: str = Field("", description="SVG file that gets the plot too")


def measured(subject: str, workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """Rows of a subject, by the `run` of its file (index-large: `run_large` of that of index), and what else it tells."""
    name, _, variant = subject.partition("-")
    module = importlib.import_module(f"jobs.benchmarks.{name}")  # one at a time: peers are imported too
    found: tuple[list[Row], dict[str, Any]] = getattr(module, f"run_{variant}" if variant else "run")(workspace)
    return found


def benchmark(settings: BenchmarkSettings) -> None:
    """Measure and report. All: each subject in a process of its own, so that none finds another's memory, threads or Ray.

    Raises UserError where a subject failed, after the others.
    """
    if settings.subject not in ("all", *SUBJECTS):
        raise UserError(f"There is no benchmark {settings.subject!r}; known are {', '.join(SUBJECTS)}.")
    if settings.page:
        if not Path(settings.page).is_file():
            raise UserError(f"page = {settings.page} is no file; give a markdown file with the benchmark's marks.")
        summary.replaced(Path(settings.page).read_text(encoding="utf-8"), "")  # refused before hours of work
    if settings.plot and not Path(settings.plot).parent.is_dir():
        raise UserError(f"plot = {settings.plot} is in no directory that is there; make it, or give another file.")
    failed = []
    if settings.subject == "all":
        for name in SUBJECTS:
            command = [sys.executable, "-m", "jobs.benchmark", name, "--workspace", settings.workspace]
            if subprocess.run(command, check=False).returncode:
                failed.append(name)
    else:
        one(settings.subject, settings.workspace)
    page, plot = ("", "") if failed else (settings.page, settings.plot)  # a page with some of the figures would look whole
    summarise(Location.of(settings.workspace) / "reports", page, plot)
    if failed:
        raise UserError(
            f"No figures of {', '.join(failed)}, see above; the others are in {settings.workspace}/reports, no page was written."
        )


def one(name: str, workspace: str) -> None:
    """Measure a subject and write its report."""
    if name in WITH_RAY:
        connect()
    began = time.monotonic()
    rows, details = measured(name, workspace)
    (Location.of(workspace) / "reports" / f"benchmark-{name}.json").write_json({
        "machine": machine(),
        "versions": {p: version(p) for p in ("fashion-dml", "ray", "torch", "pyarrow", "numpy")},
        "rows": [asdict(r) for r in rows], "details": details, "seconds": round(time.monotonic() - began, 1),
    })  # fmt: skip
    print_table(
        f"benchmark {name}", ("row", "value", "goal", "unit"),
        [(r.name, f"{r.value:.3g}", "" if r.goal is None else f"{'>=' if r.better == 'higher' else '<='} {r.goal:g}", r.unit) for r in rows],
    )  # fmt: skip


def summarise(reports: Location, page: str, plot: str) -> None:
    """Table and plot of all subjects that have a report; the table also into a page, the plot into a file, where there are any."""
    files = {name: reports / f"benchmark-{name}.json" for name in SUBJECTS}
    there = {name: file.read_json() for name, file in files.items() if file.is_file()}
    written = summary.table(there)
    (reports / "benchmark.md").write_bytes(written.encode())
    drawn = summary.plot(there)
    (reports / "benchmark.svg").write_bytes(drawn)
    if plot:
        Path(plot).write_bytes(drawn)
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
