"""Requests that wait for one another only while there is work anyhow: nothing runs, go at once; something runs, gather.

So a lone request waits for nobody, and under load batches grow by themselves to what arrives during one pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, Generic, TypeVar

from serve.background import detached

Given = TypeVar("Given")
Made = TypeVar("Made")


class Batcher(Generic[Given, Made]):
    """Calls `run` on lists of items, `passes` at a time, and gives each caller its own answer, in order of arrival.

    The sizes of a list's items add up to `most` at most, but one item is always taken. Lives in one event loop. A failure of `run` is
    every caller's of that list; who is cancelled while waiting is left out.
    """

    def __init__(
        self, run: Callable[[list[Given]], Awaitable[Sequence[Made]]], most: int, passes: int = 1,
        size: Callable[[Given], int] = lambda _: 1,
    ) -> None:  # fmt: skip
        self._run, self._most, self._passes, self._size = run, most, passes, size
        self._waiting: list[tuple[Given, asyncio.Future[Made]]] = []
        self._running = 0
        self._tasks: set[asyncio.Task[None]] = set()  # the loop itself keeps none alive

    async def __call__(self, item: Given) -> Made:
        """What `run` makes of the item."""
        done: asyncio.Future[Made] = asyncio.get_running_loop().create_future()
        self._waiting.append((item, done))
        if self._running < self._passes:
            self._running += 1
            task = detached(self._work())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        return await done

    @property
    def idle(self) -> bool:
        """Whether nothing runs."""
        return self._running == 0

    def _next(self) -> list[tuple[Given, asyncio.Future[Made]]]:
        """Take what waits and fits, without those who have left."""
        taken = sizes = 0
        for item, _ in self._waiting:
            sizes += self._size(item)
            if taken and sizes > self._most:
                break
            taken += 1
        batch, self._waiting = self._waiting[:taken], self._waiting[taken:]
        return [(item, done) for item, done in batch if not done.done()]

    async def _work(self) -> None:
        while self._waiting:
            batch = self._next()
            if not batch:
                continue
            try:
                made = await self._run([item for item, _ in batch])
                if len(made) != len(batch):
                    raise RuntimeError(f"{len(made)} answers to {len(batch)} items")
            except (
                Exception,
                asyncio.CancelledError,
            ) as error:  # a call may be cancelled from afar: those who wait must hear of it
                if isinstance(error, asyncio.CancelledError):
                    error = RuntimeError("the call was cancelled")
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
            else:
                for (_, done), answer in zip(batch, made, strict=True):
                    if not done.done():
                        done.set_result(answer)
        self._running -= 1  # in the same turn of the loop in which nothing waits: what comes next begins a task of its own


class GroupedBatcher(Generic[Given, Made]):
    """A Batcher for each key: only items of the same key go together. Idle ones are forgotten."""

    def __init__(
        self, run: Callable[[Any, list[Given]], Awaitable[Sequence[Made]]], most: int, passes: int = 1,
        size: Callable[[Given], int] = lambda _: 1,
    ) -> None:  # fmt: skip
        self._run, self._most, self._passes, self._size = run, most, passes, size
        self._of: dict[Hashable, Batcher[Given, Made]] = {}

    async def __call__(self, key: Hashable, item: Given) -> Made:
        """What `run` makes of the item, in a list of items of this key."""
        batcher = self._of.get(key)
        if batcher is None:

            async def run(items: list[Given]) -> Sequence[Made]:
                return await self._run(key, items)

            batcher = self._of[key] = Batcher(run, self._most, self._passes, self._size)
        try:
            return await batcher(item)
        finally:
            for done in [
                name for name, one in self._of.items() if one.idle
            ]:  # also of those whose last caller left before its end
                del self._of[done]

    def __len__(self) -> int:
        """Keys that are being worked on."""
        return len(self._of)
