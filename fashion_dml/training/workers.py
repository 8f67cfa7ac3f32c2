"""One Ray Train run: its workers, their devices and threads, and a check that the cluster can hold them at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.train import FailureConfig, RunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import ScalingConfig

from fashion_dml.config import Cluster, Model
from fashion_dml.storage import UserError
from fashion_dml.training.malloc import keep_freed_memory
from fashion_dml.training.team import Team

DATA_CPUS = 0.25  # a Ray Data read task asks for this much


def cluster_most() -> dict[str, float]:
    """Resources of the cluster, grown to its autoscaler's maximum."""
    most: dict[str, float] = dict(ray.cluster_resources())
    for name, amount in (ray._private.state.state.get_max_resources_from_cluster_config() or {}).items():
        most[name] = max(most.get(name, 0), amount)
    return most


def preflight(settings: Cluster) -> None:
    """Refuse, with the arithmetic, what the cluster (grown to its autoscaler's maximum) can never hold.

    Ray Train would wait for ever, silently; and trainers that take every CPU leave none for Ray Data.
    """
    most = cluster_most()
    cpus = settings.fewest * settings.cpus_per_worker
    if cpus + DATA_CPUS > most.get("CPU", 0):
        raise UserError(
            f"{settings.fewest} workers x {settings.cpus_per_worker} CPUs = {cpus:g}, and Ray Data needs {DATA_CPUS} more, but the cluster has "
            f"{most.get('CPU', 0):g} CPUs at most: lower cluster.workers or cluster.cpus_per_worker, or add nodes."
        )
    gpus = settings.fewest * settings.gpus_per_worker
    if gpus > most.get("GPU", 0):
        raise UserError(
            f"{settings.fewest} workers x {settings.gpus_per_worker:g} GPUs = {gpus:g}, but the cluster has {most.get('GPU', 0):g} GPUs at most: "
            f"lower cluster.workers or cluster.gpus_per_worker, or add nodes."
        )
    if settings.most > settings.fewest:
        packed = sum(_packed(node["Resources"], settings) for node in ray.nodes() if node["Alive"])
        taken = min(packed, settings.most) * settings.cpus_per_worker
        if taken + DATA_CPUS > (here := ray.cluster_resources().get("CPU", 0)):
            raise UserError(
                f"Elastic workers would take {taken:g} of the cluster's {here:g} CPUs, and Ray Data needs {DATA_CPUS}: raise "
                f"cluster.cpus_per_worker ({settings.cpus_per_worker:g}) so that a node has some left over, or lower cluster.workers."
            )


def _packed(node: dict[str, float], settings: Cluster) -> int:
    """Workers that Ray Train puts on a node: as many as fit."""
    asked = {"CPU": settings.cpus_per_worker, "GPU": settings.gpus_per_worker}
    return int(min(node.get(name, 0) // amount for name, amount in asked.items() if amount))


def check_norms(model: Model, settings: Cluster, team: int) -> None:
    """Refuse live batch norm that can't be synchronised: torch does it on GPUs only, one worker alone needs it nowhere."""
    if model.batch_norm == "live" and team > 1 and not settings.gpus_per_worker:
        raise UserError(
            f"model.batch_norm = live needs the statistics of all {team} workers that train together, which takes GPUs: "
            f"use model.batch_norm = frozen, cluster.gpus_per_worker, or one worker."
        )


def fit(function: Callable[[dict[str, Any]], Any], config: dict[str, Any], settings: Cluster, *, name: str) -> None:
    """Run `function(config)` on every worker; when a worker dies, all start again, `max_failures` times.

    The function must be safe to start again, on another number of workers too: it goes on from its own checkpoints.
    Raises UserError, before anything starts, for what the cluster can never hold.
    """
    preflight(settings)
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "0.5")
    resources = {"CPU": settings.cpus_per_worker}
    if settings.gpus_per_worker:
        resources["GPU"] = settings.gpus_per_worker
    # The run's own directory holds nothing we need (checkpoints lie in the workspace); each run gets a new one, so
    # that an earlier run of the same name is never taken up in place of our own cursors.
    home = tempfile.mkdtemp(prefix=f"{name}-")
    workers = settings.fewest if settings.fewest == settings.most else (settings.fewest, settings.most)
    trainer = TorchTrainer(
        function,
        train_loop_config=config,
        torch_config=TorchConfig(backend="nccl" if settings.gpus_per_worker >= 1 else "gloo"),
        scaling_config=ScalingConfig(
            num_workers=workers,
            use_gpu=settings.gpus_per_worker > 0,
            resources_per_worker=resources,
            elastic_resize_monitor_interval_s=settings.resize_every_s,
        ),
        run_config=RunConfig(
            name=os.path.basename(home), storage_path=home, failure_config=FailureConfig(max_failures=settings.max_failures)
        ),
    )
    try:
        trainer.fit()
    finally:
        shutil.rmtree(home, ignore_errors=True)


def join_team(settings: Cluster, size: int) -> Team | None:
    """This worker's team of `size` workers of neighbouring ranks; None for one of an elastic rest that makes no team.

    Call once on every worker, it is collective.
    """
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()
    threads = settings.threads_per_worker or max(1, (os.cpu_count() or 1) // context.get_local_world_size())
    torch.set_num_threads(threads)
    device = ray.train.torch.get_device()
    if device.type == "cpu":
        keep_freed_memory()
    if size == 1:
        return Team(device=device)
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, world - size + 1, size)]
    return Team(rank % size, size, groups[rank // size], device) if rank // size < len(groups) else None
