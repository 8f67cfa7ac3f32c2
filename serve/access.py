"""Around every request: its id, its log line, its metrics, and an answer in our shape when the code below fails."""

from __future__ import annotations

import asyncio
import logging
import re
import time
import uuid

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import Refusal
from serve.metrics import ABORTED, IN_FLIGHT, REQUEST_SECONDS, REQUESTS
from serve.record import CURRENT, Record

logger = logging.getLogger("ray.serve")
HEADER = "x-request-id"
REQUEST_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
PROBES = ("/healthz", "/readyz", "/metrics")  # asked every few seconds: logged only when they fail
CLIENT_LEFT = 499  # as others log a client that closed its connection; it is never sent
METHODS = {"GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"}


class RequestLog:
    """ASGI middleware, the outermost. `echoed`: a proxy before us repeats the X-Request-Id that it passed on, as Serve's do."""

    def __init__(self, app: ASGIApp, *, slow_s: float, everything: bool = True, echoed: bool = False) -> None:
        self._app, self._slow_s, self._everything, self._echoed = app, slow_s, everything, echoed
        self._in_flight = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        given = Headers(scope=scope).get(HEADER, "")
        valid = REQUEST_ID.fullmatch(given) is not None
        record = Record(given if valid else uuid.uuid4().hex)
        status = 0

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not (valid and self._echoed):
                    MutableHeaders(scope=message)[HEADER] = record.request_id
            await send(message)

        token, started = CURRENT.set(record), time.perf_counter()
        self._in_flight += 1
        IN_FLIGHT.set(self._in_flight)
        try:
            await self._app(scope, receive, answer)
        except asyncio.CancelledError:  # the proxy takes a request back when its client has left
            status, record.code = CLIENT_LEFT, "client_left"
            raise
        except Exception:
            logger.exception("unexpected failure of request %s", record.request_id)
            if status:
                raise
            message = "The service failed on this request; its log says why, under the request_id."
            await Refusal(500, "internal", message).response()(scope, receive, answer)
        finally:
            CURRENT.reset(token)
            self._in_flight -= 1
            IN_FLIGHT.set(self._in_flight)
            self._done(scope, status, time.perf_counter() - started, record)

    def _done(self, scope: Scope, status: int, seconds: float, record: Record) -> None:
        route = getattr(scope.get("route"), "path", "") or "other"  # the pattern, never the path: that may name an item
        method = scope["method"] if scope["method"] in METHODS else "other"
        aborted = record.code == "client_left"
        REQUESTS.add(route, method, str(status))
        REQUEST_SECONDS.observe(seconds, route)
        if aborted:
            ABORTED.add(route)
        slow, failed = seconds > self._slow_s, status >= 500
        if not (slow or failed or (status >= 400 if route in PROBES else self._everything)):
            return
        milliseconds = round(seconds * 1000, 2)
        logger.log(
            logging.WARNING if slow or failed else logging.INFO,
            "%s %s %s %.1f ms %s%s",
            method, route, status, milliseconds, record.request_id, " slow" if slow else "",
            extra={
                "method": method, "route": route, "status": status, "code": record.code, "milliseconds": milliseconds,
                "request_id": record.request_id, "aborted": aborted, "slow": slow, **record.more,
                # for Serve's handlers: leave our fields as they are, and the terminal for what needs a look
                "skip_context_filter": True, "log_to_stderr": slow or failed,
            },
        )  # fmt: skip
