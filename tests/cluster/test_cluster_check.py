"""What a job says of nodes that it can't use, before it starts: sentences on made-up answers, and on a cluster that has such nodes."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from kill_drill import arguments
from raylets import ROOT, Raylets, can_run, raylets

from fashion_dml import __version__
from fashion_dml.storage import Location, UserError
from jobs.cluster_check import PACKAGES, code_digest, look, outlives_the_job, problem

WELL = {"node": "10.0.0.7", "version": __version__, "code": code_digest(), "reach": ""}
SMALL = ["--ingest.generated.products_per_vertical", "4", "--ingest.generated.verticals", "1", "--ingest.min_row_groups", "1"]
IMAGE = "start all nodes from one image, or submit the job with `--working-dir .`."


@pytest.mark.parametrize(
    ("answer", "workspace", "said"),
    [
        ({"missing": "No module named 'jobs'"}, "/w", f"The node 10.0.0.7 can't import this project (No module named 'jobs'): {IMAGE}"),
        ({"version": "0.0.9"}, "/w", f"The node 10.0.0.7 has fashion-dml 0.0.9, this job {__version__}: {IMAGE}"),
        ({"code": "0" * 16}, "/w", f"The node 10.0.0.7 has other code of fashion-dml {__version__} than this job: {IMAGE}"),
        ({"reach": "there is no such place"}, "/w", "The node 10.0.0.7 can't reach the workspace /w, which is a path of this machine (there is no"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_node(answer: dict[str, Any], workspace: str, said: str) -> None:
    assert said in problem({**WELL, **answer}, Location.of(workspace))


def test_a_node_that_is_well(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    mark.write_bytes(b"")
    assert problem(look(str(mark)), Location.of(tmp_path)) == ""
    assert look(str(tmp_path / "other"))["reach"] == "there is no such place"
    assert "other" in look("nowhere://other")["reach"]


def test_a_workspace_that_goes_with_the_job() -> None:
    copy = Path("/tmp/ray/session_1/runtime_resources/working_dir_files/_ray_pkg_0f")
    with pytest.raises(
        UserError, match=r"_0f/run is in the copy of the working directory .* an absolute path, or an object store"
    ):
        outlives_the_job(f"{copy}/run", copy)
    for workspace, here in ((f"{copy}/run", Path("/home/me")), ("/data/run", copy), ("s3://bucket/run", copy)):
        outlives_the_job(workspace, here)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raylets]:
    home = tmp_path_factory.mktemp("skew")
    old = home / "old"
    for package in PACKAGES:
        shutil.copytree(ROOT / package, old / package, ignore=shutil.ignore_patterns("__pycache__"))
    init = old / "fashion_dml" / "__init__.py"
    init.write_text(init.read_text().replace(f'"{__version__}"', '"0.0.1"'))
    # Workers look where the driver looks, so the old package must lie at the same place, which takes a mount of its own.
    inside = ("unshare", "--mount", "sh", "-c", f'mount --bind {old}/fashion_dml {ROOT}/fashion_dml && exec "$0" "$@"')
    if not can_run(inside):
        pytest.skip("mounts of its own need root")
    with raylets(home, {"new": {"cpus": 1}, "old": {"cpus": 1, "inside": inside}}) as made:
        yield made


def run(cluster: Raylets, workspace: Path, *more: str, **env: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "jobs.ingest", "generated", "--workspace", str(workspace), *more]
    return subprocess.run(
        command,
        cwd=ROOT,
        env=cluster.env | {"RAY_ADDRESS": cluster.address} | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def last(done: subprocess.CompletedProcess[str]) -> str:
    return next(line for line in reversed(done.stderr.splitlines()) if line.startswith("error: "))


@pytest.mark.slow
@pytest.mark.cluster
def test_a_node_of_another_version_is_named(cluster: Raylets, tmp_path: Path) -> None:
    done = run(cluster, tmp_path)
    assert done.returncode == 2, done.stderr
    said = last(done).split(" has ", 1)  # the address is the machine's own
    assert said[0].startswith("error: The node ")
    assert said[1] == f"fashion-dml 0.0.1, this job {__version__}: {IMAGE}"
    assert not (tmp_path / "dataset" / "manifest.json").exists()
    assert not list(tmp_path.glob(".reach-*"))


@pytest.mark.slow
@pytest.mark.cluster
def test_a_submitted_job_brings_its_code_to_every_node(cluster: Raylets, tmp_path: Path) -> None:
    code, said = cluster.job("-m", "jobs.ingest", "generated", "--workspace", str(tmp_path), *SMALL, log=tmp_path / "job.log")
    assert code == 0, said


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"RAY_AUTH_TOKEN": "stale" * 8}, "refuses this job's token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH"),
        ({"RAY_ADDRESS": "http://127.0.0.1:8265"}, "error: RAY_ADDRESS is http://127.0.0.1:8265, where jobs are submitted: run this by `ray job submit"),
        ({"RAY_ADDRESS": "127.0.0.1:9"}, "error: No cluster answers at 127.0.0.1:9 (Connection refused): start one there, or unset RAY_ADDRESS"),
    ],
)  # fmt: skip
def test_a_cluster_that_does_not_let_it_in(env: dict[str, str], said: str, cluster: Raylets, tmp_path: Path) -> None:
    done = run(cluster, tmp_path, **env)
    assert done.returncode == 2, done.stderr
    assert said in last(done)


@pytest.mark.slow
@pytest.mark.cluster
def test_gpus_that_are_not_there_and_too_small_a_cluster(cluster: Raylets, tmp_path: Path) -> None:
    cluster.job("-m", "jobs.ingest", "generated", "--workspace", str(tmp_path), *SMALL, log=tmp_path / "ingest.log")
    for asks, said in (
        ({"cluster.gpus_per_worker": 1}, "2 workers x 1 GPUs = 2, but the cluster has 0 GPUs at most: lower"),
        (
            {"cluster.workers": 9},
            "9 workers x 0.5 CPUs = 4.5, and Ray Data needs 0.25 more, but the cluster has 2 CPUs at most",
        ),
        ({"cluster.train_labels": "{role: train}"}, "The cluster has no node with role = train, and no autoscaler"),
    ):
        code, text = cluster.job(
            "-m", "jobs.train_specialists", "--workspace", str(tmp_path), *arguments(asks), log=tmp_path / "job.log"
        )
        assert code == 1
        assert said in text
