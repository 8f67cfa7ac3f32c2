"""Which nodes of the cluster do what: by their labels, as `ray start --labels` and the files of `cluster/` give them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

Labels = dict[str, str]
UNLIMITED = 1_000_000  # nodes of a group without a maximum


@dataclass(frozen=True)
class Grown:
    """A kind of node that the autoscaler may start, `most` of them; its labels aren't told."""

    resources: dict[str, float]
    most: int


def living() -> list[dict[str, Any]]:
    """The nodes that are there, as `ray.nodes()` tells of them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def growth() -> list[Grown]:
    """What the autoscaler may start; empty where there is none."""
    import ray

    config = ray._private.state.state.get_cluster_config()
    groups = config.node_group_configs if config is not None else ()
    return [Grown(dict(g.resources), g.max_count if g.max_count >= 0 else UNLIMITED) for g in groups if g.max_count]


def placed(labels: Labels) -> dict[str, Any]:
    """Options of tasks and actors that prefer nodes with these labels: they go elsewhere only where there are and will be none."""
    if not labels or not (growth() or any(labels.items() <= node["Labels"].items() for node in living())):
        return {}
    return {"label_selector": labels}


def in_words(labels: Labels) -> str:
    return ", ".join(f"{name} = {value}" for name, value in labels.items()) or "any labels"


def told(labels: Labels) -> str:
    """Of sentences: " on nodes with role = train"; empty where any node will do."""
    return f" on nodes with {in_words(labels)}" if labels else ""
