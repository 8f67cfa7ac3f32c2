"""What stands between Serve's proxy and the routes, from the outside in: log, rate limit, deadline."""

from __future__ import annotations

from fastapi import FastAPI

from fashion_dml.config import Serve
from serve.access import RequestLog
from serve.auth import Tokens
from serve.deadline import Deadline
from serve.rate import RateLimit
from serve.scaling import fewest
from serve.service import SearchService
from serve.watch import watching


def operated(app: FastAPI, service: SearchService, settings: Serve, tokens: Tokens, *, echoed: bool = True) -> FastAPI:
    """The same application, watched and bounded; echoed: whether Serve's proxy stands before it."""
    app.add_middleware(Deadline, seconds=settings.deadline_s)
    if settings.rate_per_s:
        app.add_middleware(
            RateLimit, rate=settings.rate_per_s, burst=settings.rate_burst, by=settings.rate_client,
            replicas=fewest(settings.ingress_replicas), known=tokens.known,
        )  # fmt: skip
    app.add_middleware(RequestLog, slow_s=settings.slow_s, everything=settings.log_requests == "all", echoed=echoed)
    app.router.lifespan_context = watching(service, settings.watch_s)
    return app
