"""CPUs that the service of serve/config/cluster.yaml asks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from fashion_dml.config import Settings, read_config, validate
from serve.app import read_settings
from serve.scaling import fewest, most

ROOT = Path(__file__).parents[2]


def config() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "serve" / "config" / "cluster.yaml").read_text())
    return found


def asked(node_cpus: float) -> tuple[float, float]:
    """With the fewest and the most replicas, over the shards of jobs/configs/cluster.yaml; on nodes that they fill without a rest."""
    (application,) = config()["applications"]
    serve = read_settings(application["args"]).serve
    assert (serve.encoder, serve.encoder_gpus, serve.shard_gpus) == ("ingress", 0, 0)
    assert node_cpus % serve.ingress_cpus == serve.ingress_cpus % serve.shard_cpus == 0
    shards = validate(Settings, read_config(str(ROOT / "jobs" / "configs" / "cluster.yaml"))).index.shards
    actors = shards * serve.shard_replicas * serve.shard_cpus
    few, many = (of(serve.ingress_replicas) * serve.ingress_cpus + actors for of in (fewest, most))
    return few, many
