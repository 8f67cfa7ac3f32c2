"""The benchmark of the service: the generator counts what was answered, rows are the ratios they say they are."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress

import numpy as np
import pytest

from jobs.benchmarks.load import Ask, Seen, load, run
from jobs.benchmarks.serve import batch_ask, photo_ask, rows_of


@contextmanager
def answering(refuse_each: int = 0, close: bool = False) -> Iterator[tuple[int, list[bytes]]]:
    """A small HTTP server: (its port, the bodies that came)."""
    bodies: list[bytes] = []
    ready, loop = threading.Event(), asyncio.new_event_loop()
    port = [0]

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with closing(writer), suppress(asyncio.IncompleteReadError):  # the generator has ended
            while head := await reader.readuntil(b"\r\n\r\n"):
                length = int(head.lower().split(b"content-length:")[1].split(b"\r\n")[0])
                bodies.append(await reader.readexactly(length))
                if close:
                    break
                refused = refuse_each and len(bodies) % refuse_each == 0
                first, body = (b"503 Away", b'{"error": "away"}') if refused else (b"200 OK", b"{}" * 5000)
                writer.write(b"HTTP/1.1 " + first + b"\r\ncontent-length: %d\r\n\r\n" % len(body))
                await writer.drain()
                writer.write(body)

    async def whole() -> None:
        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        port[0] = server.sockets[0].getsockname()[1]
        ready.set()

    loop.create_task(whole())
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    ready.wait(20)
    yield port[0], bodies
    loop.call_soon_threadsafe(loop.stop)
    thread.join(20)


def test_all_that_is_answered_is_counted_and_requests_go_in_turns() -> None:
    asks = [Ask("POST", "/x", "text/plain", b"a" * 70_000), Ask("GET", "/y")]
    with answering() as (port, bodies):
        seen = load(port, asks, connections=3, seconds=0.3)
        assert seen.refused == 0
        assert len(seen.milliseconds) == len(bodies) >= 3
        assert seen.seconds >= 0.3
        assert 0 < seen.cpu_seconds < seen.seconds + 1
        assert abs(sum(map(len, bodies)) / 70_000 - len(bodies) / 2) <= 1


def test_refusals_are_counted_with_the_first_ones_words() -> None:
    with answering(refuse_each=4) as (port, bodies):
        seen = load(port, [Ask("GET", "/")], connections=1, seconds=0.2)
        assert seen.refused == len(bodies) // 4 > 0
        assert "503 Away" in seen.first_refusal
        assert "away" in seen.first_refusal


def test_a_service_that_closes_connections_is_an_error() -> None:
    with answering(close=True) as (port, _), pytest.raises(ConnectionError, match="closed the connections after"):
        asyncio.run(run(port, 2, 5, [Ask("GET", "/").on_the_wire("h")]))


def test_rows_are_medians_of_the_turns_ratios() -> None:
    def seen(milliseconds: float, count: int, seconds: float = 1.0) -> Seen:
        return Seen([milliseconds] * count, 0, "", seconds, 0.1)

    found = {
        "alone": [[10.0] * 3, [20.0] * 3, [10.0]],
        "bare": [seen(1, 3), seen(2, 3), seen(5, 3)],
        "one": [seen(12, 30), seen(48, 30), seen(30, 30)],
        "plain_one": [seen(6, 30), seen(96, 30), seen(20, 30)],
        "plain_many": [seen(9, 20), seen(9, 20), seen(9, 25)],
        "photos": [100.0, 50.0, 200.0],
        "many": [seen(9, 80), seen(9, 50), seen(9, 100)],
    }
    rows = {row.name: row for row in rows_of(found)}
    assert rows["p50_over_floor"].value == pytest.approx(1.5)  # of 1, 2 and 1.5
    assert rows["throughput_over_inprocess"].value == pytest.approx(0.8)  # of 0.8, 1 and 0.5
    assert rows["p50_over_plain"].value == pytest.approx(1.5)  # of 2, 0.5 and 1.5
    assert rows["throughput_over_plain"].value == pytest.approx(4)  # of 4, 2.5 and 4
    assert (rows["p50_over_floor"].goal, rows["throughput_over_inprocess"].goal) == (1, 0.7)
    assert (rows["p50_ms"].value, rows["bare_hop_p50_ms"].value, rows["requests_per_s"].value) == (30, 2, 80)
    assert "batch_throughput_over_index" not in rows
    found |= {"vectors": [1000.0, 2000.0, 4000.0], "batch": [seen(9, 25), seen(9, 25), seen(9, 50)]}
    rows = {row.name: row for row in rows_of(found)}
    assert rows["batch_throughput_over_index"].value == pytest.approx(0.4)  # 800, 800 and 1,600 vectors a second
    assert rows["batch_throughput_over_index"].goal == 0.5


def test_bodies_are_what_the_service_reads() -> None:
    ask = photo_ask(b"\xff\xd8photo")
    assert b'name="image"; filename=' in ask.body
    assert ask.content_type.endswith(ask.body[2:].split(b"\r\n")[0].decode())
    asked = json.loads(batch_ask().body)
    vectors = np.frombuffer(base64.b64decode(asked["vectors_base64"]), "<f4").reshape(32, 128)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
