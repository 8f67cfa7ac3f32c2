"""A bound on every route: whatever a storage, a thread or a process does, the client hears something in time."""

from __future__ import annotations

import asyncio

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import RETRY_AFTER_S, Refusal
from serve.limits import BODY_SECONDS

GRACE_S = 1.0  # beyond deadline_s: a search answers at the deadline by itself, with what it has


class Deadline:
    """ASGI middleware: 503 `too_slow` when `seconds` and GRACE_S have passed since the whole body was there.

    What was begun may go on behind: a commit that was under way is not taken back.
    """

    def __init__(self, app: ASGIApp, *, seconds: float) -> None:
        self._app, self._seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers, loop = Headers(scope=scope), asyncio.get_running_loop()
        allowed, started = self._seconds + GRACE_S, False
        body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"

        async def received() -> Message:
            message = await receive()
            if message["type"] == "http.request" and not message.get("more_body", False) and not limit.expired():
                limit.reschedule(loop.time() + allowed)
            return message

        async def answer(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            async with asyncio.timeout(allowed + (BODY_SECONDS if body else 0)) as limit:
                await self._app(scope, received if body else receive, answer)
        except TimeoutError as error:
            if started or not limit.expired():
                raise
            message = f"No answer within {self._seconds:g} seconds; try again soon."
            refusal = Refusal(503, "too_slow", message, limit=self._seconds, retry_after_s=RETRY_AFTER_S)
            refusal.__cause__ = error
            await refusal.response()(scope, receive, send)
