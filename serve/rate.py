"""Requests a client may send: a token bucket each, refused with 429 and when to come back.

Every ingress replica holds a share of the rate, its own buckets, and no memory of others': with several replicas the limit is
met on average, and a client may be refused a little early or late.
"""

from __future__ import annotations

import hashlib
import ipaddress
import math
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Literal

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import Refusal

CLIENTS = 20_000  # buckets kept; the one unused for longest goes first
LIMITED = "/v1/"  # the page, /docs and what load balancers ask are free
ClientBy = Literal["address", "forwarded", "token"]


class Buckets:
    """At most `burst` requests at once, and `rate` a second on average, for each key."""

    def __init__(self, rate: float, burst: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._rate, self._burst, self._clock = rate, max(1.0, burst), clock
        self._held: OrderedDict[str, tuple[float, float]] = OrderedDict()  # key: (tokens, when)

    def take(self, key: str) -> float:
        """0 where a request may go on, else the seconds until one may."""
        now = self._clock()
        tokens, when = self._held.pop(key, (self._burst, now))
        tokens = min(self._burst, tokens + (now - when) * self._rate)
        allowed = tokens >= 1
        self._held[key] = (tokens - allowed, now)
        if len(self._held) > CLIENTS:
            self._held.popitem(last=False)
        return 0.0 if allowed else (1 - tokens) / self._rate


def client_key(scope: Scope, by: ClientBy, known: Callable[[str], bool]) -> str:
    """Whose bucket a request takes from.

    address: of the connection, an IPv6 one by its /64; forwarded: the last of X-Forwarded-For, which the load balancer before
    us wrote; token: requests with a token of the service (`known`) share one bucket a token, others go by address.
    """
    headers = Headers(scope=scope)
    if by == "token" and known(given := headers.get("authorization", "")):
        return "token " + hashlib.sha256(given.split()[-1].encode()).hexdigest()
    address = str((scope.get("client") or ("",))[0])
    if by == "forwarded" and (forwarded := headers.getlist("x-forwarded-for")):
        address = forwarded[-1].rpartition(",")[2].strip()
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


class RateLimit:
    """ASGI middleware; rate and burst are the whole service's, `replicas` how many share them."""

    def __init__(
        self, app: ASGIApp, *, rate: float, burst: int, by: ClientBy, replicas: int, known: Callable[[str], bool]
    ) -> None:
        self._app, self._rate, self._by, self._known = app, rate, by, known
        self._buckets = Buckets(rate / replicas, burst / replicas)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        wait = 0.0
        if scope["type"] == "http" and scope["path"].removeprefix(scope.get("root_path", "")).startswith(LIMITED):
            wait = self._buckets.take(client_key(scope, self._by, self._known))
        if wait == 0:
            await self._app(scope, receive, send)
            return
        message = f"A client may send {self._rate:g} requests a second; send fewer, or again in {wait:.1f} s."
        refusal = Refusal(429, "rate_limited", message, limit=self._rate, retry_after_s=math.ceil(wait))
        await refusal.response()(scope, receive, send)
