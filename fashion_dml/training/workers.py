"""One Ray Train run: where its workers run, their devices and threads, and what it waits for."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import threading
from collections.abc import Callable, Iterable
from typing import Any

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.data._internal.stats import get_or_create_stats_actor
from ray.train import FailureConfig, RunConfig
from ray.train.torch import TorchConfig, TorchTrainer
from ray.train.v2.api.config import ScalingConfig

from fashion_dml.config import Cluster, Model
from fashion_dml.data.placement import growth, living
from fashion_dml.data.preflight import preflight, waiting
from fashion_dml.storage import UserError
from fashion_dml.training.malloc import keep_freed_memory
from fashion_dml.training.team import Team

logger = logging.getLogger(__name__)
WAIT_SECONDS = 20.0  # between words on what a run waits for


def companion(kind: type[Any], *arguments: Any) -> Any:
    """An actor beside the run, on the node of the job itself: no other node that leaves takes it along."""
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return ray.remote(num_cpus=0, label_selector=here)(kind).remote(*arguments)


def tell_waiting(settings: Cluster, queue: Any, stop: threading.Event) -> None:
    """Say now and then what a run waits for, until a worker has been heard of; workers that only take long to start aren't waiting."""
    while not stop.wait(WAIT_SECONDS) and not ray.get(queue.heard.remote()):
        if all(group["state"] != "PENDING" for group in ray.util.placement_group_table().values()):
            continue
        free = ray._private.state.available_resources_per_node()
        logger.warning("%s", waiting(settings, living(), free, growth()))


def check_norms(model: Model, settings: Cluster, team: int) -> None:
    """Refuse live batch norm that can't be synchronised: torch does it on GPUs only, one worker alone needs it nowhere."""
    if model.batch_norm == "live" and team > 1 and not settings.gpus_per_worker:
        raise UserError(
            f"model.batch_norm = live needs the statistics of all {team} workers that train together, which takes GPUs: "
            f"use model.batch_norm = frozen, cluster.gpus_per_worker, or one worker."
        )


def check_lanes(lanes: Iterable[tuple[str, int]], setting: str, workers: int, otherwise: str = "") -> None:
    """Refuse so many workers for one model where a training has fewer lanes, as those of small verticals have.

    lanes: (name, lanes) of each training; not asked for where one worker trains a model, which always can. otherwise: what helps
    beside a lower setting.
    """
    if workers > 1 and (short := ", ".join(f"{name} has {n}" for name, n in lanes if n < workers)):
        raise UserError(
            f"{setting} = {workers} workers train a model together and need a lane each, but {short}: lower {setting}{otherwise}."
        )


def fit(function: Callable[[dict[str, Any]], Any], config: dict[str, Any], settings: Cluster, *, name: str) -> None:
    """Run `function(config)` on every worker; when a worker dies, all start again, `max_failures` times.

    The function must be safe to start again, on another number of workers too: it goes on from its own checkpoints.
    Raises UserError, before anything starts, for what the cluster can never hold.
    """
    preflight(settings)
    # Ray Data makes one for the cluster, for good, on the node that asks first: a training node would then never be idle.
    get_or_create_stats_actor()
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
            label_selector=settings.train_labels or None,
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
