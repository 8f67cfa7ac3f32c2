"""A shard actor's death: the other replica answers; without one, coverage tells it; and the shard comes back."""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import ray
from ray.actor import ActorHandle
from ray.util import list_named_actors
from serve_helpers import until

from fashion_dml.index.filters import Filter
from serve.shards import actor_name

pytestmark = pytest.mark.serve


def find_actor(shard: int, replica: int):
    """The actor under its present name; None while it is away."""
    for entry in list_named_actors(all_namespaces=True):
        if entry["name"].endswith(f"::{actor_name(shard, replica)}"):
            return ray.get_actor(entry["name"], namespace=entry["namespace"])
    return None


def describe(shard: int, replica: int) -> dict | None:
    actor = find_actor(shard, replica)
    try:
        if actor is None:
            return None
        process = ray.get(actor.process.remote(), timeout=10)
        return process | ray.get(actor.ask.remote(process["versions"][-1], "describe", 0), timeout=10)
    except (ray.exceptions.RayActorError, ray.exceptions.GetTimeoutError, ValueError):
        return None


def search(client, photo, **more):
    return client.post("/v1/search", json={"item_id": photo.item_id, "k": 200} | more)


def counted(client, name: str) -> float:
    """A counter of the ingress replica, 0 before it first counted."""
    lines = [line for line in client.get("/metrics").text.splitlines() if line.startswith(f"fashion_dml_{name}_total{{")]
    return sum(float(line.rsplit(" ", 1)[1]) for line in lines)


def test_a_second_service_does_not_take_the_first_ones_place(client, ray_local, settings):
    """`jobs.serve` in a cluster that serves this application already: nothing changes, nothing ends."""
    command = [sys.executable, "-m", "jobs.serve", "--workspace", settings.workspace]
    done = subprocess.run(command, env=os.environ | {"RAY_ADDRESS": ray_local}, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout) == (2, ""), done
    assert done.stderr.strip().splitlines()[-1].startswith("error: This cluster's Serve has an application `search` already")
    assert client.get("/readyz").status_code == 200


def test_shards_hold_their_rows_without_torch(client, photos):
    found = [describe(shard, replica) for shard in range(2) for replica in range(2)]
    assert sum(f["rows"] for f in found[::2]) == sum(f["rows"] for f in found[1::2]) == len(photos)
    assert not any(f["imports_torch"] for f in found)
    assert len({f["pid"] for f in found}) == 4


def test_clients_that_leave_silence_no_replica(address, client, photos):
    """Ray cancels the calls of a request whose client has gone. Both replicas must still answer afterwards: no search has to be hedged."""
    host, port = address.removeprefix("http://").split(":")
    body = json.dumps({"vector": [1.0] + [0.0] * 31}).encode()
    head = (
        f"POST /v1/search HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    )
    draw = random.Random(0)
    for _ in range(60):
        leaving = [socket.create_connection((host, int(port)), timeout=30) for _ in range(draw.randint(2, 8))]
        for connection in leaving:
            connection.sendall(head + body)
        for _ in range(draw.randint(0, 4)):  # meanwhile their searches get somewhere
            client.get("/healthz")
        for connection in leaving:
            connection.close()
    until(lambda: client.get("/readyz").status_code == 200)
    before = counted(client, "shard_hedges")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda photo: search(client, photo, min_coverage=1.0).status_code, photos[:16]))
    assert found == [200] * len(found)
    assert counted(client, "shard_hedges") == before


@ray.remote(num_cpus=0, max_concurrency=100)
class Caller:
    """Calls shard actors as an ingress replica does: from an asyncio task that may be cancelled meanwhile."""

    def __init__(self, shards: list[tuple[ActorHandle, str]]) -> None:
        self.shards = shards

    async def search(self, calls: int, queries: int) -> None:
        vectors = np.eye(32, dtype=np.float32)[np.arange(queries) % 32]
        await asyncio.gather(*(
            actor.ask.remote(version, "find", vectors, 10, Filter(), False, 0) for actor, version in self.shards for _ in range(calls)
        ))  # fmt: skip

    async def alive(self, shard: int, seconds: float) -> int:
        actor, _ = self.shards[shard]
        return (await asyncio.wait_for(asyncio.wrap_future(actor.process.remote().future()), seconds))["pid"]


@pytest.mark.slow
def test_cancelled_calls_keep_no_shard_from_answering_that_caller(client, photos):
    """What a leaving client does to a shard, without HTTP: in Ray 2.60 an actor that takes calls in order fails this two times of three."""
    held = [(find_actor(shard, replica), describe(shard, replica)) for shard in range(2) for replica in range(2)]
    caller = Caller.remote([(actor, process["versions"][-1]) for actor, process in held])
    draw = random.Random(0)
    for _ in range(40):
        under_way = [caller.search.remote(draw.randint(1, 3), draw.choice([1, 50, 500])) for _ in range(draw.randint(1, 6))]
        ray.wait(under_way, timeout=draw.choice([0, 0.001, 0.005, 0.02]))
        for call in under_way:
            ray.cancel(call)
        answered = [ray.get(caller.alive.remote(n, 60.0), timeout=90) for n in range(len(held))]
        assert answered == [process["pid"] for _, process in held]


def test_one_replica_dies_and_nobody_notices(client, photos):
    """Each of the two in turn: an idle pool asks always the same one first, which of them is drawn."""
    whole = search(client, photos[0]).json()["results"]
    before = counted(client, "shard_failovers") + counted(client, "shard_hedges")
    for replica in range(2):
        victim = describe(0, replica)["pid"]
        os.kill(victim, signal.SIGKILL)
        for _ in range(20):
            reply = search(client, photos[0], min_coverage=1.0)
            assert reply.status_code == 200, reply.text
            assert reply.json()["results"] == whole
        assert until(lambda replica=replica: describe(0, replica))["pid"] != victim
    assert counted(client, "shard_failovers") + counted(client, "shard_hedges") > before


def test_both_replicas_die_and_coverage_tells(client, photos):
    dead = [describe(1, replica) for replica in range(2)]
    share = 1 - dead[0]["rows"] / len(photos)
    before = counted(client, "partial_searches")
    vector = [1.0] + [0.0] * 31
    for actor in dead:
        os.kill(actor["pid"], signal.SIGKILL)
    partial = client.post("/v1/search", json={"vector": vector, "k": 200})
    assert partial.status_code == 200
    assert partial.json()["coverage"] == pytest.approx(share)
    assert len(partial.json()["results"]) == len(photos) - dead[0]["rows"]
    assert counted(client, "partial_searches") == before + 1
    strict = client.post("/v1/search", json={"vector": vector, "min_coverage": 1.0})
    assert (strict.status_code, strict.json()["error"]["code"]) == (503, "low_coverage")
    assert strict.headers["retry-after"]
    assert client.get("/v1/items/nobody").status_code == 503  # it may be in the shard that is away
    assert client.get("/readyz").status_code == 503
    until(lambda: client.get("/readyz").status_code == 200)
    assert client.post("/v1/search", json={"vector": vector, "k": 200}).json()["coverage"] == 1.0
    until(lambda: all(describe(1, replica) for replica in range(2)))
