"""`cluster/local.py`: what its arguments mean, and a cluster that grows for a run and shrinks after it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from drawn import small_dataset
from kill_drill import arguments, weights
from ray._private.runtime_env.packaging import get_excludes_from_ignore_files
from raylets import local, raylets, until


def test_nodes_are_read_from_arguments() -> None:
    assert local.NodeSpec.parse("role=train,cpus=2,gpus=0.5,store_mb=80,most=3") == local.NodeSpec(
        2, 0.5, 80, 3, {"role": "train"}
    )
    assert local.NodeSpec.parse("") == local.NodeSpec()
    for wrong in ("role", "=3", "cpus=", "cpus=many"):
        with pytest.raises(ValueError, match=r"NAME=VALUE|could not convert"):
            local.NodeSpec.parse(wrong)


def test_the_token_goes_into_no_upload_commit_or_image() -> None:
    root = Path(__file__).parents[2]
    ignored = get_excludes_from_ignore_files(root, include_gitignore=True)  # `ray job submit --working-dir .`
    assert [any(passes(root / name) for passes in ignored) for name in (local.ENV_FILE, "README.md")] == [True, False]
    assert local.ENV_FILE in (root / ".dockerignore").read_text().split()


GROW = {"cpus": 1, "labels": {"role": "train"}, "most": 2}


@pytest.mark.slow
@pytest.mark.cluster
def test_workers_come_for_a_run_and_go_after_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Ray's autoscaler (v2), whose nodes are raylets here: none at first, two for the specialists, none again."""
    workspace = tmp_path / "w"
    small_dataset(workspace / "dataset")
    changes: dict[str, Any] = {
        "cluster.workers": 2, "cluster.cpus_per_worker": 1, "cluster.train_labels": "{role: train}", "data.executor": "ray",
        "cluster.data_labels": "{role: data}", "specialists.min_steps": 60,
    }  # fmt: skip
    started = time.monotonic()
    with raylets(tmp_path, {"data": {"cpus": 1, "labels": {"role": "data"}}}, grow=[GROW]) as cluster:

        def trainers() -> int:
            return sum(n["labels"].get("role") == "train" for n in cluster.living())

        assert trainers() == 0
        command = ["-m", "jobs.train_specialists", "--workspace", str(workspace), *arguments(changes)]
        log = tmp_path / "job.log"
        asked = time.monotonic()
        with cluster.submitted(*command, log=log) as job:

            def grown() -> bool:
                assert job.poll() is None, log.read_text()
                return trainers() == 2

            until(grown, what="two nodes have come")
            came = time.monotonic()
            assert job.wait(400) == 0, log.read_text()
        ended = time.monotonic()
        until(lambda: trainers() == 0, what="the nodes have gone")
        gone = time.monotonic()
    assert len(weights(workspace)) == 3
    with capsys.disabled():
        print(
            f"\ncluster up {asked - started:.0f} s; two nodes {came - asked:.0f} s after the job was submitted; run ended "
            f"{ended - came:.0f} s later; nodes gone {gone - ended:.0f} s after it (idle timeout 6 s)"
        )


@pytest.mark.slow
@pytest.mark.cluster
def test_more_than_the_autoscaler_may_bring_is_refused(tmp_path: Path) -> None:
    workspace = tmp_path / "w"
    small_dataset(workspace / "dataset")
    with raylets(tmp_path, {}, grow=[GROW]) as cluster:
        asks = {
            "cluster.workers": 3,
            "cluster.cpus_per_worker": 1,
            "cluster.train_labels": "{role: train}",
            "data.executor": "ray",
        }
        code, said = cluster.job(
            "-m", "jobs.train_specialists", "--workspace", str(workspace), *arguments(asks), log=tmp_path / "job.log"
        )
    assert code == 1
    assert (
        "error: 3 workers x 1.0 CPUs = 3, and Ray Data needs 0.25 more, but the cluster has 2 CPUs at most on nodes with role = train"
        in said
    )
