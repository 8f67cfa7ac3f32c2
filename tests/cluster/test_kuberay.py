"""The objects for Kubernetes: KubeRay's CRD schemas with unknown fields refused, and what the files promise."""

from __future__ import annotations

import copy
import json
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import service_cpus
import yaml
from ray._private import ray_constants
from ray.serve.schema import ServeDeploySchema

from fashion_dml import __version__
from fashion_dml.config import Settings, read_config, validate
from serve import tuning
from serve.app import read_settings

ROOT = Path(__file__).parents[2]
HOME = ROOT / "cluster" / "kuberay"
SCHEMAS = Path(os.environ.get("FASHION_DML_SHARED", ROOT.parent / "shared")) / "schemas" / "kuberay"
OBJECTS: list[dict[str, Any]] = [
    one for file in sorted(HOME.glob("*.yaml")) for one in yaml.safe_load_all(file.read_text()) if file.name != "kustomization.yaml"
]  # fmt: skip
RAY_OBJECTS = [one for one in OBJECTS if one["apiVersion"] == "ray.io/v1"]
needs_schemas = pytest.mark.skipif(not SCHEMAS.exists(), reason="KubeRay's schemas aren't here")


def name_of(one: dict[str, Any]) -> str:
    return f"{one['kind']}/{one['metadata']['name']}"


def closed(schema: Any) -> Any:
    """The schema with every object whose fields are listed closed to others, as the API server's strict checks are."""
    if isinstance(schema, list):
        return [closed(s) for s in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: closed(value) for key, value in schema.items() if key != "format"}
    if isinstance(made.get("properties"), dict) and "additionalProperties" not in made and made.get("type") == "object":
        made["additionalProperties"] = False
    return made


@cache
def checker(kind: str) -> jsonschema.Draft202012Validator:
    return jsonschema.Draft202012Validator(closed(json.loads((SCHEMAS / f"{kind.lower()}_v1.json").read_text())))


def cluster_of(one: dict[str, Any]) -> dict[str, Any] | None:
    spec: dict[str, Any] = one["spec"]
    return spec if one["kind"] == "RayCluster" else spec.get("rayClusterSpec") or spec.get("rayClusterConfig")


CLUSTERS = [cluster for one in RAY_OBJECTS if (cluster := cluster_of(one)) is not None]


def pods() -> Iterator[dict[str, Any]]:
    for cluster in CLUSTERS:
        yield cluster["headGroupSpec"]["template"]
        for group in cluster["workerGroupSpecs"]:
            yield group["template"]
    for one in OBJECTS:
        if one["kind"] == "StatefulSet":
            yield one["spec"]["template"]


@needs_schemas
@pytest.mark.parametrize("one", RAY_OBJECTS, ids=name_of)
def test_kuberay_takes_the_object(one: dict[str, Any]) -> None:
    checker(one["kind"]).validate(one)


@needs_schemas
@pytest.mark.parametrize("one", RAY_OBJECTS, ids=name_of)
def test_an_unknown_field_is_refused(one: dict[str, Any]) -> None:
    def planted(path: tuple[str | int, ...]) -> dict[str, Any]:
        broken = copy.deepcopy(one)
        inner: Any = broken
        for step in path:
            inner = inner[step]
        inner["idleTimeoutSecond"] = 3
        return broken

    paths: list[tuple[str | int, ...]] = [("spec",)]
    for key in ("rayClusterSpec", "rayClusterConfig"):
        if key in one["spec"]:
            paths += [("spec", key, "workerGroupSpecs", 0), ("spec", key, "headGroupSpec", "template", "spec", "containers", 0)]
    if one["kind"] == "RayCluster":
        paths.append(("spec", "workerGroupSpecs", 1, "template", "spec"))
    for path in paths:
        with pytest.raises(jsonschema.ValidationError, match="idleTimeoutSecond"):
            checker(one["kind"]).validate(planted(path))


def test_there_is_a_job_for_every_stage_and_one_for_all() -> None:
    from jobs.pipeline import STAGES

    jobs = {one["metadata"]["labels"].get("stage", "pipeline"): one for one in RAY_OBJECTS if one["kind"] == "RayJob"}
    assert {name.replace("-", "_") for name in jobs} == {*STAGES, "pipeline"}
    (cluster,) = (one for one in RAY_OBJECTS if one["kind"] == "RayCluster")
    for stage, job in jobs.items():
        assert f"python -m jobs.{stage.replace('-', '_')} " in job["spec"]["entrypoint"]
        assert "--config jobs/configs/cluster.yaml" in job["spec"]["entrypoint"]
        if stage != "pipeline":
            assert job["spec"]["clusterSelector"] == {"ray.io/cluster": cluster["metadata"]["name"]}
    assert jobs["pipeline"]["spec"]["rayClusterSpec"] == cluster["spec"]
    assert jobs["pipeline"]["spec"]["shutdownAfterJobFinishes"]


def test_heads_do_no_work_autoscaling_is_v2_and_a_token_is_asked_for() -> None:
    assert len(CLUSTERS) == 3
    for cluster in CLUSTERS:
        assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
        assert cluster["enableInTreeAutoscaling"]
        assert cluster["autoscalerOptions"]["version"] == "v2"
        assert cluster["authOptions"] == {"mode": "token"}
        assert cluster["rayVersion"] == ray.__version__


def test_groups_have_the_labels_that_jobs_and_service_choose_by() -> None:
    settings = validate(Settings, read_config(str(ROOT / "jobs" / "configs" / "cluster.yaml")))
    chosen = [settings.cluster.train_labels, settings.cluster.data_labels, settings.serve.labels]
    for cluster in CLUSTERS:
        for group in cluster["workerGroupSpecs"]:
            assert group["labels"] in chosen
            assert group["labels"]["role"] == group["groupName"] == group["template"]["metadata"]["labels"]["role"]
            assert group["minReplicas"] == group["replicas"] <= group["maxReplicas"]
            spot = "tolerations" in group["template"]["spec"]
            assert spot == (group["groupName"] != "serve")
            assert group["minReplicas"] == (0 if spot else 2)


def test_every_container_has_limits_probes_and_no_privileges() -> None:
    for pod in pods():
        assert pod["spec"]["securityContext"]["runAsNonRoot"]
        for container in pod["spec"]["containers"]:
            for bound in ("requests", "limits"):
                assert {"cpu", "memory"} <= set(container["resources"][bound]), container["name"]
            assert {"livenessProbe", "readinessProbe"} <= set(container)
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert container["securityContext"]["allowPrivilegeEscalation"] is False


def bytes_of(quantity: str) -> int:
    number, unit = quantity[:-2], quantity[-2:]
    return int(number) << {"Mi": 20, "Gi": 30}[unit]


def test_the_object_store_lies_in_memory() -> None:
    """Ray takes a share of the pod's memory for it, and a directory on disk where /dev/shm is smaller."""
    for cluster in CLUSTERS:
        for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
            assert "object-store-memory" not in group["rayStartParams"]
            (container,), (volume,) = (group["template"]["spec"][part] for part in ("containers", "volumes"))
            assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/dev/shm"}]
            memory, shm = (
                bytes_of(size) for size in (container["resources"]["limits"]["memory"], volume["emptyDir"]["sizeLimit"])
            )
            assert ray_constants.DEFAULT_OBJECT_STORE_MEMORY_PROPORTION * memory <= 0.95 * shm < 0.5 * memory
            assert volume["emptyDir"]["medium"] == "Memory"


def test_one_image_of_this_version() -> None:
    images = {c["image"] for pod in pods() for c in pod["spec"]["containers"] if c["name"].startswith("ray")}
    (image,) = images
    assert image.endswith(f"/fashion-dml:{__version__}-cuda")


def test_secrets_come_from_secrets_and_are_told_in_the_docs() -> None:
    page = (ROOT / "docs" / "cluster.md").read_text()
    named = set()

    def look(value: Any) -> None:
        if isinstance(value, dict):
            if "secretKeyRef" in value:
                named.add(value["secretKeyRef"]["name"])
            for inner in value.values():
                look(inner)
        elif isinstance(value, list):
            for inner in value:
                look(inner)

    look(OBJECTS)
    assert named == {"fashion-dml", "fashion-dml-redis"}
    for secret in named:
        assert f"kubectl create secret generic {secret} " in page
    assert not [one for one in OBJECTS if one["kind"] == "Secret"]


def test_the_service_is_one_that_ray_and_we_can_read() -> None:
    (service,) = (one for one in RAY_OBJECTS if one["kind"] == "RayService")
    config = yaml.safe_load(service["spec"]["serveConfigV2"])
    schema = (
        ServeDeploySchema.model_validate(config)
        if hasattr(ServeDeploySchema, "model_validate")
        else ServeDeploySchema.parse_obj(config)
    )
    (application,) = schema.applications
    assert application.import_path == "serve.app:build"
    assert read_settings(dict(application.args)).serve.labels == {"role": "serve"}
    assert config == service_cpus.config()  # one service for all clusters
    cluster = service["spec"]["rayClusterConfig"]
    (group,) = cluster["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    cpus = float(container["resources"]["limits"]["cpu"])
    few, many = service_cpus.asked(cpus)
    assert few <= group["minReplicas"] * cpus
    assert many <= group["maxReplicas"] * cpus
    probe = container["readinessProbe"]  # KubeRay adds its own check of the proxy only where there is no probe
    assert probe["httpGet"] == {"path": "/-/healthz", "port": config["http_options"]["port"]}
    assert probe["failureThreshold"] == 1
    env = {e["name"]: e.get("value") for e in container["env"]}
    assert tuning.NOTICED.items() <= env.items()
    assert cluster["gcsFaultToleranceOptions"]["redisAddress"] == "redis:6379"
    assert service["spec"]["excludeHeadPodFromServeSvc"]


def test_policies_close_what_is_not_asked_for() -> None:
    policies = {one["metadata"]["name"]: one["spec"] for one in OBJECTS if one["kind"] == "NetworkPolicy"}
    assert set(policies) == {"fashion-dml", "fashion-dml-redis"}
    for policy in policies.values():
        assert policy["policyTypes"] == ["Ingress"]
        assert all(rule.get("from") for rule in policy["ingress"])  # none lets everyone in
        assert "ipBlock" not in yaml.safe_dump(policy)
    open_ports = {
        f["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"]: {p["port"] for p in rule["ports"]}
        for rule in policies["fashion-dml"]["ingress"] for f in rule["from"] if "namespaceSelector" in f
    }  # fmt: skip
    assert open_ports == {"ray-system": {8265, 52365}, "ingress-nginx": {8000}, "monitoring": {8080}}
    budgets = {one["metadata"]["name"]: one["spec"] for one in OBJECTS if one["kind"] == "PodDisruptionBudget"}
    assert budgets["fashion-dml-serve"]["selector"]["matchLabels"] == {"app": "fashion-dml", "role": "serve"}


def test_kustomize_lists_files_that_are_there() -> None:
    listed = yaml.safe_load((HOME / "kustomization.yaml").read_text())["resources"]
    assert all((HOME / name).is_file() for name in listed)


def test_jobs_are_told_what_the_autoscaler_may_bring() -> None:
    for cluster in CLUSTERS:
        env = {e["name"]: e for e in cluster["headGroupSpec"]["template"]["spec"]["containers"][0]["env"]}
        told = json.loads(env["FASHION_DML_GROWTH"]["value"])
        groups = cluster["workerGroupSpecs"]
        assert [(g["labels"], g["most"]) for g in told] == [(g["labels"], g["maxReplicas"]) for g in groups]
        for one, group in zip(told, groups, strict=True):
            limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
            assert one["resources"] == {"CPU": int(limits["cpu"])} | (
                {"GPU": int(limits["nvidia.com/gpu"])} if "nvidia.com/gpu" in limits else {}
            )
