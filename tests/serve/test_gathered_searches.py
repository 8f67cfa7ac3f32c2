"""Searches that share a call get what each would have got alone."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import numpy as np

from serve.gather import CALLS, LENIENCE_S, MOST_TOGETHER, Gathered
from serve.shards import Answers


class Shards:
    """Two slots, the second away for `where` = "half"; a neighbour is (slot, first number of the query, k)."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, float]] = []

    async def ask(
        self, method: str, vectors: np.ndarray, k: int, where: str, grouped: bool, at: int, *, deadline: float
    ) -> Answers:
        assert (method, grouped) == ("find", False)
        self.calls.append((len(vectors), deadline))
        await asyncio.sleep(0.002)
        slots: list[Any] = [([(slot, float(v[0]), k) for v in vectors], at) for slot in range(2)]
        return Answers([(slots[0],), None if where == "half" else (slots[1],)], 0.5 if where == "half" else 1.0)


def test_each_gets_its_own_queries_from_every_slot() -> None:
    shards = Shards()

    async def whole() -> list[Answers]:
        gathered, deadline = Gathered(shards.ask), time.monotonic() + 60
        sizes = [1, 3, 1, 40, 2, 1, 1, 5]  # 40: more than go together
        firsts = np.cumsum([0, *sizes])
        return await asyncio.gather(*(
            gathered.find(np.arange(first, first + size, dtype=np.float32)[:, None], 10 + i % 2, "all", False, 7, deadline=deadline)
            for i, (first, size) in enumerate(zip(firsts[:-1], sizes, strict=True))
        ))  # fmt: skip

    found = asyncio.run(whole())
    first = 0
    for i, (size, answers) in enumerate(zip([1, 3, 1, 40, 2, 1, 1, 5], found, strict=True)):
        expected = [[(slot, float(first + n), 10 + i % 2) for n in range(size)] for slot in range(2)]
        assert answers.given == [((expected[0], 7),), ((expected[1], 7),)]
        assert answers.coverage == 1
        first += size
    assert len(shards.calls) < 8
    assert sum(size for size, _ in shards.calls) == first


def test_what_differs_goes_apart_and_a_slot_that_is_away_is_away_for_all() -> None:
    shards = Shards()

    async def whole() -> list[Answers]:
        gathered, deadline = Gathered(shards.ask), time.monotonic() + 60
        one = np.zeros((1, 1), np.float32)
        return await asyncio.gather(
            *(gathered.find(one, 5, where, False, 0, deadline=deadline) for where in ("all", "half") * 3)
        )

    found = asyncio.run(whole())
    assert [answers.coverage for answers in found] == [1.0, 0.5] * 3
    assert [answers.of_shards[1] is None for answers in found] == [False, True] * 3
    assert [size for size, _ in shards.calls] == [3, 3]


def test_the_last_deadline_holds_for_those_that_share_a_call_but_not_long_after_the_first() -> None:
    shards = Shards()

    async def whole() -> None:
        gathered, now = Gathered(shards.ask), time.monotonic()
        one = np.zeros((1, 1), np.float32)
        for left in ((50.3, 50.1, 50.2), (53, 51, 52), (-9, 50)):  # the last: one that is late already
            await asyncio.gather(*(gathered.find(one, 5, "all", False, 0, deadline=now + s) for s in left))
        (close, first), (apart, second), (late, third) = shards.calls
        assert (close, first, apart, second, late) == (3, now + 50.3, 3, now + 51 + LENIENCE_S, 2)
        assert now + LENIENCE_S <= third < now + 50

    asyncio.run(whole())


def test_calls_stay_within_their_bounds() -> None:
    shards, running = Shards(), [0]
    most = 0

    async def ask(*args: Any, deadline: float) -> Answers:
        nonlocal most
        running[0] += 1
        most = max(most, running[0])
        answers = await shards.ask(*args, deadline=deadline)
        running[0] -= 1
        return answers

    async def whole() -> None:
        gathered, deadline = Gathered(ask), time.monotonic() + 60
        one = np.zeros((1, 1), np.float32)

        async def client() -> None:
            for _ in range(4):
                await gathered.find(one, 5, "all", False, 0, deadline=deadline)

        await asyncio.gather(*(client() for _ in range(100)))

    asyncio.run(whole())
    assert most == CALLS
    assert max(size for size, _ in shards.calls) == MOST_TOGETHER
    assert sum(size for size, _ in shards.calls) == 400
