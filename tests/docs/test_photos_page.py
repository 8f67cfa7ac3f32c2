"""docs/photos.md runs as written: its commands, one after the other, in a copy of the project's directory."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import free_port

ROOT = Path(__file__).parents[2]
PARTS = ("fashion_dml", "jobs", "serve", "docs")
PORT = "8000"


@pytest.mark.slow
@pytest.mark.cluster
def test_the_page_runs_from_the_top_to_the_end(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "photos.md").read_text(encoding="utf-8")
    commands = "\n".join(re.findall(r"^```sh\n(.*?)^```", page, re.S | re.M)).replace(PORT, str(free_port()))
    assert commands.count("python -m jobs.") > 5
    for part in PARTS:
        shutil.copytree(ROOT / part, tmp_path / part)
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parent.parent)
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "FASHION_DML_"))}
    done = subprocess.run(
        ["bash", "-e", "-c", commands], cwd=tmp_path, env=env, capture_output=True, text=True, check=False, timeout=1800
    )
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    assert (tmp_path / "run" / "export" / "model.onnx").is_file()
    assert '"results"' in done.stdout
