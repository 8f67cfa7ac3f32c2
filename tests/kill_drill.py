"""A run of specialists as a process of its own, and what can be seen of it from outside."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[1]
WORKER = "ray::RayTrainWorker"
ARGUMENTS = {
    "data.height": 32, "data.width": 32, "data.executor": "threads", "data.lanes": 2, "model.trunk": "test_efficientnet",
    "model.weights": "none", "model.dim": 16, "specialists.products_per_batch": 4, "specialists.epochs": 1,
    "specialists.min_steps": 200, "specialists.checkpoint_every": 10, "specialists.validate_every": 50, "cluster.workers": 2,
}  # fmt: skip


def until(true: Callable[[], Any], process: subprocess.Popen[bytes], seconds: float = 300) -> Any:
    """Poll until `true()` is, while the process lives; its value."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert process.poll() is None, f"the job ended with {process.returncode} before that"
        assert time.monotonic() < end, f"still not true after {seconds} s"
        time.sleep(0.02)
    return value


def arguments(changes: dict[str, Any]) -> list[str]:
    return [text for name, value in {**ARGUMENTS, **changes}.items() for text in (f"--{name}", str(value))]


def start(workspace: Path, log: Path, environment: dict[str, str] | None = None, **changes: Any) -> subprocess.Popen[bytes]:
    """`python -m jobs.train_specialists`; with a Ray of its own unless `environment` names one."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")} | (environment or {})
    with log.open("wb") as stream:
        return subprocess.Popen(
            [sys.executable, "-m", "jobs.train_specialists", "--workspace", str(workspace), *arguments(changes)],
            cwd=ROOT, env=clean, stdout=stream, stderr=subprocess.STDOUT,
        )  # fmt: skip


def training_workers(job: subprocess.Popen[bytes]) -> list[psutil.Process]:
    """The processes of this job, and no other's, in which trainings run."""
    found = []
    for process in psutil.Process(job.pid).children(recursive=True):
        try:
            if process.cmdline()[:1] and process.cmdline()[0].startswith(WORKER):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found


def weights(workspace: Path) -> dict[str, str]:
    """Training -> sha256 of its published weights."""
    files = (workspace / "specialists").glob("*/model/model.safetensors")
    return {f.parents[1].name: hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def steps_done(workspace: Path) -> int:
    """Steps of all trainings that are in a checkpoint."""
    manifests = (workspace / "specialists").glob("*/last/manifest.json")
    return sum(json.loads(m.read_text())["step"] for m in manifests)


def reached(workspace: Path, steps: int) -> bool:
    return steps_done(workspace) >= steps


def new_group(job: subprocess.Popen[bytes], seen: set[int]) -> list[psutil.Process]:
    """Both workers of a group that isn't in `seen`; none while it starts."""
    group = [p for p in training_workers(job) if p.pid not in seen]
    return group if len(group) == 2 else []


def undisturbed(workspace: Path, log: Path, **changes: Any) -> None:
    """The same run, left alone to its end."""
    job = start(workspace, log, **changes)
    try:
        assert job.wait(900) == 0, log.read_text()
    finally:
        job.kill()
