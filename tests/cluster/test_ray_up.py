"""The files for `ray up`: Ray's own schema and checks, and what they promise."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray.autoscaler
import service_cpus
import yaml
from ray.autoscaler._private.aws import config as ray_aws
from ray.autoscaler._private.util import prepare_config, validate_config

from fashion_dml import __version__
from fashion_dml.config import Settings, read_config, validate
from serve import tuning
from serve.auth import READ_TOKEN, WRITE_TOKEN, Tokens

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
    options = config["docker"]["run_options"]
    assert "--env RAY_AUTH_MODE=token" in options
    (path,) = (o.partition("=")[2] for o in options if o.startswith("--env RAY_AUTH_TOKEN_PATH="))
    assert path in config["file_mounts"]
    assert [o for o in options if "token" in o.lower() and "RAY_AUTH" not in o] == []  # a secret in a file


def test_ray_makes_no_security_group() -> None:
    """It would let the world in by SSH."""
    (ssh,) = ray_aws._create_default_ssh_inbound_rules()
    assert ssh["IpRanges"] == [{"CidrIp": "0.0.0.0/0"}]
    config = prepare_config(written("aws"))
    assert "security_group" not in config["provider"]
    assert ray_aws._configure_security_group(copy.deepcopy(config)) == config


def test_nodes_are_in_the_network_whose_rules_the_page_makes() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text().replace("\\\n", "")
    config = written("gcp")
    place = config["provider"]
    for kind in config["available_node_types"].values():
        node = kind["node_config"]
        (interface,), (tag,) = node["networkInterfaces"], node["tags"]["items"]
        *path, network = interface["subnetwork"].split("/")
        assert path == ["projects", place["project_id"], "regions", place["region"], "subnetworks"]
        rules = re.findall(rf"gcloud compute firewall-rules create \S+ --network {network} (.*)$", page, re.M)
        ssh, nodes, search = (rule.split() for rule in rules)
        assert ssh[:5] == ["--allow", "tcp:22", "--target-tags", tag, "--source-ranges"]
        assert nodes == ["--allow", "all", "--target-tags", tag, "--source-tags", tag]
        assert search[:5] == ["--allow", "tcp:8000", "--target-tags", tag, "--source-ranges"]
        assert "0.0.0.0" not in "".join(rules)
        for disk in node["disks"]:
            assert disk["initializeParams"]["diskType"] == f"zones/{place['availability_zone']}/diskTypes/pd-balanced"


def test_images_have_a_driver_for_torchs_cuda() -> None:
    (cuda,) = re.findall(r"^cuda-toolkit==(\d+)", (ROOT / "constraints.txt").read_text(), re.M)
    least = {"12": 525, "13": 580}[cuda]  # NVIDIA's release notes: the oldest driver for a CUDA 12.x or 13.x
    for kind in written("gcp")["available_node_types"].values():
        for disk in kind["node_config"]["disks"]:
            assert int(disk["initializeParams"]["sourceImage"].rpartition("-nvidia-")[2]) >= least
    for kind in written("aws")["available_node_types"].values():
        assert kind["node_config"]["ImageId"] not in ("latest_dlami", *ray_aws.DEFAULT_AMI.values())  # Ray's have CUDA 11
    for page in ("docs/cluster.md", "cluster/aws.yaml", "cluster/gcp.yaml"):
        assert f"driver {least} or newer" in (ROOT / page).read_text(), page


@pytest.mark.parametrize("cloud", CLOUDS)
def test_every_ray_has_the_services_tokens_from_the_file_that_the_page_makes(cloud: str, tmp_path: Path) -> None:
    config = written(cloud)
    page = (ROOT / "docs" / "cluster.md").read_text()
    (written_by,) = re.findall(r"^.*> (~/\.ray/service_tokens)\b", page, re.M)
    (mounted,) = [remote for remote, local in config["file_mounts"].items() if local == written_by]
    (made,) = re.findall(r"^(\(umask .*service_tokens\))", page, re.M)
    file = tmp_path / "service_tokens"
    subprocess.run(["bash", "-e", "-c", made.replace(written_by, str(file))], check=True)
    assert file.stat().st_mode & 0o077 == 0
    for commands in (config["head_start_ray_commands"], config["worker_start_ray_commands"]):
        (start,) = [c for c in commands if "ray start" in c]
        read, ray_start = start.replace(mounted, str(file)).split(" && ")
        assert ray_start.startswith("ray start --")
        told = subprocess.run(["bash", "-e", "-c", f"{read} && env"], capture_output=True, text=True, check=True, env={}).stdout
        tokens = dict(line.split("=", 1) for line in told.splitlines() if line.startswith((WRITE_TOKEN, READ_TOKEN)))
        assert set(tokens) == {WRITE_TOKEN, READ_TOKEN}
        assert len(set(tokens.values())) == 2
        Tokens(tokens)


@pytest.mark.parametrize("cloud", CLOUDS)
def test_the_service_fits_the_nodes_that_serve(cloud: str) -> None:
    (application,) = service_cpus.config()["applications"]
    serving = written(cloud)["available_node_types"]["serve"]
    assert application["args"]["labels"] == serving["labels"]
    few, many = service_cpus.asked(serving["resources"]["CPU"])
    assert few <= serving["min_workers"] * serving["resources"]["CPU"]
    assert many <= serving["max_workers"] * serving["resources"]["CPU"]
    assert "serve deploy serve/config/cluster.yaml" in (ROOT / "docs" / "cluster.md").read_text()


@pytest.mark.parametrize("cloud", CLOUDS)
def test_serve_notices_deaths_as_the_drills_had_it(cloud: str) -> None:
    options = written(cloud)["docker"]["run_options"]
    assert {f"--env {name}={value}" for name, value in tuning.NOTICED.items()} <= set(options)


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
