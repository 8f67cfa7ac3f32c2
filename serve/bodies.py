"""Bodies of requests: how many bytes of them all may be held at once, and how much JSON one may hold."""

from __future__ import annotations

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve import limits
from serve.errors import RETRY_AFTER_S, Refusal


class BodyBudget:
    """ASGI middleware: counts the bytes of bodies from their arrival until the request is answered.

    A body for which there is no room is refused with 503 where it is read.
    """

    def __init__(self, app: ASGIApp, most: int = limits.BODIES_BYTES) -> None:
        self._app, self._most, self._held = app, most, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        mine = 0

        async def counted() -> Message:
            nonlocal mine
            message = await receive()
            size = len(message.get("body", b""))
            if self._held + size > self._most:
                raise Refusal(
                    503, "too_many_bodies", f"The requests at work hold {self._most:,} bytes already; try again soon.",
                    limit=self._most, retry_after_s=RETRY_AFTER_S,
                )  # fmt: skip
            mine, self._held = mine + size, self._held + size
            return message

        try:
            await self._app(scope, counted, send)
        finally:
            self._held -= mine


def check_json(body: bytes, values: int, names: int) -> bytes:
    """The body, if it holds at most so many values and names of fields. Raises Refusal.

    Counted by the bytes that separate values, before anything is parsed: a parser needs many times the body's size for values
    of one byte, and a report on every one that is wrong still more.
    """
    for most, count, what in (
        (values, body.count(b",") + body.count(b"[") + body.count(b"{"), "values"),
        (names, body.count(b":"), "names of fields"),
    ):
        if count > most:
            raise Refusal(422, "too_many_values", f"The body holds {count:,} {what}; {most:,} are read.", limit=most)
    return body
