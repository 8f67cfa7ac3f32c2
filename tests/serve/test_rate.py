"""Token buckets by client, and their refusal."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from fastapi import FastAPI

import serve.rate as module
from serve import errors
from serve.access import RequestLog
from serve.auth import READ_TOKEN, WRITE_TOKEN, Tokens
from serve.rate import Buckets, RateLimit, client_key


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_a_bucket_holds_a_burst_and_fills_at_the_rate():
    clock = Clock()
    buckets = Buckets(2, 3, clock)
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b") == 0
    clock.now += 0.5
    assert [buckets.take("a") for _ in range(2)] == [0, 0.5]
    clock.now += 60
    assert [buckets.take("a") for _ in range(4)] == [0, 0, 0, 0.5]  # never more than the burst


def test_over_time_the_rate_is_met():
    clock, allowed = Clock(), 0
    buckets = Buckets(5, 10, clock)
    for _ in range(1000):
        clock.now += 0.01
        allowed += buckets.take("a") == 0
    assert allowed in (59, 60)  # the burst and ten seconds


def test_clients_are_forgotten_from_the_oldest_on(monkeypatch):
    monkeypatch.setattr(module, "CLIENTS", 3)
    buckets = Buckets(0.001, 1, Clock())
    assert [buckets.take(key) for key in "abcd"] == [0, 0, 0, 0]
    assert len(buckets._held) == 3
    assert buckets.take("d") > 0
    assert buckets.take("a") == 0


TOKENS = Tokens({WRITE_TOKEN: "the token of writers", READ_TOKEN: "the token of readers"})


def key(by: str, address: str = "192.0.2.1", **headers: str) -> str:
    sent = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return client_key({"type": "http", "headers": sent, "client": (address, 1)}, by, TOKENS.known)  # type: ignore[arg-type]


def test_who_a_client_is():
    assert key("address", x_forwarded_for="198.51.100.7") == "192.0.2.1"
    assert key("forwarded", x_forwarded_for="203.0.113.9, 198.51.100.7") == "198.51.100.7"  # what a client wrote comes first
    assert key("forwarded") == "192.0.2.1"
    assert key("address", "2001:db8::1") == key("address", "2001:db8::ffff") != key("address", "2001:db8:0:1::1")
    writer, reader = (key("token", authorization=f"Bearer the token of {who}") for who in ("writers", "readers"))
    assert len({writer, reader, "192.0.2.1"}) == 3
    assert writer == key("token", "198.51.100.7", authorization="bearer the token of writers")
    assert "writers" not in writer
    assert key("token", authorization="Bearer made up to get a bucket") == "192.0.2.1"


@pytest.mark.parametrize(("replicas", "allowed"), [(1, 4), (2, 2)])
def test_the_refusal(replicas: int, allowed: int):
    app = FastAPI()
    errors.install(app)
    app.get("/v1/thing")(lambda: {})
    app.get("/healthz")(lambda: {})
    app.add_middleware(RateLimit, rate=0.5, burst=4, by="address", replicas=replicas, known=TOKENS.known)
    app.add_middleware(RequestLog, slow_s=60)

    async def many(path: str) -> list[httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service") as client:
            return [await client.get(path) for _ in range(5)]

    replies = asyncio.run(many("/v1/thing"))
    assert [r.status_code for r in replies] == [200] * allowed + [429] * (5 - allowed)
    error = replies[-1].json()["error"]
    assert (error["code"], error["limit"], error["request_id"]) == ("rate_limited", 0.5, replies[-1].headers["x-request-id"])
    assert int(replies[-1].headers["retry-after"]) in (2 * replicas - 1, 2 * replicas)
    assert "0.5 requests a second" in error["message"]
    assert {r.status_code for r in asyncio.run(many("/healthz"))} == {200}
