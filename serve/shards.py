"""The pool of shard actors: every slot is asked once, a dead or slow replica is replaced by another one.

The shards of an index version are dealt to the slots, shard n to slot n % slots, and each slot has R replicas. The actors are
deployment-scoped: Serve's controller starts, checks and re-creates them. A handle stays bound to the process it was resolved for, so
it is resolved again when that process has died.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, TaskCancelledError
from ray.serve.config import DeploymentActorConfig

from fashion_dml.config import Serve
from fashion_dml.data.placement import selector
from fashion_dml.index.translate import Untranslated
from fashion_dml.storage import UserError
from serve.held import NotHeld
from serve.metrics import FAILOVERS, HEDGES
from serve.shard_actor import ShardActor

logger = logging.getLogger("ray.serve")
AVOID_SECONDS = 2.0  # a replica that has just failed is asked last for so long


def actor_name(slot: int, replica: int) -> str:
    return f"shard-{slot:05d}-replica-{replica}"


def shard_actors(index: str, catalog: str, slots: int, settings: Serve) -> list[DeploymentActorConfig]:
    """Slots x replicas, spread over the nodes."""
    return [
        DeploymentActorConfig(
            name=actor_name(slot, replica), actor_class=ShardActor,
            init_args=(index, slot, slots, catalog, settings.shard_threads, settings.shard_gpus > 0, settings.keep_s),
            actor_options={"num_cpus": settings.shard_cpus, "num_gpus": settings.shard_gpus, "scheduling_strategy": "SPREAD"} | selector(settings.labels),
        )
        for slot in range(slots)
        for replica in range(settings.shard_replicas)
    ]  # fmt: skip


def _said(error: Exception) -> str:
    """Without the trace of the actor that Ray puts before it."""
    cause = getattr(error, "cause", error)
    return str(cause) or type(cause).__name__


class ReplicaGone(Exception):
    """This replica of a slot can't answer now."""


@dataclass(frozen=True)
class Layout:
    """Where an index version lies in the pool: rows of each slot that holds some of its shards."""

    version: str
    rows: tuple[int, ...]

    @classmethod
    def of(cls, version: str, shards: Sequence[int], slots: int) -> Layout:
        """shards: rows of each."""
        return cls(version, tuple(sum(shards[slot::slots]) for slot in range(min(slots, len(shards)))))


@dataclass(frozen=True)
class Answers:
    """One answer a slot, None where no replica answered in time; coverage: share of the index's rows behind the answers."""

    of_shards: list[Any]
    coverage: float

    @property
    def given(self) -> list[Any]:
        return [a for a in self.of_shards if a is not None]


class ShardPool:
    """Lives in an ingress replica."""

    def __init__(self, slots: int, replicas: int, hedge_s: float) -> None:
        self.slots, self._replicas, self._hedge_s = slots, replicas, hedge_s
        self._handles: dict[str, ActorHandle] = {}
        self._failed: dict[str, float] = {}
        self._wrong: dict[str, str] = {}  # of replicas that live but can't answer: why
        self._asked: Counter[str] = Counter()  # calls under way
        self._first = random.randrange(
            replicas
        )  # others than other ingress replicas', where there is nothing else to choose by

    @property
    def failing(self) -> int:
        """Replicas that live but can't answer, as far as they have been asked."""
        return len(self._wrong)

    async def prepare(self, layout: Layout) -> None:
        """Have every replica open a version. Raises UserError unless at least one of each slot does; the others open it when asked."""
        slots = range(len(layout.rows))
        for tried in await asyncio.gather(*(self._prepare_slot(slot, layout.version) for slot in slots)):
            if all(tried):
                raise UserError(f"Index version {layout.version} can't be opened: {tried[0]}")

    async def _prepare_slot(self, slot: int, version: str) -> list[str]:
        """What went wrong in each replica; "" where nothing did."""

        async def one(name: str) -> str:
            try:
                await (await self._resolve(name)).prepare.remote(version)
            except (RayActorError, ReplicaGone) as error:
                self._lost(name)
                return f"{name} is away ({type(error).__name__})"
            except Exception as error:  # a full disk, a GPU without memory, an altered file: its twin may open it
                return _said(error)
            return ""

        return list(await asyncio.gather(*(one(actor_name(slot, replica)) for replica in range(self._replicas))))

    async def ask(self, layout: Layout, method: str, *args: Any, deadline: float) -> Answers:
        """Call `method` of HeldShards on one replica of every slot; `deadline` is a time of time.monotonic().

        Answers are wrapped, (answer,), so that None from an actor differs from no answer. Raises Untranslated.
        """
        slots = range(len(layout.rows))
        call = (layout.version, method, *args)
        found = await asyncio.gather(*(self._ask(slot, call, deadline) for slot in slots))
        total = sum(layout.rows)
        reached = sum(rows for rows, answer in zip(layout.rows, found, strict=True) if answer is not None)
        return Answers(found, reached / total if total else float(None not in found))

    def _order(self, slot: int) -> list[str]:
        """The slot's replicas: one that has just failed last, then by calls under way, so that one that is idle stays warm."""
        names = [actor_name(slot, (self._first + i) % self._replicas) for i in range(self._replicas)]
        now = time.monotonic()
        return sorted(names, key=lambda name: (now - self._failed.get(name, -AVOID_SECONDS) < AVOID_SECONDS, self._asked[name]))

    async def _ask(self, slot: int, call: tuple[Any, ...], deadline: float) -> tuple[Any] | None:
        names = self._order(slot)
        pending: set[asyncio.Task[tuple[Any]]] = set()
        try:
            while names or pending:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                if names:
                    if len(names) < self._replicas:  # not the first
                        (HEDGES if pending else FAILOVERS).add()
                    pending.add(asyncio.create_task(self._call(names.pop(0), call)))
                wait = min(left, self._hedge_s) if names else left
                done, pending = await asyncio.wait(pending, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    if task.exception() is None:
                        return task.result()
                    if not isinstance(task.exception(), ReplicaGone):
                        raise task.exception()  # type: ignore[misc]
            return None
        finally:
            for task in pending:
                task.cancel()

    async def _call(self, name: str, call: tuple[Any, ...]) -> tuple[Any]:
        self._asked[name] += 1
        try:
            return await self._answered(name, call)
        finally:
            self._asked[name] -= 1

    async def _answered(self, name: str, call: tuple[Any, ...]) -> tuple[Any]:
        cached = self._handles.get(name)
        for handle in (cached, None) if cached else (None,):  # a dead handle is resolved anew once: the actor may be back
            try:
                live = handle or await self._resolve(name)
                try:
                    answer = await live.ask.remote(*call)
                except NotHeld:  # Serve has created it again, or the version was let go
                    await live.prepare.remote(call[0])
                    answer = await live.ask.remote(*call)
            except RayActorError:
                self._lost(name)
                continue
            except (Untranslated, TaskCancelledError, ReplicaGone):  # nothing is wrong with the replica
                raise
            except Exception as error:  # another replica may have opened or read what this one can't
                if self._wrong.get(name) != (why := _said(error)):
                    logger.error("%s can't answer: %s", name, why)
                self._wrong[name], self._failed[name] = why, time.monotonic()
                raise ReplicaGone(name) from error
            self._handles[name] = live
            self._failed.pop(name, None)
            self._wrong.pop(name, None)
            return (answer,)
        raise ReplicaGone(name)

    async def _resolve(self, name: str) -> ActorHandle:
        try:
            return await asyncio.to_thread(serve.get_deployment_actor, name)
        except ValueError as error:  # the name is not registered: Serve has not re-created the actor yet
            self._lost(name)
            raise ReplicaGone(name) from error

    def _lost(self, name: str) -> None:
        self._wrong.pop(name, None)
        if self._handles.pop(name, None) is not None:
            logger.warning("%s is gone; its other replicas answer until Serve has re-created it", name)
        self._failed[name] = time.monotonic()
