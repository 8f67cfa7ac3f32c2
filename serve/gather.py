"""Searches that ask the same of the shards go to them together: one call and one pass over the vectors instead of many."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np

from serve.batcher import GroupedBatcher
from serve.shards import Answers

MOST_TOGETHER = 32  # queries of one call; a shard's time for a query hardly falls beyond
LENIENCE_S = 0.5  # that a call may outlast the first of its requests' deadlines: one who comes late spoils no other's answer
CALLS = 2  # under way at once for the same kind of search: the shards have work while the ingress takes an answer apart

Ask = Callable[..., Awaitable[Answers]]
"""As Generation.ask."""


class Gathered:
    """`find` of one index version. The key of what may go together is all but the vectors: k, filter, grouping, commit."""

    def __init__(self, ask: Ask) -> None:
        self._ask = ask
        self._batched: GroupedBatcher[tuple[np.ndarray, float], Answers] = GroupedBatcher(
            self._call, MOST_TOGETHER, CALLS, size=lambda asked: len(asked[0])
        )

    async def find(self, vectors: np.ndarray, *same: Any, deadline: float) -> Answers:
        """Answers to the queries float32 [Q, D]; same: hashable, the further arguments of ShardActor's `find`."""
        return await self._batched(same, (vectors, deadline))

    async def _call(self, same: tuple[Any, ...], waiting: list[tuple[np.ndarray, float]]) -> list[Answers]:
        """One deadline for all: the last of theirs, but not much after the first."""
        deadlines = [deadline for _, deadline in waiting]
        deadline = min(max(deadlines), max(min(deadlines), time.monotonic()) + LENIENCE_S)
        vectors = [one for one, _ in waiting]
        whole = await self._ask("find", np.concatenate(vectors), *same, deadline=deadline)
        ends = np.cumsum([len(one) for one in vectors]).tolist()
        return [
            Answers(
                [None if a is None else ((a[0][0][end - len(one) : end], a[0][1]),) for a in whole.of_shards], whole.coverage
            )
            for one, end in zip(vectors, ends, strict=True)
        ]
