"""The pool of shard actors: every shard is asked once, a dead or slow replica is replaced by another one.

The actors are deployment-scoped: Serve's controller starts, checks and re-creates them. A handle stays bound to the
process it was resolved for, so it is resolved again when that process has died.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ray import serve
from ray.actor import ActorHandle
from ray.exceptions import RayActorError
from ray.serve.config import DeploymentActorConfig

from fashion_dml.config import Serve
from fashion_dml.index.follow import Behind
from fashion_dml.index.manifest import IndexManifest
from serve.metrics import FAILOVERS, HEDGES
from serve.shard_actor import ShardActor

logger = logging.getLogger("ray.serve")
AVOID_SECONDS = 2.0  # a replica that has just failed is asked last for so long


def actor_name(shard: int, replica: int) -> str:
    return f"shard-{shard:05d}-replica-{replica}"


def shard_actors(index: str, catalog: str, manifest: IndexManifest, settings: Serve) -> list[DeploymentActorConfig]:
    """Shards x replicas, spread over the nodes."""
    return [
        DeploymentActorConfig(
            name=actor_name(shard, replica),
            actor_class=ShardActor,
            init_args=(
                index,
                manifest.version,
                shard,
                len(manifest.shards),
                catalog,
                settings.shard_threads,
                settings.shard_gpus > 0,
            ),
            actor_options={
                "num_cpus": settings.shard_cpus,
                "num_gpus": settings.shard_gpus,
                "scheduling_strategy": "SPREAD",
            },
        )
        for shard in range(len(manifest.shards))
        for replica in range(settings.shard_replicas)
    ]


class ReplicaGone(Exception):
    """This replica of a shard can't be reached now."""


@dataclass(frozen=True)
class Answers:
    """One answer a shard, None where no replica answered in time; coverage: share of the index's rows behind the answers."""

    of_shards: list[Any]
    coverage: float

    @property
    def given(self) -> list[Any]:
        return [a for a in self.of_shards if a is not None]


class ShardPool:
    """Lives in an ingress replica; `rows` are the rows of each shard."""

    def __init__(self, rows: Sequence[int], replicas: int, hedge_s: float) -> None:
        self._rows, self._replicas, self._hedge_s = rows, replicas, hedge_s
        self._handles: dict[str, ActorHandle] = {}
        self._failed: dict[str, float] = {}
        self._turn = itertools.count()

    async def ask(self, method: str, *args: Any, deadline: float) -> Answers:
        """Call `method` on one replica of every shard; `deadline` is a time of time.monotonic().

        Answers are wrapped, (answer,), so that None from an actor differs from no answer.
        """
        turn = next(self._turn)
        found = await asyncio.gather(*(self._ask(shard, turn, method, args, deadline) for shard in range(len(self._rows))))
        total = sum(self._rows)
        reached = sum(rows for rows, answer in zip(self._rows, found, strict=True) if answer is not None)
        return Answers(found, reached / total if total else float(None not in found))

    async def _ask(self, shard: int, turn: int, method: str, args: tuple[Any, ...], deadline: float) -> tuple[Any] | None:
        names = [actor_name(shard, (turn + i) % self._replicas) for i in range(self._replicas)]
        names.sort(key=lambda name: time.monotonic() - self._failed.get(name, -AVOID_SECONDS) < AVOID_SECONDS)
        pending: set[asyncio.Task[tuple[Any]]] = set()
        try:
            while names or pending:
                left = deadline - time.monotonic()
                if left <= 0:
                    return None
                if names:
                    if len(names) < self._replicas:  # not the first
                        (HEDGES if pending else FAILOVERS).add()
                    pending.add(asyncio.create_task(self._call(names.pop(0), method, args)))
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

    async def _call(self, name: str, method: str, args: tuple[Any, ...]) -> tuple[Any]:
        cached = self._handles.get(name)
        for handle in (cached, None) if cached else (None,):  # a dead handle is resolved anew once: the actor may be back
            try:
                live = handle or await self._resolve(name)
                answer = await getattr(live, method).remote(*args)
            except RayActorError:
                self._lost(name)
                continue
            except Behind as error:  # another replica may have read what this one can't
                logger.error("%s can't follow the catalogue: %s", name, error)
                self._failed[name] = time.monotonic()
                raise ReplicaGone(name) from error
            self._handles[name] = live
            self._failed.pop(name, None)
            return (answer,)
        raise ReplicaGone(name)

    async def _resolve(self, name: str) -> ActorHandle:
        try:
            return await asyncio.to_thread(serve.get_deployment_actor, name)
        except ValueError as error:  # the name is not registered: Serve has not re-created the actor yet
            self._lost(name)
            raise ReplicaGone(name) from error

    def _lost(self, name: str) -> None:
        if self._handles.pop(name, None) is not None:
            logger.warning("%s is gone; its other replicas answer until Serve has re-created it", name)
        self._failed[name] = time.monotonic()
