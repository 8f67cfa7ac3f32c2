"""The command lines of all jobs: what they load before there is anything to do, and that each has its help."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

NO_COMMANDS = {"common", "dry_run", "index_tasks", "measured_models", "progress", "reference"}
HEAVY = {"torch", "timm", "torchvision", "matplotlib", "onnxruntime"}
JOBS = sorted(f.stem for f in (Path(__file__).parents[2] / "jobs").glob("*.py") if f.stem != "__init__")


def test_help_and_refusals_wait_for_no_torch() -> None:
    code = f"import sys; from jobs import {', '.join(JOBS)}; print(*{HEAVY!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.slow
@pytest.mark.parametrize("job", sorted(set(JOBS) - NO_COMMANDS))
def test_every_job_has_help_with_an_example(job: str) -> None:
    done = subprocess.run([sys.executable, "-m", f"jobs.{job}", "--help"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("usage: python -m jobs.")
    assert len(done.stdout.split("\n\n")[0].splitlines()) <= 2
    assert f"python -m jobs.{job if job != 'verify' else 'ingest verify'} " in done.stdout.split("options:")[0]
    assert "exit status: 0 done" in done.stdout
