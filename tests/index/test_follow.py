"""A shard that follows the log: it reads what a search asks for, and says where it can't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from index_catalogue import VOCABULARY, Catalogue

from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import deletes, upserts
from fashion_dml.index.follow import Behind, Follower
from fashion_dml.index.live import LiveShard
from fashion_dml.index.shard import Shard
from fashion_dml.storage import Location

DIM = 8


@pytest.fixture
def base() -> Catalogue:
    return Catalogue.random(20, DIM, 1)


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return Catalog.create(Location.of(tmp_path / "catalog"), dim=DIM, attributes=VOCABULARY)


@pytest.fixture
def follower(tmp_path: Path, base: Catalogue) -> Follower:
    base.write(Location.of(tmp_path / "index"), "v1")
    return Follower(LiveShard(Shard.open(Location.of(tmp_path / "index"), "v1", 0), 0, 1), Location.of(tmp_path / "catalog"))


def added(catalog: Catalog, item_id: str, model: str = "a" * 64) -> int:
    vector = np.eye(DIM, dtype=np.float32)[:1]
    return catalog.append(upserts(
        catalog.schema, [item_id], product_ids=["new"], verticals=["hats"], vectors=vector,
        attributes=np.zeros((1, len(VOCABULARY)), np.int8), thumbnails=[b""], model=model,
    ))  # fmt: skip


def test_commits_are_read_as_they_are_asked_for(follower: Follower, catalog: Catalog, base: Catalogue):
    first, second = added(catalog, "one"), added(catalog, "two")
    assert follower.reach(first) == first
    assert follower.shard.item("one") is not None
    assert follower.shard.item("two") is None
    assert follower.reach(second) == second
    assert follower.reach(first) == first  # a search that began before
    assert follower.shard.item("two", at=first) is None
    third = catalog.append(deletes(catalog.schema, [base.item_ids[0], "one"]))
    assert follower.reach(third) == third
    assert follower.shard.item("one") is None
    assert follower.shard.item(base.item_ids[0]) is None


def test_a_shard_that_begins_reads_what_is_there(follower: Follower, catalog: Catalog, caplog):
    follower.catch_up()
    assert follower.shard.version == 0
    first = added(catalog, "one")
    follower.catch_up()
    assert follower.shard.version == first
    added(catalog, "two")
    for batch in Path(catalog.location.path).glob("changes-*.parquet"):
        batch.write_bytes(batch.read_bytes()[:50])
    follower.catch_up()  # the index can be searched without it
    assert follower.shard.version == first
    assert "damaged" in caplog.text


def test_without_a_catalogue_the_index_is_all_there_is(follower: Follower):
    follower.catch_up()
    assert follower.reach(0) == 0
    with pytest.raises(Behind, match="catalog"):
        follower.reach(3)


def test_a_log_that_cannot_be_read_is_told_and_read_later(follower: Follower, catalog: Catalog):
    first = added(catalog, "one")
    with pytest.raises(Behind, match="ends at commit"):
        follower.reach(first + 1)
    second = added(catalog, "two")
    batch = next(f for f in (Path(catalog.location.path)).glob("changes-*.parquet") if b"two" in f.read_bytes())
    whole = batch.read_bytes()
    batch.write_bytes(whole[:100])
    with pytest.raises(Behind, match="damaged"):
        follower.reach(second)
    assert follower.shard.version == first  # the whole commits before it are in
    batch.write_bytes(whole)
    assert follower.reach(second) == second


def test_a_commit_of_another_model_ends_what_is_followed(follower: Follower, catalog: Catalog):
    first = added(catalog, "one")
    added(catalog, "other", model="b" * 64)
    last = added(catalog, "three")
    assert follower.reach(last) == first
    assert "the model bbbbbbbbbbbb" in follower.unusable
    assert follower.reach(last) == first
    assert follower.shard.item("three") is None
