"""Batches form only while something runs; every caller gets its own answer, whatever happens to the others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from contextvars import ContextVar
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from serve.batcher import Batcher, GroupedBatcher


class Passes:
    """Doubles numbers; each pass waits until it is let go. Attributes: seen, the lists in the order in which they came."""

    def __init__(self) -> None:
        self.seen: list[list[int]] = []
        self._gates: list[asyncio.Event] = []

    async def __call__(self, items: list[int]) -> list[int]:
        self.seen.append(items)
        gate = asyncio.Event()
        self._gates.append(gate)
        await gate.wait()
        return [2 * i for i in items]

    async def let_go(self) -> None:
        """End the pass that runs, and let what follows begin."""
        self._gates[-1].set()
        await settle()


async def settle() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


def in_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        async def whole() -> None:
            async with asyncio.timeout(20):
                await test()

        asyncio.run(whole())

    run.__name__ = test.__name__
    run.__doc__ = test.__doc__
    return run


@in_loop
async def test_a_lone_item_goes_at_once_and_others_gather_meanwhile() -> None:
    passes = Passes()
    batcher: Batcher[int, int] = Batcher(passes, most=3)
    first = asyncio.create_task(batcher(1))
    await settle()
    assert passes.seen == [[1]]
    others = [asyncio.create_task(batcher(i)) for i in (2, 3, 4, 5)]
    await settle()
    assert passes.seen == [[1]]  # one pass at a time
    await passes.let_go()
    assert passes.seen == [[1], [2, 3, 4]]  # no more than `most`, the oldest first
    await passes.let_go()
    await passes.let_go()
    assert passes.seen[2:] == [[5]]
    assert await asyncio.gather(first, *others) == [2, 4, 6, 8, 10]
    assert batcher.idle


@in_loop
async def test_as_many_passes_as_allowed() -> None:
    passes = Passes()
    batcher: Batcher[int, int] = Batcher(passes, most=8, passes=2)
    asked = [asyncio.create_task(batcher(i)) for i in (1, 2, 3)]
    await settle()
    assert passes.seen == [[1, 2, 3]]  # what came in the same turn of the loop goes together
    asked.append(asyncio.create_task(batcher(4)))
    await settle()
    assert passes.seen == [[1, 2, 3], [4]]
    asked.append(asyncio.create_task(batcher(5)))
    await settle()
    assert len(passes.seen) == 2
    for gate in passes._gates:
        gate.set()
    await settle()
    await passes.let_go()
    assert await asyncio.gather(*asked) == [2, 4, 6, 8, 10]


@in_loop
async def test_items_of_several_sizes_fill_a_list_and_one_is_always_taken() -> None:
    passes = Passes()
    batcher: Batcher[int, int] = Batcher(passes, most=5, size=lambda item: item)
    asked = [asyncio.create_task(batcher(i)) for i in (9, 2, 3, 1, 5)]
    for _ in range(4):
        await settle()
        await passes.let_go()
    assert passes.seen == [[9], [2, 3], [1], [5]]
    assert await asyncio.gather(*asked) == [18, 4, 6, 2, 10]


@in_loop
async def test_who_left_is_not_worked_for() -> None:
    passes = Passes()
    batcher: Batcher[int, int] = Batcher(passes, most=8)
    asked = [asyncio.create_task(batcher(1))]
    await settle()
    asked += [asyncio.create_task(batcher(i)) for i in (2, 3)]
    await settle()
    asked[1].cancel()
    await passes.let_go()
    assert passes.seen == [[1], [3]]
    await passes.let_go()
    assert await asyncio.gather(asked[0], asked[2]) == [2, 6]
    assert asked[1].cancelled()


@in_loop
async def test_a_failure_is_that_of_its_batch_only() -> None:
    async def run(items: list[int]) -> list[int]:
        await asyncio.sleep(0)
        if 2 in items:
            raise ValueError("two")
        return items[:-1] if 9 in items else items

    batcher: Batcher[int, int] = Batcher(run, most=2)
    found = await asyncio.gather(*(batcher(i) for i in (1, 2, 3, 4, 8, 9)), return_exceptions=True)
    assert [str(f) for f in found] == ["two", "two", "3", "4", *["1 answers to 2 items"] * 2]
    assert await batcher(5) == 5  # and it goes on


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=40), st.integers(1, 5), st.integers(1, 3))
def test_every_item_gets_its_own_answer_once(items: list[tuple[int, bool]], most: int, passes: int) -> None:
    sizes, at_once, running = [], [], 0

    async def run(given: list[int]) -> list[int]:
        nonlocal running
        running += 1
        sizes.append(len(given))
        at_once.append(running)
        for _ in range(3):
            await asyncio.sleep(0)
        running -= 1
        return [-i for i in given]

    async def whole() -> list[int]:
        batcher: Batcher[int, int] = Batcher(run, most, passes)
        asked = []
        for i, (turns, _) in enumerate(items):
            for _ in range(turns):
                await asyncio.sleep(0)
            asked.append(asyncio.create_task(batcher(i)))
        return await asyncio.gather(*asked)

    assert asyncio.run(whole()) == [-i for i in range(len(items))]
    assert sum(sizes) == len(items)
    assert max(sizes, default=0) <= most
    assert max(at_once, default=0) <= passes


@in_loop
async def test_only_items_of_a_key_go_together() -> None:
    seen: list[Any] = []

    async def run(key: Hashable, items: list[int]) -> list[int]:
        seen.append((key, items))
        await settle()
        return [i * (10 if key == "tens" else 1) for i in items]

    batcher: GroupedBatcher[int, int] = GroupedBatcher(run, most=8)
    found = await asyncio.gather(*(batcher(key, i) for i, key in enumerate(["tens", "ones", "tens", "ones", "ones"])))
    assert found == [0, 1, 20, 3, 4]
    assert sorted(seen) == [("ones", [1, 3, 4]), ("tens", [0, 2])]
    await settle()
    assert len(batcher) == 0  # idle keys are forgotten
    assert await batcher("tens", 4) == 40


@in_loop
async def test_a_key_whose_only_caller_has_left_is_forgotten_too() -> None:
    gate = asyncio.Event()

    async def run(key: Hashable, items: list[int]) -> list[int]:
        if key == "slow":
            await gate.wait()
        return items

    batcher: GroupedBatcher[int, int] = GroupedBatcher(run, most=8)
    left = asyncio.create_task(batcher("slow", 1))
    await settle()
    left.cancel()
    await settle()
    assert len(batcher) == 1  # its pass still runs
    gate.set()
    await settle()
    assert await batcher("other", 2) == 2
    assert len(batcher) == 0


def test_a_call_that_is_cancelled_from_afar_is_told_and_the_next_one_goes_on():
    """As Serve does with a call of a request whose client has left."""
    request: ContextVar[str] = ContextVar("request", default="none")
    seen = []

    async def run(items: list[int]) -> list[int]:
        seen.append(request.get())
        if 0 in items:
            raise asyncio.CancelledError
        return items

    async def calls() -> list[object]:
        request.set("the first caller's")
        batcher = Batcher(run, 1)
        return [*await asyncio.gather(batcher(0), batcher(1), return_exceptions=True), await batcher(2)]

    failed, *answered = asyncio.run(asyncio.wait_for(calls(), 30))
    assert isinstance(failed, RuntimeError)
    assert answered == [1, 2]
    assert seen == ["none"] * 3  # in no caller's context, so that none takes the others' call away
