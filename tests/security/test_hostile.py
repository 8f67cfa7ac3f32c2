"""Some 300 hostile requests at the real service: each gets its refusal, no process dies, and none keeps the memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from ray._private.state import state
from ray.core.generated import gcs_pb2
from serve_helpers import until

from fashion_dml.data.decode import MAX_PIXELS
from jobs.benchmarks.hostile import answer
from jobs.benchmarks.hostile_cases import MULTIPART, OK, Hostile, form, request
from jobs.benchmarks.hostile_http import cases
from jobs.benchmarks.hostile_images import png
from serve.auth import WRITE_TOKEN
from serve.limits import DECODES_AT_ONCE

pytestmark = [pytest.mark.serve, pytest.mark.security]

TOKEN = "a token for the tests only"
ALL = cases(TOKEN, dim=32)
SERVING = ("ShardActor", "ProxyActor", "ServeController", "ServeReplica")
GROWTH = 200 << 20  # bytes that a process may hold more after everything below than before it
ONE_DECODE = 550 << 20  # bytes that decoding the largest image may take, at most


def memory(pid: int, field: str = "VmRSS") -> int:
    """Bytes. Raises FileNotFoundError if the process is gone."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def serving() -> dict[str, int]:
    """{actor: pid} of everything that serves: proxy, controller, ingress, encoder and shards."""
    table = state._connect_and_get_accessor().get_actor_table(None, "ALIVE")  # the state API needs Ray's dashboard
    found = [gcs_pb2.ActorTableData.FromString(row) for row in table]
    return {f"{a.class_name} {a.name}": a.pid for a in found if a.class_name.startswith(SERVING)}


@pytest.fixture(scope="module")
def before(address: str) -> dict[str, tuple[int, int]]:
    """{actor: (pid, bytes)} once everything is warm."""
    assert os.environ[WRITE_TOKEN] == TOKEN
    until(lambda: httpx.get(f"{address}/readyz", timeout=30).status_code == 200)
    until(lambda: len([name for name in serving() if name.startswith("ShardActor")]) == 4)
    for case in (c for c in ALL if c.name.startswith("image") and c.answers == (OK,)):
        answer(address, case)
    return {name: (pid, memory(pid)) for name, pid in serving().items()}


@pytest.fixture(scope="module")
def late(address: str, before: dict[str, tuple[int, int]]) -> Iterator[dict[str, Future]]:
    """Requests whose bodies don't come: the service waits for them while the other tests run."""
    waiting = [c for c in ALL if c.waits]
    with ThreadPoolExecutor(len(waiting)) as pool:
        yield {c.name: pool.submit(answer, address, c) for c in waiting}


def test_there_are_many_kinds() -> None:
    assert len({c.name for c in ALL}) == len(ALL) > 250
    assert sum(all(status >= 400 for status, _ in c.answers) for c in ALL) > 200


@pytest.mark.parametrize("case", [c for c in ALL if not c.waits], ids=lambda c: c.name[:80])
def test_each_gets_its_answer(address: str, late: dict[str, Future], case: Hostile) -> None:
    _, problem = answer(address, case)
    assert not problem


def test_large_images_at_once_wait_for_each_other(address: str, before: dict[str, tuple[int, int]]) -> None:
    """All are answered, and the ingress holds as many of them as it decodes at a time."""
    name = next(name for name in before if "search" in name)
    pid = before[name][0]
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak counts anew
    start = memory(pid)
    side = int(MAX_PIXELS**0.5) // 8 * 8
    sent = request(form(png(side, side, 8, 6)) + b"--b--\r\n", MULTIPART)
    case = Hostile("large", lambda: iter([sent]), (OK, (503, "too_slow")))
    with ThreadPoolExecutor(3 * DECODES_AT_ONCE) as pool:
        found = list(pool.map(lambda _: answer(address, case), range(3 * DECODES_AT_ONCE)))
    assert [problem for _, problem in found if problem] == []
    assert memory(pid, "VmHWM") - start < DECODES_AT_ONCE * ONE_DECODE


def test_bodies_that_never_come_are_given_up(late: dict[str, Future]) -> None:
    assert [f"{name}: {problem}" for name, future in late.items() if (problem := future.result()[1])] == []


def test_nothing_has_died_and_memory_is_as_before(
    address: str, client: httpx.Client, before: dict[str, tuple[int, int]]
) -> None:
    assert client.get("/readyz").json()["ready"] is True
    assert client.post("/v1/search", json={"vector": [1.0] + [0.0] * 31}).json()["coverage"] == 1.0
    assert serving() == {name: pid for name, (pid, _) in before.items()}
    grown = {name: memory(pid) - held for name, (pid, held) in before.items()}
    assert {name: more >> 20 for name, more in grown.items() if more > GROWTH} == {}
