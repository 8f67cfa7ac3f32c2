"""Every process of the service is killed under load: no hang, no wrong answer, coverage told truly, all back."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from jobs.benchmarks.drills import KINDS

pytestmark = [pytest.mark.slow, pytest.mark.serve, pytest.mark.cluster]
ROOT = Path(__file__).parents[2]


def test_the_service_survives_its_processes() -> None:
    """Once each here; `python -m jobs.benchmarks.drills` kills each five times."""
    done = subprocess.run(
        [sys.executable, "-m", "jobs.benchmarks.drills", "--times", "1"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    rows = [json.loads(line) for line in done.stdout.splitlines() if line.startswith('{"drill"')]
    assert [row["drill"] for row in rows] == list(KINDS), done.stderr[-3000:]
    assert not [row["problems"] for row in rows if row["problems"]]
    assert done.returncode == 0, done.stderr[-3000:]
