"""A cluster of several raylets on this machine, jobs submitted to it, and nodes that die."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import psutil
from s3_server import running

ROOT = Path(__file__).parents[2]
SECONDS = 300.0
STARTED = "Ray runtime started"
STARTS = 3  # `ray start` gives up where one call to the head takes 30 seconds, as happens on a busy machine


def _local() -> ModuleType:
    spec = importlib.util.spec_from_file_location("cluster_local", ROOT / "cluster" / "local.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


local = _local()


def until(true: Callable[[], Any], seconds: float = SECONDS, what: str = "") -> Any:
    """Poll until `true()` is; its value."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"still not true after {seconds} s: {what}"
        time.sleep(0.05)
    return value


def can_run(inside: tuple[str, ...]) -> bool:
    """Whether this user may run commands inside such another, as `unshare --mount`."""
    return subprocess.run([*inside, "true"], capture_output=True, check=False).returncode == 0


@dataclass
class Raylets:
    """A running cluster; `nodes` by name."""

    env: dict[str, str]
    address: str
    dashboard: str
    home: Path
    nodes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)

    def add(self, name: str, inside: tuple[str, ...] = (), env: dict[str, str] | None = None, **spec: Any) -> None:
        """Start a node with these labels and resources, and wait until it has joined."""
        for _ in range(STARTS):
            before, log = len(self.living()), self.home / f"{name}-{time.monotonic_ns()}.log"
            spec_of = local.NodeSpec(**{"store_mb": 100, **spec})
            process = local.start_node(self.env | (env or {}), self.address, spec_of, log, inside)
            until(lambda p=process, f=log: p.poll() is not None or STARTED in f.read_text(), what=f"{name} starts")
            if process.poll() is None:
                self.nodes[name] = process
                until(lambda b=before: len(self.living()) > b, what=f"{name} joins")
                return
            until(lambda b=before: len(self.living()) <= b, what=f"{name} is gone")
        raise AssertionError(f"{name} didn't start:\n{log.read_text()}")

    def kill(self, name: str) -> None:
        """SIGKILL of the node's raylet, as when a machine is taken away; returns when the cluster knows."""
        before = len(self.living())
        process = self.nodes.pop(name)
        for child in psutil.Process(process.pid).children(recursive=True):
            if child.name() == "raylet":
                child.kill()
        process.wait(60)
        until(lambda: len(self.living()) < before, what=f"{name} is gone")

    def state(self, kind: str) -> list[dict[str, Any]]:
        """What Ray's state API tells of nodes, actors or tasks."""
        request = urllib.request.Request(
            f"{self.dashboard}/api/v0/{kind}?detail=1&limit=10000",
            headers={"Authorization": f"Bearer {self.env['RAY_AUTH_TOKEN']}"},
        )
        with urllib.request.urlopen(request, timeout=30) as reply:
            return list(json.load(reply)["data"]["result"]["result"])

    def living(self) -> list[dict[str, Any]]:
        return [n for n in self.state("nodes") if n["state"] == "ALIVE"]

    @contextmanager
    def submitted(self, *command: str, log: Path, job_id: str = "") -> Iterator[subprocess.Popen[bytes]]:
        """`ray job submit --working-dir . -- python ...`, gone at the end."""
        named = ["--submission-id", job_id] if job_id else []
        argv = [
            str(local.BIN / "ray"),
            "job",
            "submit",
            "--address",
            self.dashboard,
            "--working-dir",
            str(ROOT),
            *named,
            "--",
            "python",
            *command,
        ]
        with running(argv, self.env, log) as process:
            yield process

    def job(self, *command: str, log: Path, job_id: str = "", seconds: float = 600) -> tuple[int, str]:
        """(exit code, all it said) of a submitted job that ends by itself."""
        with self.submitted(*command, log=log, job_id=job_id) as process:
            return process.wait(seconds), log.read_text()

    def ray(self, *command: str) -> subprocess.CompletedProcess[str]:
        """A command of Ray's, as `job stop ID`."""
        argv = [str(local.BIN / "ray"), *command]
        return subprocess.run(
            argv, env={**self.env, "RAY_ADDRESS": self.dashboard}, capture_output=True, text=True, check=False
        )


@contextmanager
def raylets(
    home: Path, nodes: dict[str, dict[str, Any]], env: dict[str, str] | None = None, grow: Sequence[dict[str, Any]] = ()
) -> Iterator[Raylets]:
    """A head without CPUs and these nodes; all gone at the end."""
    clean = {k: v for k, v in local.environment().items() if not k.startswith("AWS_")} | (env or {})
    clean.pop("RAY_ADDRESS", None)
    head, address, dashboard = local.start_head(
        clean, home / "head.log", "--num-cpus=0", f"--object-store-memory={100 << 20}",
        grow=[local.NodeSpec(**{"store_mb": 100, **spec}) for spec in grow], idle_minutes=0.1,
    )  # fmt: skip
    cluster = Raylets(clean, address, dashboard, home)
    try:
        for name, spec in nodes.items():
            cluster.add(name, **spec)
        yield cluster
    finally:
        for process in [*cluster.nodes.values(), head]:
            local.stop(process)
