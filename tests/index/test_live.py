"""A shard with changes answers as a catalogue rebuilt from scratch would, after every commit, whichever shards hold what."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_catalogue import VERTICALS, VOCABULARY, Catalogue

from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import changes_schema, concat, deletes, upserts
from fashion_dml.index.filters import EVERYTHING, Filter
from fashion_dml.index.live import LiveShard, owner
from fashion_dml.index.merge import merge
from fashion_dml.index.shard import Shard
from fashion_dml.storage import Location, UserError

DIM = 6
SCHEMA = changes_schema(DIM, len(VOCABULARY))


@dataclass
class Model:
    """The catalogue as a dictionary: item_id -> (vector, product, vertical, attributes)."""

    items: dict[str, tuple[np.ndarray, str, str, np.ndarray]] = field(default_factory=dict)

    @classmethod
    def of(cls, catalogue: Catalogue) -> Model:
        columns = (catalogue.vectors, catalogue.product_ids, catalogue.verticals, catalogue.attributes)
        return cls(dict(zip(catalogue.item_ids, zip(*columns, strict=True), strict=True)))

    def catalogue(self) -> Catalogue:
        vectors, products, verticals, attributes = zip(*self.items.values(), strict=True) if self.items else ((), (), (), ())
        return Catalogue(
            np.array(vectors, np.float32).reshape(-1, DIM), list(self.items), list(products), list(verticals),
            np.array(attributes, np.int8).reshape(-1, len(VOCABULARY)),
        )  # fmt: skip

    def commit(self, rng: np.random.Generator) -> pa.Table:
        """A random batch: items that are there, were there, and new ones; some twice."""
        parts = []
        for _ in range(rng.integers(1, 4)):
            ids = [f"item:{i:04d}" for i in rng.integers(0, 60, rng.integers(1, 6))]
            if rng.random() < 0.4:
                parts.append(deletes(SCHEMA, ids))
                for item_id in ids:
                    self.items.pop(item_id, None)
                continue
            vectors = rng.integers(-2, 3, (len(ids), DIM)).astype(np.float32) + 0.25
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            products = [f"p{i}" for i in rng.integers(0, 12, len(ids))]
            verticals = [VERTICALS[i] for i in rng.integers(0, 3, len(ids))]
            attributes = rng.integers(-1, 2, (len(ids), len(VOCABULARY))).astype(np.int8)
            upserted = upserts(
                SCHEMA, ids, product_ids=products, verticals=verticals, vectors=vectors, attributes=attributes,
                thumbnails=[i.encode() for i in ids], model="a" * 64,
            )  # fmt: skip
            parts.append(upserted)
            self.items |= dict(zip(ids, zip(vectors, products, verticals, attributes, strict=True), strict=True))
        return concat(parts)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 9999), shards=st.integers(1, 3), k=st.integers(1, 30), grouped=st.booleans(), commits=st.integers(1, 6)
)
def test_equals_brute_force_after_every_commit(seed, shards, k, grouped, commits):
    rng = np.random.default_rng(seed)
    base = Catalogue.random(40, DIM, seed, distinct=10)
    query = base.vectors[0]
    with tempfile.TemporaryDirectory() as place:
        index = Location.of(place)
        base.write(index, "v1", shards=shards)
        live = [LiveShard(Shard.open(index, "v1", s), s, shards) for s in range(shards)]
        model, states = Model.of(base), {0: base}
        for version in range(1, commits + 1):
            changes = model.commit(rng)
            for shard in live:
                shard.apply(version, changes)
            states[version] = model.catalogue()
        for at, state in states.items():
            wheres = (EVERYTHING, Filter.of(sorted({*state.verticals})[:1]), Filter.of([], {"colour": ["Black"]}))
            for where in wheres:
                parts = [shard.find(query[None], k, where, grouped, at)[0] for shard in live]
                found = merge(parts, k, group_by_product=grouped)
                assert list(zip(found.item_ids, map(float, found.scores), strict=True)) == state.brute(query, k, where, grouped)
            for item_id in {*base.item_ids, *state.item_ids}:
                held = [item for shard in live if (item := shard.item(item_id, at)) is not None]
                assert len(held) == (item_id in state.item_ids)
                if held:
                    at_ = state.item_ids.index(item_id)
                    assert np.array_equal(held[0].vector, state.vectors[at_])
                    assert held[0].found.product_ids == [state.product_ids[at_]]
                    assert held[0].found.attributes.tolist() == [state.attributes[at_].tolist()]
                    assert held[0].thumbnail in (item_id.encode(), f"jpeg of {item_id}".encode())
        assert all(shard.version == commits for shard in live)


@pytest.fixture
def live(tmp_path: Path) -> LiveShard:
    Catalogue.random(20, DIM, 1).write(Location.of(tmp_path), "v1", folded=4)
    return LiveShard(Shard.open(Location.of(tmp_path), "v1", 0), 0, 1)


def test_a_restarted_shard_catches_up_from_the_log(tmp_path: Path):
    """What a shard of another process, begun later, says is what one says that saw every commit come."""
    base = Catalogue.random(40, DIM, 3)
    base.write(Location.of(tmp_path / "index"), "v1", shards=2)
    catalog = Catalog.create(Location.of(tmp_path / "catalog"), dim=DIM, attributes=VOCABULARY)
    rng, model = np.random.default_rng(3), Model.of(base)
    old = [LiveShard(Shard.open(Location.of(tmp_path / "index"), "v1", s), s, 2) for s in range(2)]
    for _ in range(5):
        version = catalog.append(model.commit(rng))
        for shard in old:
            for came, changes in catalog.since(shard.version):
                shard.apply(came, changes)
    new = [LiveShard(Shard.open(Location.of(tmp_path / "index"), "v1", s), s, 2) for s in range(2)]
    for shard in new:
        for came, changes in Catalog.open(catalog.location).since(shard.version):
            shard.apply(came, changes)
    queries, state = base.vectors[:4], model.catalogue()
    for found in zip(*(shard.find(queries, 50) for shard in old), *(shard.find(queries, 50) for shard in new), strict=True):
        before, after = merge(found[:2], 50), merge(found[2:], 50)
        assert (before.item_ids, before.scores.tolist()) == (after.item_ids, after.scores.tolist())
        assert sorted(after.item_ids) == sorted(state.item_ids)
    assert {shard.version for shard in (*old, *new)} == {version}


def test_commits_come_in_order_and_once(live: LiveShard):
    live.apply(5, deletes(SCHEMA, ["item:0001"]))
    for version in (4, 5):
        with pytest.raises(UserError, match=f"Commit {version} of the catalogue is in this shard already, which is at 5"):
            live.apply(version, deletes(SCHEMA, ["item:0001"]))
    live.apply(9, deletes(SCHEMA, ["item:0001"]))  # numbers may have gaps: a commit without changes
    assert live.version == 9


def test_bad_questions_are_refused(live: LiveShard):
    query = np.ones((1, DIM), np.float32)
    with pytest.raises(UserError, match="Commit 7 of the catalogue isn't in this shard yet, which is at 4"):
        live.find(query, 3, at=7)
    with pytest.raises(UserError, match="no vertical 'hats'"):
        live.find(query, 3, Filter.of(["hats"]))
    one = {"product_ids": ["p"], "verticals": ["bags"], "attributes": np.zeros((1, 2), np.int8), "thumbnails": [b""]}
    with pytest.raises(
        UserError, match=r"Commit 5 .* of the model bbbbbbbbbbbb, as of the item 'x'; the index is of aaaaaaaaaaaa"
    ):
        live.apply(5, upserts(SCHEMA, ["x"], vectors=np.eye(1, DIM, dtype=np.float32), model="b" * 64, **one))
    assert (live.version, live.changed) == (4, 0)
    with pytest.raises(UserError, match="10 dimensions, the index has 6: they are of another model"):
        live.apply(5, deletes(changes_schema(10, 2), ["a"]))


def test_a_new_vertical_can_be_asked_for(live: LiveShard):
    one = upserts(
        SCHEMA, ["h"], product_ids=["p"], verticals=["hats"], vectors=np.eye(1, DIM, dtype=np.float32),
        attributes=np.zeros((1, 2), np.int8), thumbnails=[b""], model="a" * 64,
    )  # fmt: skip
    live.apply(5, one)
    assert live.find(np.ones((1, DIM), np.float32), 3, Filter.of(["hats"]))[0].item_ids == ["h"]
    assert live.changed == 1


def test_items_are_spread_over_the_shards():
    counts = np.bincount([owner(f"item-{i}", 4) for i in range(4000)])
    assert counts.min() > 900
