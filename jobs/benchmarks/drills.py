"""The search service under load while its processes are killed: who notices, and how long until all is back.

    python -m jobs.benchmarks.drills --times 5

Starts two raylets on this machine, with a small catalogue, two shards x two replicas, two encoders and two ingress replicas. Each drill kills
one process by SIGKILL: a shard actor, an encoder, an ingress replica, the HTTP proxy, a raylet with all that runs on it. Prints a JSON line a
drill: failed requests, longest request, wrong answers, the least coverage, seconds until everything answers again.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import ray
from ray import serve
from ray.cluster_utils import Cluster

from fashion_dml.config import Serve
from fashion_dml.index.manifest import index_root, require_current
from fashion_dml.storage import Location
from jobs.benchmarks.serve_load import Load, post, processes, ready, small_workspace
from serve.app import start
from serve.tuning import set_environment

DEADLINE_S, SLACK_S = 10.0, 5.0  # of the service; of a busy machine, on top
KINDS = {
    "shard": "ray::ShardActor", "encoder": "ray::ServeReplica:search:encoder", "ingress": "ray::ServeReplica:search:search",
    "proxy": "ray::ProxyActor", "raylet": "",
}  # fmt: skip
HAPROXY = {**KINDS, "proxy": "haproxy"}
SPARED = ("shard",)  # with two replicas, nobody may notice their death
QUIET_REPLIES = 20  # answered well in a row: it is over


@dataclass
class Service:
    """A running service on two raylets; roots are the raylets' pids."""

    url: str
    cluster: Cluster
    photos: list[bytes]
    rows: tuple[int, ...]
    titles: dict[str, str]  # of each kind's processes

    @property
    def roots(self) -> list[int]:
        return [node.all_processes["raylet"][0].process.pid for node in self.cluster.list_all_nodes()]


@contextlib.contextmanager
def running(root: str, proxy: Literal["haproxy", "python"]) -> Iterator[Service]:
    """The service, and all of it down again at the end."""
    set_environment(Serve(proxy=proxy))  # before Ray: its processes inherit it
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "include_dashboard": False})
    try:
        cluster.add_node(num_cpus=3)
        ray.init(address=cluster.address, log_to_driver=False)
        photos = small_workspace(root, shards=2)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        serve.start(proxy_location="HeadOnly", http_options={"host": "127.0.0.1", "port": port})
        url = start({
            "workspace": root, "port": port, "ingress_replicas": 2, "encoder": "deployment", "encoder_replicas": 2, "ingress_cpus": 0.5, "encoder_cpus": 0.5,
            "deadline_s": DEADLINE_S,
        })  # fmt: skip
        wait(lambda: ready(url))
        titles = HAPROXY if os.environ.get("RAY_SERVE_ENABLE_HA_PROXY") == "1" else KINDS
        yield Service(url, cluster, photos, require_current(index_root(Location.of(root))).shards, titles)
        serve.shutdown()
    finally:
        ray.shutdown()
        cluster.shutdown()


def wait(true: Callable[[], Any], seconds: float = 180.0) -> None:
    """Poll until `true()` is. Raises TimeoutError."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            raise TimeoutError(f"still not true after {seconds:g} s")
        time.sleep(0.05)


def kill(service: Service, kind: str, rng: random.Random) -> Callable[[], bool]:
    """End one process of this kind; returns what tells whether there are as many of all kinds again."""

    def count() -> dict[str, int]:
        return {title: len(processes(service.roots, title)) for title in service.titles.values() if title}

    before = count()
    if kind == "raylet":
        workers = [n for n in service.cluster.list_all_nodes() if n is not service.cluster.head_node]
        service.cluster.remove_node(workers[0], allow_graceful=False)
        service.cluster.add_node(num_cpus=3)  # as an autoscaler would
    else:
        os.kill(rng.choice(processes(service.roots, service.titles[kind])).pid, signal.SIGKILL)
    return lambda: all(now >= before[title] for title, now in count().items())


def drill(service: Service, kind: str, rng: random.Random) -> dict[str, Any]:
    """One death under load, until all is back."""
    with Load(service.url, service.photos, service.rows, timeout_s=DEADLINE_S + SLACK_S) as load:
        wait(lambda: len(load.replies) >= QUIET_REPLIES)
        killed = time.monotonic()
        back = kill(service, kind, rng)

        def over() -> bool:
            last = load.replies[-QUIET_REPLIES:]
            return (
                last[0].began > killed
                and all(r.status == 200 and r.coverage == 1 for r in last)
                and back()
                and ready(service.url)
            )

        wait(over)
        seconds = time.monotonic() - killed
    during = [r for r in load.replies if r.began + r.seconds >= killed]
    return {
        "drill": kind, "recovered_s": round(seconds, 2), "requests": len(during), "failed": sum(r.status != 200 for r in during),
        "statuses": sorted({r.status for r in during}), "longest_s": round(max(r.seconds for r in during), 2),
        "least_coverage": round(min((r.coverage for r in during if r.status == 200), default=0.0), 3),
        "wrong": [r.wrong for r in load.replies if r.wrong][:3],
    }  # fmt: skip


def problems(found: dict[str, Any]) -> list[str]:
    """What must not be."""
    said = [f"wrong answers: {found['wrong']}"] if found["wrong"] else []
    if found["longest_s"] > DEADLINE_S + SLACK_S:
        said.append(f"a request took {found['longest_s']} s")
    if found["drill"] in SPARED and (found["failed"] or found["least_coverage"] < 1):
        said.append(
            f"{found['failed']} requests failed, coverage {found['least_coverage']}: the other replica should have answered"
        )
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--times", type=int, default=5, help="how often each kind is killed")
    parser.add_argument("--kinds", nargs="+", choices=tuple(KINDS), default=tuple(KINDS), help="what is killed")
    parser.add_argument("--proxy", choices=("haproxy", "python"), default="haproxy", help="what takes the requests in")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    rng, bad = random.Random(args.seed), 0
    with tempfile.TemporaryDirectory(prefix="fashion-dml-drills-") as root, running(root, args.proxy) as service:
        for kind in args.kinds:
            for _ in range(args.times):
                found = drill(service, kind, rng)
                found["problems"] = problems(found)
                bad += bool(found["problems"])
                print(json.dumps(found), flush=True)
        assert post(f"{service.url}/v1/search", {"vector": [1.0] * 32}, 30)[0] == 200
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
