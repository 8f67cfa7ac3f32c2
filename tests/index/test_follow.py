"""A shard that follows the log: it reads what a search asks for, and says where it can't."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from index_catalogue import VOCABULARY, Catalogue

from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import concat, deletes, upserts
from fashion_dml.index.follow import Behind, Follower
from fashion_dml.index.live import LiveShard
from fashion_dml.index.shard import Shard
from fashion_dml.index.translate import Untranslated, keep, to_translate
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


def one(catalog: Catalog, item_id: str, model: str = "a" * 64) -> pa.Table:
    return upserts(
        catalog.schema, [item_id], product_ids=["new"], verticals=["hats"], vectors=np.eye(DIM, dtype=np.float32)[:1],
        attributes=np.zeros((1, len(VOCABULARY)), np.int8), thumbnails=[b""], model=model,
    )  # fmt: skip


def added(catalog: Catalog, item_id: str, model: str = "a" * 64) -> int:
    return catalog.append(one(catalog, item_id, model))


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


def test_a_commit_of_another_model_waits_for_its_translation(follower: Follower, catalog: Catalog):
    first = added(catalog, "one")
    other = added(catalog, "other", model="b" * 64)
    last = added(catalog, "three")
    with pytest.raises(Untranslated) as waits:
        follower.reach(last)
    assert (waits.value.commit, follower.shard.version) == (other, first)
    ((commit, rows),) = to_translate(catalog, "a" * 64, 0, last)
    assert (commit, rows["item_id"].to_pylist()) == (other, ["other"])
    keep(catalog.location, "a" * 64, commit, rows, np.eye(DIM, dtype=np.float32)[3:4])
    assert not [*to_translate(catalog, "a" * 64, 0, last)]
    assert follower.reach(last) == last
    assert follower.shard.item("other").vector.tolist() == np.eye(DIM)[3].tolist()
    assert follower.shard.item("three") is not None
    assert [c for c, _ in to_translate(catalog, "b" * 64, 0, last)] == [first, last]  # an index of the other model


def test_items_without_a_picture_are_hidden_until_they_come_again(follower: Follower, catalog: Catalog, base: Catalogue):
    known = base.item_ids[0]
    commit = catalog.append(concat([
        one(catalog, known, "b" * 64), one(catalog, "mine"), one(catalog, "other", "b" * 64), deletes(catalog.schema, ["other"]),
    ]))  # fmt: skip
    ((_, rows),) = to_translate(catalog, "a" * 64, 0, commit)
    assert rows["item_id"].to_pylist() == [known]  # what counts is the last change of each
    keep(catalog.location, "a" * 64, commit, rows, np.full((1, DIM), np.nan, np.float32))
    follower.reach(commit)
    assert follower.shard.item(known) is None  # it isn't what the index holds any more
    assert follower.shard.item("mine") is not None
    assert follower.hidden == {known}
    follower.reach(added(catalog, known))
    assert follower.shard.item(known) is not None
    assert follower.hidden == set()


def test_a_damaged_translation_is_told(follower: Follower, catalog: Catalog):
    commit = added(catalog, "other", model="b" * 64)
    ((_, rows),) = to_translate(catalog, "a" * 64, 0, commit)
    keep(catalog.location, "a" * 64, commit, rows, np.eye(DIM, dtype=np.float32)[:1])
    (file,) = Path(catalog.location.path).glob("_vectors/*/*.parquet")
    whole = file.read_bytes()
    file.write_bytes(whole[:50])
    with pytest.raises(Behind, match=r"is damaged .* delete it"):
        follower.reach(commit)
    other = one(catalog, "another")
    keep(catalog.location, "a" * 64, commit, other, np.eye(DIM, dtype=np.float32)[:1])
    with pytest.raises(Behind, match="holds other items than commit"):
        follower.reach(commit)
    file.write_bytes(whole)
    assert follower.reach(commit) == commit
