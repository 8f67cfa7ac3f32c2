"""How changes of many requests become commits, without a service around it."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

import serve.catalogue as module
from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import changes_schema, deletes, upserts
from fashion_dml.index.manifest import Effort, IndexManifest
from fashion_dml.storage import Location, UserError
from serve.catalogue import LiveCatalogue, TooMuchWaits

DIM, WORDS = 4, ("colour=Black", "colour=Red")
SCHEMA = changes_schema(DIM, len(WORDS))


def manifest(folded: int = 0, dim: int = DIM) -> IndexManifest:
    return IndexManifest(
        version="v1", model="a" * 64, dim=dim, kind="flat", store="fp32", effort=Effort(0, 0), catalog=folded, shards=(1,),
        products=1, verticals={}, attributes=WORDS, files={}, inputs={}, config=None, measured={},
    )  # fmt: skip


def change(i: int) -> pa.Table:
    return upserts(
        SCHEMA, [f"i{i}"], product_ids=["p"], verticals=["hats"], vectors=np.eye(DIM, dtype=np.float32)[:1],
        attributes=np.zeros((1, len(WORDS)), np.int8), thumbnails=[b""], model="a" * 64,
    )  # fmt: skip


def test_changes_that_come_together_share_a_commit(tmp_path: Path):
    async def together() -> list[int]:
        live = LiveCatalogue(Location.of(tmp_path / "catalog"), manifest(), 60)
        first = await asyncio.gather(*(live.append(change(i)) for i in range(10)))
        second = await live.append(deletes(SCHEMA, ["i3"]))
        assert live.at == second
        return [*first, second]

    assert asyncio.run(together()) == [1] * 10 + [2]
    found = [table["item_id"].to_pylist() for _, table in Catalog.open(Location.of(tmp_path / "catalog")).since(0)]
    assert found == [[f"i{i}" for i in range(10)], ["i3"]]


def test_a_batch_takes_no_more_than_a_commit_holds(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "MOST_CHANGES", 4)

    async def together() -> list[int]:
        live = LiveCatalogue(Location.of(tmp_path / "catalog"), manifest(), 60)
        return list(await asyncio.gather(*(live.append(change(i)) for i in range(10))))

    assert asyncio.run(together()) == [1] * 4 + [2] * 4 + [3] * 2


def test_all_hear_that_a_commit_failed_and_the_next_may_succeed(tmp_path: Path):
    async def together() -> int:
        live = LiveCatalogue(Location.of(tmp_path / "catalog"), manifest(), 60)
        (tmp_path / "catalog").write_text("in the way")
        answers = await asyncio.gather(*(live.append(change(i)) for i in range(3)), return_exceptions=True)
        assert [type(a) for a in answers] == [UserError] * 3
        (tmp_path / "catalog").unlink()
        return await live.append(change(9))

    assert asyncio.run(together()) == 1


def test_a_commit_that_a_look_under_way_missed_is_looked_for_again(tmp_path: Path, monkeypatch):
    """Another process commits after this one's look has read the log, and before that look ends."""
    catalog = Catalog.create(Location.of(tmp_path / "catalog"), dim=DIM, attributes=WORDS)
    latest, read, go_on = Catalog.latest, threading.Event(), threading.Event()

    def slow(self: Catalog) -> int:
        found = latest(self)
        read.set()
        assert go_on.wait(60)
        return found

    async def asked() -> int:
        live = LiveCatalogue(Location.of(tmp_path / "catalog"), manifest(), 0)
        assert await live.current() == 0
        monkeypatch.setattr(Catalog, "latest", slow)
        assert await live.current() == 0  # begins a look and doesn't wait for it
        await asyncio.to_thread(read.wait, 60)
        monkeypatch.setattr(Catalog, "latest", latest)
        commit = catalog.append(change(0))
        waiting = asyncio.create_task(live.current(commit))
        await asyncio.sleep(0)
        go_on.set()
        return await waiting

    assert asyncio.run(asked()) == 1


def test_too_much_that_waits_is_refused(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(module, "MOST_WAITING", 3 * change(0).nbytes)

    async def together() -> list[object]:
        live = LiveCatalogue(Location.of(tmp_path / "catalog"), manifest(), 60)
        return list(await asyncio.gather(*(live.append(change(i)) for i in range(5)), return_exceptions=True))

    answers = asyncio.run(together())
    assert answers[:3] == [1] * 3
    assert [type(a) for a in answers[3:]] == [TooMuchWaits] * 2


def test_commits_of_others_are_seen_at_first_and_when_asked_for(tmp_path: Path):
    place = Location.of(tmp_path / "catalog")
    other = Catalog.create(place, dim=DIM, attributes=WORDS)
    other.append(change(0))

    async def looked() -> list[int]:
        live = LiveCatalogue(place, manifest(), 60)
        found = [await live.current()]
        last = await asyncio.to_thread(other.append, change(1))
        found.append(await live.current())  # known later: it was looked at just now
        found.append(await live.current(least=last))
        return found

    assert asyncio.run(looked()) == [1, 1, 2]


@pytest.mark.parametrize("broken", ["none", "another dimension", "no table"])
def test_a_log_that_cannot_be_read_leaves_the_index(tmp_path: Path, broken: str):
    place = Location.of(tmp_path / "catalog")
    if broken == "another dimension":
        Catalog.create(place, dim=DIM + 1, attributes=WORDS)
    elif broken == "no table":
        (tmp_path / "catalog" / "_delta_log").mkdir(parents=True)
    assert asyncio.run(LiveCatalogue(place, manifest(folded=3), 60).current()) == 3
