"""A real S3 API on loopback, in a process of its own, with an empty bucket `bucket`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pyarrow.fs as pafs
from serve_helpers import until

ROOT = Path(__file__).parents[1]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running(argv: list[str], env: dict[str, str], log: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process and what it starts, gone at the end."""
    with log.open("wb") as stream:
        process = subprocess.Popen(argv, cwd=ROOT, env=env, stdout=stream, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()  # Ray takes its processes down with it
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@contextmanager
def s3_server(home: Path) -> Iterator[tuple[dict[str, str], pafs.S3FileSystem]]:
    """(an environment that leads every process there, a file system that does)."""
    port = free_port()
    endpoint = f"127.0.0.1:{port}"
    server = Path(sys.executable).with_name("moto_server")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "RAY_"))}
    env = kept | {
        "AWS_ENDPOINT_URL": f"http://{endpoint}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }  # fmt: skip
    with running([str(server), "-H", "127.0.0.1", "-p", str(port)], env, home / "moto.log") as process:
        until(lambda: process.poll() is not None or _listens(port))
        assert httpx.put(f"http://{endpoint}/bucket").status_code == 200, (home / "moto.log").read_text()
        access = {"access_key": "test", "secret_key": "test", "region": "us-east-1"}
        yield env, pafs.S3FileSystem(endpoint_override=endpoint, scheme="http", **access)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
