"""Serve search over a workspace's live index until Ctrl-C: HTTP endpoint and search page.

    python -m jobs.serve --workspace workspace --serve.port 8000

Joins the cluster that RAY_ADDRESS names, else starts Ray on this machine. Where Serve runs already it stays, with its host, its port and its
other applications. For a service that outlives its terminal use `serve deploy serve/config/laptop.yaml`.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import threading

from ray import serve as ray_serve

from fashion_dml.config import JobSettings, Serve
from fashion_dml.index.manifest import index_root, require_current
from fashion_dml.storage import Location, UserError
from jobs.common import connect, console, main
from serve.app import APPLICATION, start
from serve.live_index import read_version
from serve.tuning import set_environment


class ServeSettings(JobSettings):
    """Sections that this job reads."""

    serve: Serve = Serve()


def serve(settings: ServeSettings) -> None:
    """Start the service, say where it is, and take it down on SIGINT or SIGTERM."""
    s = settings.serve
    index = index_root(Location.of(settings.workspace))
    read_version(index, require_current(index).version)  # says what is missing before Ray starts
    if "RAY_ADDRESS" not in os.environ:
        check_free(s.host, s.port)
        set_environment(s)
    connect(settings.workspace)
    there = ray_serve.status()
    if APPLICATION in there.applications:
        raise UserError(
            f"This cluster's Serve has an application `{APPLICATION}` already, which this one would replace; end that one first, or "
            "change it by `serve deploy`."
        )
    if not there.proxies:
        check_free(s.host, s.port)
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        url = start({"workspace": settings.workspace, **s.model_dump(mode="json")})
        if there.proxies:
            console.print(f"`{APPLICATION}` is served where this cluster's Serve listens; Ctrl-C ends it")
        else:
            console.print(f"search page {url}   API {url}/docs   Ctrl-C ends it")
        stop.wait()
    finally:
        if there.proxies or set(ray_serve.status().applications) - {APPLICATION}:
            ray_serve.delete(APPLICATION)
        else:
            ray_serve.shutdown()


def check_free(host: str, port: int) -> None:
    """Raises UserError where nothing can listen there."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise UserError(f"Nothing can listen on {host}:{port} ({error.strerror}); choose another --serve.port.") from error


if __name__ == "__main__":
    sys.exit(main(ServeSettings, serve, prog="python -m jobs.serve", doc=__doc__))
