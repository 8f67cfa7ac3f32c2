"""Ids, log lines, metrics and deadlines around requests, over a small application: no Ray, no service."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator

import httpx
import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

import serve.deadline as deadline_module
from serve import errors, metrics, record
from serve.access import RequestLog
from serve.deadline import Deadline
from serve.errors import Refusal

SECRET = "a-query-nobody-may-read"


def app(*, slow_s: float = 60, everything: bool = True, echoed: bool = False, seconds: float = 60) -> FastAPI:
    made = FastAPI()
    errors.install(made)

    @made.get("/items/{item_id}")
    async def item(item_id: str) -> dict[str, str | None]:
        return {"request_id": record.request_id()}

    @made.get("/refused")
    async def refused() -> None:
        raise Refusal(422, "bad_thing", "That is no thing.", limit=3)

    @made.get("/broken")
    async def broken() -> None:
        raise RuntimeError("the inside shows")

    @made.get("/silent")
    async def silent() -> None:
        await asyncio.Event().wait()

    @made.post("/body")
    async def body(request: Request) -> JSONResponse:
        return JSONResponse({"bytes": len(await request.body())})

    @made.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {}

    metrics.install(made, [])
    made.add_middleware(Deadline, seconds=seconds)
    made.add_middleware(RequestLog, slow_s=slow_s, everything=everything, echoed=echoed)
    return made


@pytest.fixture
def lines() -> Iterator[list[logging.LogRecord]]:
    """Records of the service's log."""
    kept: list[logging.LogRecord] = []

    class Keep(logging.Handler):
        def emit(self, entry: logging.LogRecord) -> None:
            kept.append(entry)

    logger, handler = logging.getLogger("ray.serve"), Keep()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield kept
    logger.removeHandler(handler)
    logger.setLevel(level)


def ask(made: FastAPI, *paths: str, method: str = "GET", **more: object) -> list[httpx.Response]:
    async def all_of() -> list[httpx.Response]:
        transport = httpx.ASGITransport(made, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://service") as client:
            return [await client.request(method, path, **more) for path in paths]  # type: ignore[arg-type]

    return asyncio.run(all_of())


def value(series: str) -> float:
    """A series' present value in the text of `/metrics`; 0 where it isn't there yet."""
    (reply,) = ask(app(), "/metrics")
    found = [line for line in reply.text.splitlines() if line.startswith(series)]
    assert len(found) <= 1, found
    return float(found[0].rsplit(" ", 1)[1]) if found else 0.0


def test_every_reply_has_an_id(lines):
    first, second = ask(app(), "/items/1", "/items/1")
    assert len(first.headers["x-request-id"]) == 32
    assert first.headers["x-request-id"] == first.json()["request_id"] == lines[0].request_id
    assert first.headers["x-request-id"] != second.headers["x-request-id"]


@pytest.mark.parametrize("given", ["abc-1.2_3", "A" * 64])
def test_a_good_id_is_kept(given):
    (reply,) = ask(app(), "/items/1", headers={"X-Request-Id": given})
    assert reply.headers.get_list("x-request-id") == [given] == [reply.json()["request_id"]]
    (behind,) = ask(app(echoed=True), "/items/1", headers={"X-Request-Id": given})
    assert "x-request-id" not in behind.headers  # the proxy before us writes it
    assert behind.json()["request_id"] == given


@pytest.mark.parametrize("given", ["", "A" * 65, "a b", "-x", 'x"y', "a/../b", "é"])
def test_another_id_is_replaced(given, lines):
    for made in (app(), app(echoed=True)):
        (reply,) = ask(made, "/items/1", headers={"X-Request-Id": given.encode()})
        assert len(reply.headers["x-request-id"]) == 32
        assert reply.headers["x-request-id"] == lines.pop().request_id


def test_errors_name_the_id(lines):
    for path, status, code in (("/refused", 422, "bad_thing"), ("/nowhere", 404, "not_found"), ("/broken", 500, "internal")):
        (reply,) = ask(app(), path)
        error = reply.json()["error"]
        assert (reply.status_code, error["code"], error["request_id"]) == (status, code, reply.headers["x-request-id"])
        assert "inside" not in reply.text
        line = lines[-1]
        assert (line.status, line.code, line.request_id) == (status, code, error["request_id"])
        assert (line.levelname, line.log_to_stderr) == (("WARNING", True) if status == 500 else ("INFO", False))
    assert [entry.exc_info is not None for entry in lines].count(True) == 1


def test_lines_hold_no_content(lines):
    ask(app(), f"/items/{SECRET}", f"/nowhere/{SECRET}", f"/refused?q={SECRET}", headers={"Authorization": f"Bearer {SECRET}"})
    assert [line.route for line in lines] == ["/items/{item_id}", "other", "/refused"]
    assert all(SECRET not in str(line.__dict__) and SECRET not in line.getMessage() for line in lines)


def test_slow_and_quiet(lines):
    ask(app(everything=False), "/items/1", "/refused")
    assert not lines
    ask(app(everything=False, slow_s=1e-9), "/items/1")
    assert [(line.levelname, line.slow) for line in lines] == [("WARNING", True)]
    ask(app(), "/healthz", "/metrics")
    assert len(lines) == 1


def test_what_a_search_notes_stands_in_the_line(lines):
    made = app()

    @made.get("/search")
    async def search() -> None:
        seconds = {"decode": 0.0, "encode": 0.0, "search": 0.002, "total": 0.003}
        record.searched(["an-item"], seconds, 0.5, known=7, reached=5, index="v1")

    before = {name: value(f"fashion_dml_{name}") for name in ('searches_total{query="item"', "partial_searches_total{")}
    ask(made, "/search")
    line = lines[0]
    assert line.stages == {"decode": 0.0, "encode": 0.0, "search": 2.0, "total": 3.0}
    assert (line.index, line.catalog, line.coverage) == ("v1", 5, 0.5)
    assert {name: value(f"fashion_dml_{name}") - n for name, n in before.items()} == dict.fromkeys(before, 1)
    assert value("fashion_dml_catalogue_lag_commits{") == 2


def test_requests_and_refusals_are_counted():
    good = 'fashion_dml_requests_total{method="GET",replica="",route="/items/{item_id}",status="200"}'
    bad = 'fashion_dml_refusals_total{code="bad_thing",replica=""}'
    seconds = 'fashion_dml_request_seconds_count{replica="",route="/items/{item_id}"}'
    before = [value(name) for name in (good, bad, seconds)]
    ask(app(), "/items/1", "/items/2", "/refused")
    assert [value(name) - n for name, n in zip((good, bad, seconds), before, strict=True)] == [2, 1, 2]
    assert value("fashion_dml_in_flight{") == 1  # the request for /metrics itself


def test_a_gauge_tells_which_version_is_live():
    metrics.INDEX_INFO.only("v1", "m", "flat")
    metrics.INDEX_INFO.only("v2", "m", "flat")
    at = {v: value(f'fashion_dml_index_info{{kind="flat",model="m",replica="",version="{v}"}}') for v in ("v1", "v2")}
    assert at == {"v1": 0, "v2": 1}


def test_a_client_that_leaves(lines):
    async def leave() -> None:
        arrived = asyncio.Event()

        async def receive() -> dict[str, object]:
            arrived.set()
            return {"type": "http.request", "body": b"", "more_body": False}

        scope = {
            "type": "http", "method": "GET", "path": "/silent", "raw_path": b"/silent", "query_string": b"", "headers": [],
            "client": ("192.0.2.1", 1), "server": ("service", 80), "scheme": "http", "http_version": "1.1", "root_path": "",
        }  # fmt: skip
        task = asyncio.create_task(app()(scope, receive, lambda message: asyncio.sleep(0)))  # type: ignore[arg-type]
        while value_in_flight() < 1:
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    def value_in_flight() -> float:
        return metrics.REGISTRY.get_sample_value("fashion_dml_in_flight", {"replica": ""}) or 0

    metrics.IN_FLIGHT.set(0)
    asyncio.run(leave())
    assert value_in_flight() == 0
    assert [(line.status, line.code, line.aborted) for line in lines] == [(499, "client_left", True)]


def test_every_route_is_bounded(monkeypatch, lines):
    monkeypatch.setattr(deadline_module, "GRACE_S", 0.01)
    (reply,) = ask(app(seconds=0.01), "/silent")
    assert (reply.status_code, reply.json()["error"]["code"], reply.json()["error"]["limit"]) == (503, "too_slow", 0.01)
    assert reply.headers["retry-after"]
    assert lines[0].code == "too_slow"


def test_the_time_of_a_body_is_not_the_routes(monkeypatch):
    """A body may take longer than the deadline; what comes after it may not."""
    monkeypatch.setattr(deadline_module, "GRACE_S", 0.0)
    made = app(seconds=1)

    @made.post("/late")
    async def late(request: Request) -> None:
        await request.body()
        await asyncio.Event().wait()

    async def slowly():
        begun = time.monotonic()
        for part in range(4):
            while time.monotonic() < begun + 0.4 * part:
                await asyncio.sleep(0.01)
            yield b"x"

    (arrived,) = ask(made, "/body", method="POST", content=slowly())
    assert arrived.json() == {"bytes": 4}
    (bounded,) = ask(made, "/late", method="POST", content=b"x")
    assert bounded.json()["error"]["code"] == "too_slow"
