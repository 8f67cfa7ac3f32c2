"""The pipeline on three labelled raylets: each part runs where its labels say, and a node that dies in any stage changes nothing."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml
from drawn import shop_rows, write_shop
from raylets import ROOT, Raylets, local, raylets, running, until

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
MINI = ROOT.parent / "shared" / "data" / "hm_mini.tar"
NODES: dict[str, dict[str, Any]] = {
    "data": {"cpus": 1, "labels": {"role": "data", "serves": "yes"}},
    "train": {"cpus": 1, "labels": {"role": "train"}},
    "serve": {"cpus": 1, "labels": {"role": "serve", "serves": "yes"}},
}
TINY: dict[str, Any] = {
    "ingest": {"short_side": 48, "shards": 4, "min_row_groups": 4, "validation_share": 0.2},
    "data": {"height": 32, "width": 32, "decode": "task"},
    "model": {"trunk": "test_efficientnet", "weights": "none", "dim": 16},
    "specialists": {
        "epochs": 1, "min_steps": 60, "max_steps": 60, "joint_steps": 60, "products_per_batch": 4, "validate_every": 60, "checkpoint_every": 10,
    },
    "distill": {"steps": 60, "images_per_batch": 16, "validate_every": 60, "checkpoint_every": 10},
    "embed": {"batch_images": 16},
    "evaluate": {"bootstrap": 20, "sheets": 1, "map": 0},
    "index": {"shards": 4, "thumbnail_side": 48},
    "cluster": {"workers": 2, "cpus_per_worker": 0.5, "train_labels": {"role": "train"}, "data_labels": {"role": "data"}},
    "serve": {"shard_replicas": 2, "shard_cpus": 0.1, "ingress_cpus": 0.1, "labels": {"serves": "yes"}},
}  # fmt: skip
STAGES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "ingest": ("data", ("dataset",), "dataset/images/*/*/part-*"),
    "train_specialists": ("train", ("specialists",), "specialists/*/last/manifest.json"),
    "embed": ("train", ("embeddings", "teachers"), "embeddings/*/*/*/part-*"),
    "distill": ("train", ("unified",), "unified/last/manifest.json"),
    "build_index": ("data", ("index",), "index/versions/*/shard-*"),
}
"""Stage -> the node that dies, what the stage makes, and a file that says that it is under way."""


def digests(workspace: Path, made: tuple[str, ...]) -> dict[str, str]:
    """File -> sha256 of what a stage made, but for what tells of time: manifests, checkpoints, logs, the index's name."""
    found = {}
    for name in made:
        for file in (workspace / name).rglob("*"):
            path = file.relative_to(workspace)
            if (
                file.is_file()
                and file.suffix != ".json"
                and not {"logs", "last", "best"} & set(path.parts)
                and file.name not in ("CURRENT", "curve.parquet")
            ):
                where = "/".join("version" if part[:2] == "20" and "T" in part else part for part in path.parts)
                found[where] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("nodes")
    (home / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    return home


@pytest.fixture(scope="module")
def photos(home: Path) -> str:
    """hm_mini where it is, else a shop of drawn photos."""
    return str(MINI if MINI.exists() else write_shop(home / "shop", shop_rows()))


@pytest.fixture(scope="module")
def cluster(home: Path) -> Iterator[Raylets]:
    with raylets(home, NODES) as made:
        yield made


@pytest.fixture(scope="module")
def alone(cluster: Raylets, home: Path, photos: str) -> Path:
    """The workspace of a pipeline that nothing disturbed."""
    workspace = home / "alone"
    command = ["-m", "jobs.pipeline", "--config", str(home / "tiny.yaml"), "--kind", "folder", "--source", photos]
    code, said = cluster.job(*command, "--workspace", str(workspace), log=home / "alone.log")
    assert code == 0, said
    return workspace


def test_each_part_runs_where_its_labels_say(cluster: Raylets, alone: Path) -> None:
    roles = {n["node_id"]: n["labels"].get("role", "head") for n in cluster.living()}
    where: dict[str, set[str]] = {}
    for kind in ("tasks", "actors"):
        for one in cluster.state(kind):
            if one["node_id"]:
                where.setdefault(one.get("name") or one["class_name"], set()).add(roles[one["node_id"]])
                where.setdefault(one.get("class_name") or one["name"], set()).add(roles[one["node_id"]])
    seen = {
        name: roles for name, roles in where.items() if "Read" in name or name in ("RayTrainWorker", "shard_task", "train_task")
    }
    assert where["RayTrainWorker"] == {"train"}, where
    assert where["shard_task"] == {"data"}, where
    reads = {name: roles for name, roles in seen.items() if "ReadTaskSource" in name}
    assert reads, where
    assert set().union(*reads.values()) == {"data"}, reads
    embeds = {name: roles for name, roles in where.items() if "EmbedActor" in name}
    assert embeds, where
    assert set().union(*embeds.values()) == {"train"}, embeds


@pytest.mark.parametrize("stage", STAGES)
def test_a_node_that_dies_changes_nothing(stage: str, cluster: Raylets, alone: Path, home: Path, photos: str) -> None:
    """SIGKILL of the node's raylet while its stage is under way; another node like it comes, as an autoscaler brings it."""
    victim, made, sign = STAGES[stage]
    workspace = home / stage
    names = list(STAGES)
    for earlier in names[: names.index(stage)]:
        for name in STAGES[earlier][1]:
            shutil.copytree(alone / name, workspace / name)
    command = ["-m", f"jobs.{stage}", "--config", str(home / "tiny.yaml"), "--workspace", str(workspace)]
    if stage == "ingest":
        command[2:2] = ["folder", "--source", photos]
    log = home / f"{stage}.log"
    with cluster.submitted(*command, log=log) as job:

        def begun() -> bool:
            assert job.poll() is None, log.read_text()
            return any(workspace.glob(sign))

        until(begun, what=f"{stage} is under way")
        assert job.poll() is None, f"{stage} had ended before its node died:\n{log.read_text()}"
        cluster.kill(victim)
        cluster.add(victim, **NODES[victim])
        assert job.wait(400) == 0, log.read_text()
    found, expected = digests(workspace, made), digests(alone, made)
    if stage == "embed":  # later stages embed with other models, and other splits
        models = {name.split("/")[1] for name in found}
        expected = {name: d for name, d in expected.items() if name.split("/")[1] in models and "split=train" in name}
    assert found == expected
    assert found
    assert not [p for p in workspace.rglob("*") if "partial" in p.name]


def test_shards_lie_on_two_nodes_and_outlive_one(cluster: Raylets, alone: Path, home: Path) -> None:
    port = local.free_ports(1)[0]
    argv = [
        sys.executable,
        "-m",
        "jobs.serve",
        "--config",
        str(home / "tiny.yaml"),
        "--workspace",
        str(alone),
        "--serve.port",
        str(port),
    ]
    env = {**cluster.env, "RAY_ADDRESS": cluster.address}
    with (
        running(argv, env, home / "serve.log") as service,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):

        def ready() -> bool:
            assert service.poll() is None, (home / "serve.log").read_text()
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        until(ready, what="the service answers")
        roles = {n["node_id"]: n["labels"].get("role", "head") for n in cluster.living()}
        shards = [a for a in cluster.state("actors") if a["class_name"] == "ShardActor" and a["state"] == "ALIVE"]
        assert len(shards) == 8
        assert {roles[a["node_id"]] for a in shards} == {"data", "serve"}
        item = json.loads(client.get("/v1/index").text)["items"]
        vector = [1.0] + [0.0] * 15

        def ask() -> httpx.Response:
            return client.post("/v1/search", json={"vector": vector, "k": 5})

        before = ask().json()
        assert (before["coverage"], item > 0) == (1, True)
        gone = next(a for a in shards if roles[a["node_id"]] == "serve")
        cluster.kill("serve")
        after = [ask() for _ in range(20)]
        cluster.add("serve", **NODES["serve"])
        until(lambda: client.get("/readyz").status_code == 200, what="all replicas are back")
        assert [a.status_code for a in after] == [200] * 20, gone
        assert {a.json()["coverage"] for a in after} == {1.0}
        assert all(a.json()["results"] == before["results"] for a in after)
