"""How long a specialists' run takes, how idle its devices are, and what it costs: arithmetic on measured costs, no Ray.

Trainings go to teams longest first, as `training/queue.py` hands them out. All that are under way share the cores of the training
nodes, the cores that decode, and each node its network, in equal parts; a step takes as long as the slowest of

- the device: `step_s` + `image_s` x the worker's images, and in a team the all-reduce of the gradient, 2 (r - 1) / r of its bytes;
- the CPU work of all trainings under way on the training nodes' cores;
- the decoding of all trainings under way on the cores that decode;
- the worker's images through its share of the node's network.

Left out: nodes that go, checkpoints larger than the fixed cost of a training allows for, stragglers, and evaluation. So a prediction is
what the arithmetic allows, not what a busy cloud gives.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from fashion_dml.storage import UserError


@dataclass(frozen=True)
class Costs:
    """What a training costs. Seconds and bytes; `*_cpu_s` on the training node's own cores, `decode_s` where photos are decoded."""

    image_s: float
    step_s: float = 0.0
    image_cpu_s: float = 0.0
    decode_s: float = 0.0
    fixed_s: float = 0.0  # of a training on a warm worker: model, first batch, publishing
    first_s: float = 0.0  # of a worker's first training beyond that: imports, data pipeline
    start_s: float = 0.0  # from the job to the first training
    gradient_bytes: float = 0.0
    image_bytes: float = 0.0  # of an image on its way to the worker


@dataclass(frozen=True)
class Nodes:
    """What there is. Bytes a second; infinite where a thing doesn't limit."""

    workers: int
    team: int = 1
    cores: float = math.inf  # of all training nodes
    decode_cores: float = math.inf
    link: float = math.inf  # between the workers of a team
    network: float = math.inf  # into a training node, shared by its workers
    workers_of_node: int = 1


@dataclass(frozen=True)
class Predicted:
    """seconds: from the job's start to its end; makespan: without the start; idle: share of the workers' time without device work."""

    seconds: float
    makespan: float
    images_per_s: float
    idle: float


def step_seconds(costs: Costs, nodes: Nodes, images: int, trainings: int) -> float:
    """Seconds of a step of `images` in all, with so many trainings under way."""
    r = nodes.team
    own = images / r
    device = device_seconds(costs, nodes, images) + (2 * (r - 1) / r * costs.gradient_bytes / nodes.link if r > 1 else 0.0)
    cpu = trainings * images * costs.image_cpu_s / nodes.cores
    decode = trainings * images * costs.decode_s / nodes.decode_cores
    network = own * costs.image_bytes * nodes.workers_of_node / nodes.network
    return max(device, cpu, decode, network)


def device_seconds(costs: Costs, nodes: Nodes, images: int) -> float:
    return costs.step_s + costs.image_s * images / nodes.team


def simulate(steps: Sequence[int], images: int, costs: Costs, nodes: Nodes) -> Predicted:
    """A run of trainings of so many steps of `images` each.

    Raises UserError for nodes that can't train or costs that can't be.
    """
    _check(costs, nodes, images)
    waiting = sorted(steps, reverse=True)
    teams = nodes.workers // nodes.team
    fresh = teams  # teams that haven't trained yet
    active: list[list[float]] = []  # [fixed seconds left, steps left]
    now = 0.0
    while waiting or active:
        while waiting and len(active) < teams:
            active.append([costs.fixed_s + (costs.first_s if fresh else 0.0), float(waiting.pop(0))])
            fresh = max(0, fresh - 1)
        busy = len(active) * nodes.team
        fixed_rate = min(1.0, nodes.cores / busy)
        step_rate = 1 / max(step_seconds(costs, nodes, images, len(active)), 1e-12)
        span = min(left / fixed_rate if left > 0 else todo / step_rate for left, todo in active)
        for training in active:
            if training[0] > 0:
                training[0] = max(0.0, training[0] - span * fixed_rate)
            else:
                training[1] = max(0.0, training[1] - span * step_rate)
        now += span
        active = [t for t in active if t[0] > 1e-9 or t[1] > 1e-9]
    total = sum(steps)
    worked = total * device_seconds(costs, nodes, images) * nodes.team
    return Predicted(
        costs.start_s + now, now, total * images / now if now else 0.0, 1 - worked / (now * nodes.workers) if now else 0.0
    )


def _check(costs: Costs, nodes: Nodes, images: int) -> None:
    if nodes.workers < 1 or nodes.team < 1 or nodes.workers < nodes.team:
        raise UserError(f"{nodes.workers} workers make no team of {nodes.team}; give at least one team's workers.")
    if images < nodes.team:
        raise UserError(f"A step of {images} images can't be shared by a team of {nodes.team}; give larger batches.")
    for name, value in vars(costs).items():
        if not value >= 0:
            raise UserError(f"The cost {name} is {value}; it must be 0 or more.")
    for name in ("cores", "decode_cores", "link", "network", "workers_of_node"):
        if not getattr(nodes, name) > 0:
            raise UserError(f"The nodes' {name} is {getattr(nodes, name)}; it must be above 0.")
