"""One specialists' run over several raylets of this machine, timed from inside: a process of its own, of `jobs.benchmark scale`.

    python -m jobs.benchmarks.scale_run '{"workspace": "...", "workers": 2, "raylets": 2, "groups": {"a": ["bags"]}, "epochs": 2}'

Prints one line of JSON. Each raylet is a process with the CPUs of its workers; each worker has one torch thread.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from typing import Any

import psutil
import ray
from ray.cluster_utils import Cluster as Raylets

from fashion_dml.config import Cluster, Data, Loss, Model, Specialists
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import Location
from fashion_dml.training.assignments import TrainSettings, assignments
from fashion_dml.training.specialists import run

LOOK_SECONDS = 0.05
STORE_BYTES = 100 << 20
SIZE = 64  # pixels of a side: a step of some 0.3 s on one core


def settings_of(asked: dict[str, Any]) -> TrainSettings:
    return TrainSettings(
        workspace=asked["workspace"], data=Data(height=SIZE, width=SIZE, lanes=1, decode="worker"),
        model=Model(weights="none", frozen_stages=3, head="random"), loss=Loss(),
        specialists=Specialists(
            groups=asked["groups"], epochs=asked["epochs"], min_steps=1, products_per_batch=16, joint=False,
            validate_every=100_000, checkpoint_every=100_000,
        ),
        cluster=Cluster(workers=asked["workers"], cpus_per_worker=1, threads_per_worker=1),
    )  # fmt: skip


class Watch:
    """Sees when the first worker begins and each training ends, and the CPU time of all processes below this one."""

    def __init__(self) -> None:
        self.began = self.over = 0.0
        self.ended: dict[str, float] = {}
        self.cpu: dict[int, tuple[str, float]] = {}
        self.cpu_before: dict[int, float] = {}

    def __call__(self, queue: Any, stop: threading.Event) -> None:
        looked = 0.0
        while not stop.is_set():
            heard, (_, ended) = ray.get([queue.heard.remote(), queue.state.remote()])
            now = time.monotonic()
            if heard and not self.began:
                self.began = now
                self._count()
                self.cpu_before = {pid: seconds for pid, (_, seconds) in self.cpu.items()}
            for name, failure in ended.items():
                if failure is not None:
                    raise RuntimeError(f"{name}: {failure}")
                if name not in self.ended:
                    self.ended[name] = self.over = now
                    self._count()
            if now - looked > 1:
                looked = now
                self._count()
            stop.wait(LOOK_SECONDS)

    def _count(self) -> None:
        for process in psutil.Process().children(recursive=True):
            try:
                times = process.cpu_times()
                self.cpu[process.pid] = (" ".join(process.cmdline()[:1]), times.user + times.system)
            except psutil.NoSuchProcess:
                continue

    def spent(self) -> dict[str, float]:
        """CPU seconds since the first worker began: of trainers with the tasks that read for them, and of all else."""
        found = {"training": 0.0, "rest": 0.0}
        for pid, (name, seconds) in self.cpu.items():
            reads = "RayTrainWorker" in name or "Read" in name or "task" in name
            found["training" if reads else "rest"] += seconds - self.cpu_before.get(pid, 0.0)
        return found


def main(asked: dict[str, Any]) -> dict[str, Any]:
    settings = settings_of(asked)
    cluster = Raylets(
        initialize_head=True,
        head_node_args={"num_cpus": 0, "include_dashboard": True, "dashboard_port": 0, "object_store_memory": STORE_BYTES},
    )
    try:
        for _ in range(asked["raylets"]):
            cluster.add_node(num_cpus=asked["workers"] // asked["raylets"] + 1, object_store_memory=STORE_BYTES)
        ray.init(address=cluster.address, log_to_driver=False)
        dataset = Dataset.open(Location.of(settings.workspace) / "dataset")
        steps = {a.name: a.recipe.steps for a in assignments(dataset, settings, joint=False)}
        watch, asked_at = Watch(), time.monotonic()
        if failures := run(settings, watch):
            raise RuntimeError(str(failures))
        return {
            "start": watch.began - asked_at, "makespan": watch.over - watch.began, "steps": steps,
            "ended": {n: t - watch.began for n, t in watch.ended.items()}, "cpu": watch.spent(),
        }  # fmt: skip
    finally:
        ray.shutdown()
        cluster.shutdown()


if __name__ == "__main__":
    print(json.dumps(main(json.loads(sys.argv[1]))))
