"""A Ray cluster on this machine: a head that does no work and any number of nodes, each a raylet process of its own.

    python cluster/local.py --node role=data,cpus=1 --node role=train,cpus=1 --node role=serve,cpus=1
    python cluster/local.py --node role=data,cpus=1 --grow role=train,cpus=1,most=4       (the autoscaler starts 0 to 4 of those)
    source cluster.env && ray job submit --working-dir . -- python -m jobs.pipeline --config jobs/configs/demo.yaml --workspace "$PWD/workspace"

For development and drills: what a node has (cpus, gpus, store_mb of object store) is only claimed, any other name is a label that
`cluster.train_labels`, `cluster.data_labels` and `serve.labels` choose by. It asks for a token, which lies with the addresses in
the file --env, as shell variables. Ctrl-C ends it all; a node dies when its process, told on the console, is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BIN = Path(sys.executable).parent
HEAD_ID = "f" * 51 + "00000"  # what the provider that starts raylets on this machine expects
ENV_FILE = "cluster.env"  # holds the token: .gitignore and .dockerignore name it
START_SECONDS = 120
STOP_SECONDS = 60


@dataclass(frozen=True)
class NodeSpec:
    """What a node claims to have. store_mb: of object store, MB. most: nodes like it that the autoscaler may start."""

    cpus: float = 1
    gpus: float = 0
    store_mb: int = 256
    most: int = 1
    labels: dict[str, str] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str) -> NodeSpec:
        """`role=train,cpus=2`. Raises ValueError."""
        known, labels = {"cpus": float, "gpus": float, "store_mb": int, "most": int}, {}
        given: dict[str, float | int] = {}
        for part in filter(None, text.split(",")):
            name, equals, value = part.partition("=")
            if not equals or not name or not value:
                raise ValueError(f"{part!r} is not NAME=VALUE")
            if name in known:
                given[name] = known[name](value)
            else:
                labels[name] = value
        return cls(labels=labels, **given)  # type: ignore[arg-type]


def free_ports(count: int) -> list[int]:
    """Ports that are free now; held together, so that they differ."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(("127.0.0.1", 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def environment() -> dict[str, str]:
    """This environment with the .venv first, and token authentication between the head, its workers and us."""
    env = {**os.environ, "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', '')}"}
    env |= {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONUNBUFFERED": "1",
    }
    env.setdefault("RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S", "0")  # the job is over: there is nothing to drain
    env.setdefault("RAY_JOB_STOP_WAIT_TIME_S", "60")  # a job that is stopped writes its checkpoints first
    env.setdefault("RAY_idle_worker_killing_time_threshold_ms", "300000")  # readers stay for the next training: docs/cluster.md
    # Errors of Ray's core that it also raises in Python; on the console they only hide the table.
    env.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    return env


def _ray_start(env: dict[str, str], log: Path, *options: str, inside: tuple[str, ...] = ()) -> subprocess.Popen[bytes]:
    agent, grpc, runtime = free_ports(3)
    command = [
        *inside, str(BIN / "ray"), "start", "--block", "--node-ip-address=127.0.0.1", "--disable-usage-stats",
        f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}", f"--runtime-env-agent-port={runtime}", *options,
    ]  # fmt: skip
    with log.open("wb") as sink:
        return subprocess.Popen(command, env=env, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)


def autoscaling(grow: list[NodeSpec], gcs: str, idle_minutes: float) -> dict[str, Any]:
    """A configuration of Ray's autoscaler whose nodes are raylets on this machine; gcs: HOST:PORT of the head."""
    kinds = {
        f"kind-{number}": {
            "resources": {"CPU": int(node.cpus), "GPU": int(node.gpus), "object_store_memory": node.store_mb << 20},
            "labels": node.labels, "node_config": {}, "min_workers": 0, "max_workers": node.most,
        }
        for number, node in enumerate(grow)
    }  # fmt: skip
    return {
        "cluster_name": "local", "max_workers": sum(node.most for node in grow), "idle_timeout_minutes": idle_minutes,
        "provider": {
            "type": "external", "module": "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider",
            "use_node_id_as_ip": True, "disable_node_updaters": True, "disable_launch_config_check": True,
            "gcs_address": gcs, "launch_multiple": True, "head_node_id": HEAD_ID,
        },
        "setup_commands": [], "head_setup_commands": [], "worker_setup_commands": [], "initialization_commands": [],
        "head_start_ray_commands": [], "worker_start_ray_commands": [], "file_mounts": {}, "cluster_synced_files": [],
        "auth": {}, "docker": {}, "head_node_type": "ray.head.default",
        "available_node_types": {**kinds, "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0}},
    }  # fmt: skip


def start_head(
    env: dict[str, str], log: Path, *options: str, grow: Sequence[NodeSpec] = (), idle_minutes: float = 1
) -> tuple[subprocess.Popen[bytes], str, str]:
    """A Ray head on free local ports; (process, GCS address, dashboard address). Raises RuntimeError if it doesn't come up.

    grow: nodes that an autoscaler starts when there is work for them and stops after idle_minutes without.
    """
    gcs, dashboard, client = free_ports(3)
    if grow:
        config = log.with_suffix(".autoscaler.json")
        config.write_text(json.dumps(autoscaling(list(grow), f"127.0.0.1:{gcs}", idle_minutes)))
        options = (*options, f"--autoscaling-config={config}")
        told = [{"resources": {"CPU": node.cpus, "GPU": node.gpus}, "most": node.most, "labels": node.labels} for node in grow]
        env = {**env, "FASHION_DML_GROWTH": json.dumps(told), "RAY_FAKE_CLUSTER": "1", "RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": HEAD_ID,
               "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID, "AUTOSCALER_UPDATE_INTERVAL_S": "1"}  # fmt: skip
    head = _ray_start(
        env, log, "--head", f"--port={gcs}", "--dashboard-host=127.0.0.1", f"--dashboard-port={dashboard}",
        f"--ray-client-server-port={client}", *options,
    )  # fmt: skip
    url = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and head.poll() is None:
        try:
            request = urllib.request.Request(f"{url}/api/version", headers={"Authorization": f"Bearer {env['RAY_AUTH_TOKEN']}"})
            with urllib.request.urlopen(request, timeout=2):
                return head, f"127.0.0.1:{gcs}", url
        except OSError:
            time.sleep(0.2)
    stop(head)
    raise RuntimeError(f"Ray didn't start within {START_SECONDS} s; its log is {log}")


def start_node(
    env: dict[str, str], address: str, node: NodeSpec, log: Path, inside: tuple[str, ...] = ()
) -> subprocess.Popen[bytes]:
    """A node of the cluster at `address`, which joins by and by. inside: a command that runs it, as `unshare`."""
    return _ray_start(
        env, log, f"--address={address}", f"--num-cpus={node.cpus:g}", f"--num-gpus={node.gpus:g}",
        f"--object-store-memory={node.store_mb << 20}",
        *([f"--labels={','.join(f'{k}={v}' for k, v in node.labels.items())}"] if node.labels else []), inside=inside,
    )  # fmt: skip


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a head or a node and what it started: it stops its children on SIGTERM; any that are left go with its session."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            print("Ray is slow to stop; ending its processes", file=sys.stderr)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--node", action="append", default=[], metavar="NAME=VALUE,...", help="a node; may be given several times"
    )
    parser.add_argument(
        "--grow", action="append", default=[], metavar="NAME=VALUE,...", help="a kind of node that the autoscaler starts"
    )
    parser.add_argument("--idle-minutes", type=float, default=1, help="after which such a node is stopped (default: 1)")
    parser.add_argument("--env", default=ENV_FILE, help=f"file for addresses and token, to `source` (default: {ENV_FILE})")
    options = parser.parse_args()
    try:
        nodes = [
            NodeSpec.parse(text) for text in options.node or ([] if options.grow else ["role=data", "role=train", "role=serve"])
        ]
        grow = [NodeSpec.parse(text) for text in options.grow]
    except ValueError as error:
        print(f"error: --node, --grow: {error}; give for example --node role=train,cpus=2.", file=sys.stderr)
        return 2
    env, home, file = environment(), Path(tempfile.mkdtemp(prefix="fashion-dml-")), Path(options.env)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    head, address, dashboard = start_head(env, home / "head.log", "--num-cpus=0", grow=grow, idle_minutes=options.idle_minutes)
    running = [head]
    try:
        for number, node in enumerate(nodes):
            running.append(start_node(env, address, node, home / f"node-{number}.log"))
            print(f"node {number}: process {running[-1].pid}, {json.dumps(vars(node))}")
        file.touch(mode=0o600)
        told = {"RAY_ADDRESS": dashboard, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": env["RAY_AUTH_TOKEN"]}
        file.write_text("".join(f"export {name}={value}\n" for name, value in told.items()))
        print(f"head: process {head.pid}, dashboard {dashboard}, logs in {home}; `source {file}` to use it, Ctrl-C to end it")
        head.wait()
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        file.unlink(missing_ok=True)
        for process in reversed(running):
            stop(process)


if __name__ == "__main__":
    sys.exit(main())
