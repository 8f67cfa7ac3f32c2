"""The files for `ray up`: Ray's own schema and checks, and what they promise."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import yaml
from ray.autoscaler._private.util import prepare_config, validate_config

from fashion_dml import __version__
from fashion_dml.config import Settings, read_config, validate

ROOT = Path(__file__).parents[2]
CLOUDS = ("aws", "gcp")
SCHEMA = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())


def written(cloud: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "cluster" / f"{cloud}.yaml").read_text())
    return found


@pytest.mark.parametrize("cloud", CLOUDS)
def test_ray_takes_the_file(cloud: str) -> None:
    jsonschema.validate(written(cloud), SCHEMA)
    prepared = prepare_config(written(cloud))
    validate_config(prepared)
    assert prepared["available_node_types"]["head"]["max_workers"] == 0


@pytest.mark.parametrize("cloud", CLOUDS)
@pytest.mark.parametrize(
    ("place", "value"),
    [(("max_worker",), 3), (("docker", "imagee"), "x"), (("available_node_types", "data", "labels"), ["role"]), (("idle_timeout_minutes",), "5m")],
)  # fmt: skip
def test_what_ray_does_not_know_is_refused(cloud: str, place: tuple[str, ...], value: Any) -> None:
    broken = copy.deepcopy(written(cloud))
    inner = broken
    for name in place[:-1]:
        inner = inner[name]
    inner[place[-1]] = value
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(broken, SCHEMA)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_head_does_no_work_and_workers_come_and_go(cloud: str) -> None:
    config = written(cloud)
    kinds = config["available_node_types"]
    assert kinds["head"]["resources"] == {"CPU": 0, "GPU": 0}
    start = " ".join(config["head_start_ray_commands"])
    assert "--num-cpus=0" in start
    assert config["idle_timeout_minutes"] == 5
    for kind in ("data", "train"):
        assert (kinds[kind]["min_workers"], kinds[kind]["max_workers"] > 1) == (0, True)
    assert kinds["serve"]["min_workers"] == 2
    assert sum(k.get("max_workers", 0) for k in kinds.values()) <= config["max_workers"]


def is_spot(node: dict[str, Any]) -> bool:
    market = node.get("InstanceMarketOptions", {}).get("MarketType")
    return market == "spot" or node.get("scheduling", {}).get("provisioningModel") == "SPOT"


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nodes_that_may_go_are_spot_and_those_that_serve_are_not(cloud: str) -> None:
    kinds = written(cloud)["available_node_types"]
    assert {name for name, kind in kinds.items() if is_spot(kind["node_config"])} == {"data", "train"}


@pytest.mark.parametrize("cloud", CLOUDS)
def test_nothing_listens_to_the_world(cloud: str) -> None:
    config = written(cloud)
    start = " ".join(config["head_start_ray_commands"])
    assert "--dashboard-host=127.0.0.1" in start
    assert "0.0.0.0" not in yaml.safe_dump(config)
    for rule in config["provider"].get("security_group", {}).get("IpPermissions", []):
        assert (rule["FromPort"], rule["ToPort"]) == (22, 22)
    options = config["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    (path,) = (o.partition("=")[2] for o in options if o.startswith("--env RAY_AUTH_TOKEN_PATH="))
    assert path in config["file_mounts"]
    assert not any("token" in o.lower() and "=" in o.partition(" ")[2] and "RAY_AUTH" not in o for o in options), (
        "a secret in a file"
    )


@pytest.mark.parametrize("cloud", CLOUDS)
def test_one_image_of_this_version(cloud: str) -> None:
    config = written(cloud)
    assert config["docker"]["image"].endswith(f"/fashion-dml:{__version__}-cuda")
    assert not {"head_image", "worker_image"} & set(config["docker"])
    assert all("docker" not in kind for kind in config["available_node_types"].values())


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_jobs_settings_choose_nodes_that_are_there(cloud: str) -> None:
    settings = validate(Settings, read_config(str(ROOT / "jobs" / "configs" / "cluster.yaml")))
    kinds = written(cloud)["available_node_types"]
    for labels, kind in (
        (settings.cluster.train_labels, "train"),
        (settings.cluster.data_labels, "data"),
        (settings.serve.labels, "serve"),
    ):
        assert labels == kinds[kind]["labels"]
    train, asks = kinds["train"], settings.cluster
    assert train["resources"]["GPU"] % (asks.team * asks.gpus_per_worker) == 0  # a team lies within a node
    assert asks.most * asks.gpus_per_worker <= train["resources"]["GPU"] * train["max_workers"]
    assert train["resources"]["CPU"] >= train["resources"]["GPU"] / asks.gpus_per_worker * asks.cpus_per_worker
