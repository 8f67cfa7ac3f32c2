"""What a job's command line loads before there is anything to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HEAVY = {"torch", "timm", "torchvision", "matplotlib", "onnxruntime"}
JOBS = sorted(f.stem for f in (Path(__file__).parents[2] / "jobs").glob("*.py") if f.stem != "__init__")


def test_help_and_refusals_wait_for_no_torch() -> None:
    code = f"import sys; from jobs import {', '.join(JOBS)}; print(*{HEAVY!r} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
