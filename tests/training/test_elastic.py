"""Elastic workers on real nodes: a run takes in a node that joins, goes on without one that dies, and nothing changes."""

from __future__ import annotations

import json
import os
import shutil
from functools import partial
from pathlib import Path

import psutil
import pytest
from drawn import small_dataset
from kill_drill import reached, start, steps_done, undisturbed, until, weights
from ray.cluster_utils import Cluster

pytestmark = [pytest.mark.slow, pytest.mark.cluster]

STEPS = {"specialists.min_steps": 900, "specialists.validate_every": 500, "cluster.threads_per_worker": 1}
ELASTIC = {"cluster.workers": "[1, 2]", "cluster.cpus_per_worker": 1.5, "cluster.resize_every_s": 1, "cluster.max_failures": -1}


def trainers(count: int, raylets: list[int]) -> bool:
    """Whether so many training workers run under these raylets."""
    children = [p for pid in raylets if psutil.pid_exists(pid) for p in psutil.Process(pid).children(recursive=True)]
    found = 0
    for process in children:
        try:
            found += "RayTrainWorker" in "".join(process.cmdline()[:1])
        except psutil.NoSuchProcess:
            continue
    return found == count


def raylet(node: object) -> int:
    processes = node.all_processes["raylet"]  # type: ignore[attr-defined]
    return int(processes[0].process.pid)


def test_nodes_come_and_go_and_the_models_are_the_same(tmp_path: Path) -> None:
    one, other = tmp_path / "elastic", tmp_path / "alone"
    small_dataset(one / "dataset")
    shutil.copytree(one / "dataset", other / "dataset")
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": True, "dashboard_port": 0})
    try:
        pids = [raylet(cluster.head_node)]
        # The token, too, where an earlier test has set one up for this process.
        environment = {k: v for k, v in os.environ.items() if k.startswith("RAY_AUTH")} | {"RAY_ADDRESS": cluster.address}
        job = start(one, tmp_path / "elastic.log", environment, **STEPS, **ELASTIC)
        try:
            until(partial(reached, one, 100), job)
            assert trainers(1, pids)
            joined = cluster.add_node(num_cpus=2)
            pids.append(raylet(joined))
            until(partial(trainers, 2, pids), job)
            until(partial(reached, one, steps_done(one) + 200), job)
            cluster.remove_node(joined, allow_graceful=False)
            until(partial(trainers, 1, pids[:1]), job)
            assert job.wait(900) == 0, (tmp_path / "elastic.log").read_text()
        finally:
            job.kill()
    finally:
        cluster.shutdown()
    undisturbed(other, tmp_path / "alone.log", **STEPS)
    assert set(weights(one)) == {"joint", "dresses", "tops"}
    assert weights(one) == weights(other)
    report = json.loads((one / "reports" / "train_specialists.json").read_text())
    assert not report["failures"]
