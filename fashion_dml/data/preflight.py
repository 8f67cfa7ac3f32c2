"""Whether a cluster can hold what a job asks for, and what a run that waits is waiting for: arithmetic on what Ray says of its nodes.

Ray would wait for ever, silently, for what can't come; and trainers that take every CPU leave none for Ray Data.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fashion_dml.config import Cluster
from fashion_dml.data.placement import Grown, absent, growth, have, living, may_grow, told
from fashion_dml.storage import UserError

Resources = dict[str, float]
DATA_CPUS = 0.25  # a Ray Data read task asks for this much


def preflight(settings: Cluster) -> None:
    """Raise UserError, with the arithmetic, for what the cluster, grown to its autoscaler's maximum, can never hold."""
    if why := refusal(settings, living(), growth()):
        raise UserError(why)


def refusal(settings: Cluster, nodes: list[dict[str, Any]], grown: list[Grown]) -> str:
    """Why the cluster can never hold the run, with the arithmetic; "" where it can.

    nodes: the living ones, as `ray.nodes()` tells of them. grown: groups of nodes that the autoscaler may start.
    """
    for labels, setting in ((settings.train_labels, "cluster.train_labels"), (settings.data_labels, "cluster.data_labels")):
        if labels and (why := absent(labels, setting, nodes, grown)):
            return why
    train, grown = have(settings.train_labels, nodes), may_grow(settings.train_labels, grown)
    most = _most(train, grown)
    where = told(settings.train_labels)
    # With nodes of its own, Ray Data needs nothing of those that train.
    data_cpus = 0 if settings.data_labels else DATA_CPUS
    cpus, gpus = settings.fewest * settings.cpus_per_worker, settings.fewest * settings.gpus_per_worker
    if cpus + data_cpus > most.get("CPU", 0):
        more = f", and Ray Data needs {data_cpus} more" if data_cpus else ""
        return (
            f"{settings.fewest} workers x {settings.cpus_per_worker} CPUs = {cpus:g}{more}, but the cluster has "
            f"{most.get('CPU', 0):g} CPUs at most{where}: lower cluster.workers or cluster.cpus_per_worker, or add nodes."
        )
    if gpus > most.get("GPU", 0):
        return (
            f"{settings.fewest} workers x {settings.gpus_per_worker:g} GPUs = {gpus:g}, but the cluster has "
            f"{most.get('GPU', 0):g} GPUs at most{where}: lower cluster.workers or cluster.gpus_per_worker, or add nodes."
        )
    fit = max(sum(packed(n["Resources"], settings) for n in train), sum(g.most * packed(g.resources, settings) for g in grown))
    if fit < settings.fewest:
        return (
            f"Nodes{where} hold {fit} workers of {asked(settings)} at most, since a worker must fit on one node, and the run needs "
            f"{settings.fewest}: lower what a worker asks for or cluster.workers, or add nodes."
        )
    if settings.most > settings.fewest and data_cpus:
        here = _sum(n["Resources"] for n in nodes).get("CPU", 0)
        taken = min(sum(packed(n["Resources"], settings) for n in train), settings.most) * settings.cpus_per_worker
        if taken + data_cpus > here:
            return (
                f"Elastic workers would take {taken:g} of the cluster's {here:g} CPUs, and Ray Data needs {data_cpus}: raise "
                f"cluster.cpus_per_worker ({settings.cpus_per_worker:g}) so that a node has some left over, or lower cluster.workers."
            )
    return ""


def waiting(settings: Cluster, nodes: list[dict[str, Any]], free: dict[str, Resources], grown: list[Grown]) -> str:
    """What a run waits for whose workers haven't begun. free: resources that nobody uses now, by node id."""
    train, grown = have(settings.train_labels, nodes), may_grow(settings.train_labels, grown)
    names = ["CPU", *(["GPU"] if settings.gpus_per_worker else [])]
    total, left = _sum(n["Resources"] for n in train), _sum(free.get(n["NodeID"], {}) for n in train)
    here = " and ".join(f"{left.get(name, 0):g} of {total.get(name, 0):g} {name}s" for name in names)
    most = _most(train, grown)
    grows = f"; the autoscaler may bring them to {' and '.join(f'{most.get(n, 0):g} {n}s' for n in names)}" if grown else ""
    return (
        f"waiting for {settings.fewest} workers of {asked(settings)} each{told(settings.train_labels)}: "
        f"{len(train)} such nodes are here, with {here} free{grows}"
    )


def asked(settings: Cluster) -> str:
    """What a worker asks for, in words."""
    gpus = f" and {settings.gpus_per_worker:g} GPUs" if settings.gpus_per_worker else ""
    return f"{settings.cpus_per_worker:g} CPUs{gpus}"


def packed(node: Resources, settings: Cluster) -> int:
    """Workers that Ray Train puts on a node: as many as fit."""
    wanted = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
    return int(min(node.get(name, 0) // amount for name, amount in wanted.items() if amount))


def _sum(found: Iterable[Resources]) -> Resources:
    total: Resources = {}
    for resources in found:
        for name, amount in resources.items():
            total[name] = total.get(name, 0) + amount
    return total


def _most(train: list[dict[str, Any]], grown: list[Grown]) -> Resources:
    """Resources of these nodes, or of all that the autoscaler may start."""
    here = _sum(n["Resources"] for n in train)
    later = _sum({name: amount * g.most for name, amount in g.resources.items()} for g in grown)
    return {name: max(here.get(name, 0), later.get(name, 0)) for name in here | later}
