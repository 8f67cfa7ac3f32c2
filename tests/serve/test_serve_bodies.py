"""What bodies may hold, one and all together; a few decodes at a time. No cluster."""

from __future__ import annotations

import asyncio
import threading
import time

import pytest
from pydantic import ValidationError
from starlette.requests import Request

from serve import limits
from serve.bodies import BodyBudget, check_json
from serve.decoding import decoded_before
from serve.errors import Refusal
from serve.schema import JsonSearch, refusal


def test_json_is_counted_before_it_is_parsed() -> None:
    assert check_json(b"[1,2,3]", 3, 0) == b"[1,2,3]"
    for body, values, names in ((b"[1,2,3,4]", 3, 9), (b'{"a":1,"b":2}', 9, 1), (b"[[[[", 3, 9), (b"{{{{", 3, 9)):
        with pytest.raises(Refusal) as caught:
            check_json(body, values, names)
        assert (caught.value.status, caught.value.code) == (422, "too_many_values")
        assert caught.value.limit in (values, names)


def test_a_body_with_many_mistakes_gets_one_sentence() -> None:
    with pytest.raises(ValidationError) as caught:
        JsonSearch.model_validate({f"a{i}": 1 for i in range(limits.MISTAKES + 1)})
    found = refusal(caught.value)
    assert (found.code, found.message[:16]) == ("bad_body", f"{limits.MISTAKES + 1} values of th"[:16])


def test_bodies_share_a_budget_and_give_it_back() -> None:
    reached, go = [], asyncio.Event()

    async def app(scope, receive, send) -> None:
        body = await Request(scope, receive).body()
        reached.append(len(body))
        await go.wait()

    async def run() -> None:
        budget = BodyBudget(app, most=100)

        async def ask(size: int) -> None:
            async def receive() -> dict:
                return {"type": "http.request", "body": bytes(size), "more_body": False}

            await budget({"type": "http", "method": "POST", "headers": []}, receive, None)  # type: ignore[arg-type]

        first = asyncio.create_task(ask(60))
        while not reached:
            await asyncio.sleep(0)
        with pytest.raises(Refusal) as caught:
            await ask(41)
        assert (caught.value.status, caught.value.code, caught.value.limit) == (503, "too_many_bodies", 100)
        go.set()
        await asyncio.gather(first, ask(40))
        await ask(100)  # all of it is free again, after the refusal too
        assert reached == [60, 40, 100]

    asyncio.run(run())


def test_no_more_decodes_at_once_than_the_limit() -> None:
    running, most, lock, gate = 0, 0, threading.Lock(), threading.Event()

    def decode() -> int:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        gate.wait(60)
        with lock:
            running -= 1
        return 1

    async def run() -> int:
        asked = [asyncio.create_task(decoded_before(time.monotonic() + 60, decode)) for _ in range(4 * limits.DECODES_AT_ONCE)]
        while running < limits.DECODES_AT_ONCE:
            await asyncio.sleep(0.001)
        with pytest.raises(Refusal) as caught:  # one that waits past its deadline leaves the queue
            await decoded_before(time.monotonic() + 0.01, decode)
        assert (caught.value.status, caught.value.code) == (503, "too_slow")
        gate.set()
        return sum(await asyncio.gather(*asked))

    assert asyncio.run(run()) == 4 * limits.DECODES_AT_ONCE
    assert most == limits.DECODES_AT_ONCE
