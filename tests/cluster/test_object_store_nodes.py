"""The whole pipeline with its workspace at s3://, on two raylets that see no file of each other's."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from raylets import can_run, raylets
from s3_server import s3_server
from test_node_drills import TINY

from fashion_dml.storage import Location, read_manifest

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
PRIVATE = ("unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /tmp && exec "$0" "$@"')
"""Runs a command with a /tmp of its own, where Ray, this test and all temporary files lie."""
NODES: dict[str, dict[str, Any]] = {
    "data": {"cpus": 1, "labels": {"role": "data"}, "inside": PRIVATE}, "train": {"cpus": 1, "labels": {"role": "train"}, "inside": PRIVATE},
}  # fmt: skip


def aws(env: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.startswith("AWS_")}


@pytest.mark.skipif(not can_run(PRIVATE), reason="mounts of its own need root")
@pytest.mark.skipif(sys.executable.startswith("/tmp/"), reason="the environment lies in /tmp, which the nodes don't see")
def test_nodes_that_share_no_path_share_the_object_store(tmp_path: Path) -> None:
    config = tmp_path / "tiny.yaml"
    config.write_text(yaml.safe_dump(TINY))
    with s3_server(tmp_path) as (env, filesystem), raylets(tmp_path, NODES, aws(env)) as cluster:
        command = ["-m", "jobs.pipeline", "--config", str(config)]
        code, said = cluster.job(*command, "--workspace", str(tmp_path / "local"), log=tmp_path / "refused.log")
        assert code == 1
        assert f"can't reach the workspace {tmp_path}/local" in said
        assert "which is a path of this machine (there is no such place): use an object store (s3://, gs://)" in said
        assert not [p for p in (tmp_path / "local").rglob("*") if p.is_file()]

        code, said = cluster.job(*command, "--workspace", "s3://bucket/run", log=tmp_path / "job.log")
        assert code == 0, said
        assert "all stages complete" in said
        run = Location(filesystem, "bucket/run", "s3")
        for name in ("dataset", "specialists/joint/model", "teachers", "unified/model"):
            assert read_manifest(run / name), name
        version = (run / "index" / "CURRENT").read_bytes().decode().strip()
        assert read_manifest(run / "index" / "versions" / version)
