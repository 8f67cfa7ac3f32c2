"""What operations cost a request: metrics, id, log line, rate limit and deadline, in microseconds of processor time.

Row `microseconds/middleware`: a route that does nothing, asked in this process through all of them, minus the same bare; its log
line goes through Serve's JSON formatter to a file. `microseconds/search`: what a search records besides. `microseconds/count`:
one count, at the endpoint's registry and at Ray's recorder. No Ray runs, so what Ray's own thread exports every ten
seconds is not in it.
"""

from __future__ import annotations

import asyncio
import logging
import statistics
import tempfile
import time
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI
from ray._common.formatters import JSONFormatter
from starlette.types import Message, Scope

from jobs.benchmarks import Row
from serve import record
from serve.access import RequestLog
from serve.deadline import Deadline
from serve.metrics import SEARCHES
from serve.rate import RateLimit

ROUNDS, REQUESTS = 15, 1000


def _app(*, operated: bool) -> FastAPI:
    app = FastAPI()

    @app.get("/v1/nothing")
    async def nothing() -> None: ...

    if operated:
        app.add_middleware(Deadline, seconds=10)
        app.add_middleware(RateLimit, rate=1e9, burst=10**9, by="address", replicas=1, known=lambda _: False)
        app.add_middleware(RequestLog, slow_s=60)
    return app


def _asker(app: FastAPI) -> Callable[[], None]:
    """Ask the route REQUESTS times."""
    scope: Scope = {
        "type": "http", "method": "GET", "path": "/v1/nothing", "raw_path": b"/v1/nothing", "query_string": b"", "root_path": "",
        "headers": [(b"x-request-id", b"0123456789abcdef0123456789abcdef")], "client": ("192.0.2.1", 1),
        "server": ("service", 80), "scheme": "http", "http_version": "1.1",
    }  # fmt: skip

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None: ...

    async def ask() -> None:
        for _ in range(REQUESTS):
            await app(dict(scope), receive, send)

    return lambda: asyncio.run(ask())


def _repeated(once: Callable[[], None]) -> Callable[[], None]:
    def many() -> None:
        for _ in range(REQUESTS):
            once()

    return many


def run(workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """Rows of medians, over rounds in turns."""
    seconds = {"decode": 0.002, "encode": 0.01, "search": 0.004, "total": 0.017}
    cases = {
        "bare": _asker(_app(operated=False)),
        "operated": _asker(_app(operated=True)),
        "search": _repeated(lambda: record.searched([b""], seconds, 1.0, known=1, reached=1, index="v")),
        "count": _repeated(lambda: SEARCHES.add("image")),
    }
    logger = logging.getLogger("ray.serve")
    level, propagate = logger.level, logger.propagate
    spent: dict[str, list[float]] = {name: [] for name in cases}
    with tempfile.NamedTemporaryFile("w", suffix=".log") as file:
        handler = logging.FileHandler(file.name)
        handler.setFormatter(JSONFormatter())
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        try:
            for _ in range(ROUNDS):
                for name, case in cases.items():
                    begun = time.process_time()
                    case()
                    spent[name].append((time.process_time() - begun) / REQUESTS * 1e6)
        finally:
            logger.removeHandler(handler)
            logger.setLevel(level)
            logger.propagate = propagate
            handler.close()
    added = [with_all - bare for with_all, bare in zip(spent["operated"], spent["bare"], strict=True)]
    found = {"middleware": added, "search": spent["search"], "count": spent["count"]}
    rows = [Row(f"microseconds/{name}", round(statistics.median(v), 1), "µs", None, "lower") for name, v in found.items()]
    return rows, {"rounds": ROUNDS, "requests": REQUESTS, "bare": round(statistics.median(spent["bare"]), 1)}
