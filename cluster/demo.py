"""The two-command demonstration: start Ray on this machine, submit the pipeline as a job, serve the result, stop Ray.

    make demo                       the generated catalogue
    make demo PHOTOS=photos.tar     your photos: a folder or tar with a CSV (README, "Your own photos")

It starts a Ray head of its own on free ports and stops that one only, whatever else runs on the machine.
"""

from __future__ import annotations

import argparse
import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
CONFIG = "jobs/configs/demo.yaml"
START_SECONDS = 120
STOP_SECONDS = 60


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
    # Errors of Ray's core that it also raises in Python; on the console they only hide the table.
    env.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    return env


def start_head(env: dict[str, str], log: Path) -> tuple[subprocess.Popen[bytes], str, str]:
    """A Ray head on free local ports; (process, GCS address, dashboard address). Raises RuntimeError if it doesn't come up."""
    gcs, dashboard, client, agent, grpc, runtime = free_ports(6)
    command = [
        str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", f"--port={gcs}", "--dashboard-host=127.0.0.1",
        f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}", f"--dashboard-agent-listen-port={agent}",
        f"--dashboard-agent-grpc-port={grpc}", f"--runtime-env-agent-port={runtime}", "--disable-usage-stats",
    ]  # fmt: skip
    with log.open("wb") as sink:
        head = subprocess.Popen(command, env=env, stdout=sink, stderr=subprocess.STDOUT, start_new_session=True)
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


def stop(head: subprocess.Popen[bytes]) -> None:
    """End the head and what it started: it stops its children on SIGTERM; any that are left go with its session."""
    if head.poll() is None:
        head.terminate()
        try:
            head.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            print("Ray is slow to stop; ending its processes", file=sys.stderr)
    try:
        os.killpg(head.pid, signal.SIGKILL)
    except ProcessLookupError:
        return


def absolute(uri: str) -> str:
    """A job runs in a directory of its own, so paths must not be relative."""
    return uri if not uri or "://" in uri else str(Path(uri).expanduser().resolve())


def submit(env: dict[str, str], dashboard: str, arguments: list[str]) -> int:
    """`ray job submit` in the foreground; its exit code."""
    command = [
        str(BIN / "ray"),
        "job",
        "submit",
        "--address",
        dashboard,
        "--working-dir",
        str(ROOT),
        "--log-style=record",
        "--",
        "python",
        *arguments,
    ]
    return subprocess.run(command, env=env, cwd=ROOT, check=False).returncode


def serve(env: dict[str, str], address: str, workspace: str, port: int) -> int:
    """The search page until Ctrl-C, which reaches the service too: it takes itself down."""
    command = [sys.executable, "-m", "jobs.serve", "--workspace", workspace, "--serve.port", str(port)]
    process = subprocess.Popen(command, env={**env, "RAY_ADDRESS": address}, cwd=ROOT)
    try:
        return process.wait()
    except (KeyboardInterrupt, SystemExit):
        process.terminate()
        return process.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", default="workspace", help="directory or URI for all results (default: workspace)")
    parser.add_argument("--photos", default="", help="folder or tar of photos (default: the generated catalogue)")
    parser.add_argument("--config", default=CONFIG, help=f"settings of all stages (default: {CONFIG})")
    parser.add_argument(
        "--serve", choices=("0", "1"), default="1", help="1: serve the search page at the end; 0: end after the table"
    )
    parser.add_argument("--port", type=int, default=8000, help="port of the search page (default: 8000)")
    options, more = parser.parse_known_args()
    photos, workspace = absolute(options.photos), absolute(options.workspace)
    if photos and "://" not in photos and not Path(photos).exists():
        print(
            f"error: PHOTOS={options.photos} does not exist; give a folder or an uncompressed tar with a CSV and images.",
            file=sys.stderr,
        )
        return 2
    source = ["--kind", "folder", "--source", photos] if photos else ["--kind", "generated"]
    env = environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    log = Path(tempfile.mkdtemp(prefix="fashion-dml-")) / "ray.log"
    head, address, dashboard = start_head(env, log)
    try:
        code = submit(
            env, dashboard, ["-m", "jobs.pipeline", "--config", options.config, *source, "--workspace", workspace, *more]
        )
        if code == 0 and options.serve == "1":
            code = serve(env, address, workspace, options.port)
        return code
    except KeyboardInterrupt:
        return 130
    finally:
        stop(head)


if __name__ == "__main__":
    sys.exit(main())
