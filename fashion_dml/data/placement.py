"""Which nodes of the cluster do what: by their labels, as `ray start --labels` and the files of `cluster/` give them."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from fashion_dml.config import Labels
from fashion_dml.storage import UserError

GROWTH = "FASHION_DML_GROWTH"
"""Environment variable of a job: JSON list of {"resources", "most", "labels"}, the kinds of nodes that an autoscaler may start."""
BOOTSTRAP = Path("~/ray_bootstrap_config.yaml")  # where `ray up` leaves its file, on the head, on which jobs' drivers run


@dataclass(frozen=True)
class Grown:
    """A kind of node that the autoscaler may start, `most` of them."""

    resources: dict[str, float]
    most: int
    labels: Labels = field(default_factory=dict)


def living() -> list[dict[str, Any]]:
    """The nodes that are there, as `ray.nodes()` tells of them."""
    import ray

    return [node for node in ray.nodes() if node["Alive"]]


def growth() -> list[Grown]:
    """What the autoscaler may start, as far as this job is told: Ray itself doesn't say. Empty where there is none.

    Raises UserError where GROWTH can't be read.
    """
    if text := os.environ.get(GROWTH):
        try:
            return [Grown(dict(g["resources"]), int(g["most"]), dict(g.get("labels") or {})) for g in json.loads(text)]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f'{GROWTH} is {text[:80]!r}; give a JSON list of {{"resources", "most", "labels"}}.') from error
    file = BOOTSTRAP.expanduser()
    if not file.is_file():
        return []
    config = yaml.safe_load(file.read_text(encoding="utf-8"))
    kinds = {name: kind for name, kind in config["available_node_types"].items() if name != config["head_node_type"]}
    return [Grown(kind["resources"], int(kind["max_workers"]), kind.get("labels") or {}) for kind in kinds.values()]


def have(labels: Labels, nodes: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those of the nodes that have all these labels."""
    return [node for node in nodes if labels.items() <= node["Labels"].items()]


def may_grow(labels: Labels, grown: list[Grown]) -> list[Grown]:
    """Those kinds of nodes that have all these labels."""
    return [g for g in grown if labels.items() <= g.labels.items()]


def selector(labels: Labels) -> dict[str, Any]:
    """Options that put tasks and actors on nodes with these labels, and nowhere else."""
    return {"label_selector": labels} if labels else {}


def placed(labels: Labels, setting: str) -> dict[str, Any]:
    """`selector`, for the driver of a job. Raises UserError where no node has the labels of `setting` and none can come."""
    if labels and (why := absent(labels, setting, living(), growth())):
        raise UserError(why)
    return selector(labels)


def absent(labels: Labels, setting: str, nodes: list[dict[str, Any]], grown: list[Grown]) -> str:
    """Why nothing can run on nodes with these labels; "" where something can."""
    if have(labels, nodes) or may_grow(labels, grown):
        return ""
    return (
        f"The cluster has no node with {in_words(labels)}, and no autoscaler that is known to bring one: change {setting}, "
        f"or start nodes with `ray start --labels`."
    )


def in_words(labels: Labels) -> str:
    return ", ".join(f"{name} = {value}" for name, value in labels.items())


def told(labels: Labels) -> str:
    """Of sentences: " on nodes with role = train"; empty where any node will do."""
    return f" on nodes with {in_words(labels)}" if labels else ""
