"""`ray job stop` in the middle of a run, and notice that a node will leave: everything is saved, and the result is the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from drawn import small_dataset
from kill_drill import arguments, steps_done, weights
from raylets import raylets, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
NODES: dict[str, dict[str, Any]] = {
    "data": {"cpus": 1, "labels": {"role": "data"}},
    "train": {"cpus": 1, "labels": {"role": "train"}},
}
CHANGES: dict[str, Any] = {
    "cluster.train_labels": "{role: train}", "cluster.data_labels": "{role: data}", "data.executor": "ray",
    "specialists.checkpoint_every": 1000,
}  # fmt: skip


def command(workspace: Path) -> list[str]:
    return ["-m", "jobs.train_specialists", "--workspace", str(workspace), *arguments(CHANGES)]


def test_a_stopped_job_goes_on_to_the_same_result(tmp_path: Path) -> None:
    one, other = tmp_path / "stopped", tmp_path / "alone"
    for workspace in (one, other):
        small_dataset(workspace / "dataset")
    with raylets(tmp_path, NODES) as cluster:
        log = tmp_path / "first.log"
        with cluster.submitted(*command(one), log=log, job_id="first") as job:

            def trains() -> bool:
                assert job.poll() is None, log.read_text()
                return "step 10 of 200" in log.read_text() or any(one.glob("specialists/*/logs/events.*"))

            until(trains, what="trainings are under way")
            assert steps_done(one) == 0  # no checkpoint is due before the end
            assert cluster.ray("job", "stop", "first").returncode == 0
            said = until(lambda: (text := log.read_text()) and "stopped: " in text and text, what="it says that it stopped")
            job.wait(120)
        assert (
            "the run was asked to stop; 0 trainings have ended, the others have written checkpoints. The same command goes on"
            in said
        )
        status = cluster.ray("job", "status", "first")
        assert "Job 'first' was stopped" in status.stdout + status.stderr
        assert 0 < steps_done(one) < 600
        assert set(weights(one)) <= {"initial"}
        for workspace, name in ((one, "second"), (other, "alone")):
            code, said = cluster.job(*command(workspace), log=tmp_path / f"{name}.log")
            assert code == 0, said
    assert len(weights(one)) == 3
    assert weights(one) == weights(other)


def test_a_node_that_gives_notice_takes_no_step_along(tmp_path: Path) -> None:
    """As a spot node: drained with a deadline, gone after it. No checkpoint is due before the end; the notice makes one."""
    one, other = tmp_path / "left", tmp_path / "alone"
    for workspace in (one, other):
        small_dataset(workspace / "dataset")
    with raylets(tmp_path, NODES) as cluster:
        log = tmp_path / "job.log"
        with cluster.submitted(*command(one), log=log) as job:

            def trains() -> bool:
                assert job.poll() is None, log.read_text()
                return any(one.glob("specialists/*/logs/events.*"))

            until(trains, what="trainings are under way")
            assert steps_done(one) == 0
            (node,) = (n["node_id"] for n in cluster.living() if n["labels"].get("role") == "train")
            reason = (
                "--reason",
                "DRAIN_NODE_REASON_PREEMPTION",
                "--reason-message",
                "spot",
                "--deadline-remaining-seconds",
                "20",
            )
            noticed = cluster.ray("drain-node", "--address", cluster.address, "--node-id", node, *reason)
            assert noticed.returncode == 0, noticed.stderr
            until(lambda: steps_done(one) > 0, what="checkpoints are written")
            cluster.kill("train")
            saved = steps_done(one)
            cluster.add("train", **NODES["train"])
            assert job.wait(400) == 0, log.read_text()
        assert 0 < saved < 600
        code, said = cluster.job(*command(other), log=tmp_path / "alone.log")
        assert code == 0, said
    assert len(weights(one)) == 3
    assert weights(one) == weights(other)
