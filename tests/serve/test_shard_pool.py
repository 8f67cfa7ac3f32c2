"""A replica that lives but can't answer, as on a full disk: its twin does, and a version that no twin can open goes live nowhere."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
import ray
from ray.actor import ActorHandle

from fashion_dml.index.translate import Untranslated
from fashion_dml.storage import UserError
from serve.shards import Answers, Layout, ShardPool, actor_name

pytestmark = pytest.mark.cluster
LAYOUT = Layout.of("v1", [3, 5], 2)


@ray.remote(num_cpus=0)
class Replica:
    """Stands where a ShardActor does; fails as it is told to."""

    def __init__(self, name: str, failure: Exception | None = None) -> None:
        self._name, self._failure = name, failure

    def prepare(self, version: str) -> None:
        del version
        if self._failure is not None:
            raise self._failure

    def ask(self, version: str, method: str) -> str:
        self.prepare(version)
        return f"{method} by {self._name}"


class Pool(ShardPool):
    """Its actors are given, not found."""

    def __init__(self, failures: dict[str, Exception]) -> None:
        super().__init__(2, 2, hedge_s=30)
        names = [actor_name(slot, replica) for slot in range(2) for replica in range(2)]
        self.actors = {name: Replica.remote(name, failures.get(name)) for name in names}

    async def _resolve(self, name: str) -> ActorHandle:
        return self.actors[name]

    def asked(self) -> Answers:
        async def whole() -> Answers:
            return await self.ask(LAYOUT, "describe", deadline=time.monotonic() + 60)

        return asyncio.run(whole())


FULL = OSError(28, "No space left on device")


@pytest.mark.parametrize("failure", [FULL, RuntimeError("CUDA out of memory"), UserError("altered")])
def test_the_twin_answers(ray_local: str, failure: Exception) -> None:
    pool = Pool({actor_name(1, replica): failure for replica in range(1)})
    for _ in range(4):
        found: list[Any] = pool.asked().of_shards
        assert found[0][0].startswith("describe by shard-00000")
        assert found[1] == (f"describe by {actor_name(1, 1)}",)
    asyncio.run(pool.prepare(LAYOUT))  # one of each slot can


def test_a_slot_without_a_replica_that_can_is_no_answer(ray_local: str) -> None:
    pool = Pool({actor_name(1, replica): FULL for replica in range(2)})
    answers = pool.asked()
    assert (answers.coverage, answers.of_shards[1], pool.failing) == (3 / 8, None, 2)
    with pytest.raises(UserError, match=r"^Index version v1 can't be opened: \[Errno 28\] No space left on device$"):
        asyncio.run(pool.prepare(LAYOUT))


def test_what_the_caller_must_do_is_raised(ray_local: str) -> None:
    pool = Pool({actor_name(0, replica): Untranslated(7) for replica in range(2)})
    with pytest.raises(Untranslated):
        pool.asked()
