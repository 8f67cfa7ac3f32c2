"""Search, filters and grouping give what brute force gives."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_catalogue import VERTICALS, VOCABULARY, Catalogue, rough_copies

import fashion_dml.index.store as store_module
from fashion_dml.index.filters import Filter
from fashion_dml.index.manifest import CODES, VECTORS
from fashion_dml.index.merge import merge
from fashion_dml.index.shard import Shard
from fashion_dml.index.store import Store
from fashion_dml.storage import Location, UserError


def answers(
    shards: list[Shard], query: np.ndarray, k: int, where: Filter, grouped: bool, alive: list[np.ndarray | None]
) -> list[tuple[str, float]]:
    parts = [s.find(query[None], k, where, grouped, a)[0] for s, a in zip(shards, alive, strict=True)]
    found = merge(parts, k, group_by_product=grouped)
    return list(zip(found.item_ids, map(float, found.scores), strict=True))


FILTERS = st.builds(
    Filter.of,
    st.lists(st.sampled_from(VERTICALS), max_size=3),
    st.dictionaries(st.sampled_from(["colour", "pattern"]), st.just(None), max_size=2).map(
        lambda columns: {c: [v.partition("=")[2] for v in VOCABULARY if v.startswith(c)] for c in columns}
    ),
)


@settings(max_examples=100, deadline=None)
@given(
    n=st.integers(1, 150), dim=st.sampled_from([2, 5, 16]), seed=st.integers(0, 9999), k=st.integers(1, 40),
    shards=st.integers(1, 3), distinct=st.sampled_from([None, 1, 4]), grouped=st.booleans(), where=FILTERS,
    queries=st.integers(1, 40), dead_share=st.sampled_from([0, 0.1, 0.9, 1]), copied=st.booleans(),
)  # fmt: skip
def test_equals_brute_force(n, dim, seed, k, shards, distinct, grouped, where, queries, dead_share, copied):
    catalogue = Catalogue.random(n, dim, seed, distinct=distinct)
    rng = np.random.default_rng(seed + 1)
    asked = rng.standard_normal((queries, dim)).astype(np.float32)
    asked /= np.linalg.norm(asked, axis=1, keepdims=True)
    asked[0] = catalogue.vectors[0]
    where = replace(where, verticals=tuple(v for v in where.verticals if v in catalogue.verticals))
    dead = {i for i in catalogue.item_ids if rng.random() < dead_share}
    with tempfile.TemporaryDirectory() as place, rough_copies(copied):
        index = Location.of(place)
        catalogue.write(index, "v1", shards=shards)
        opened = [Shard.open(index, "v1", s) for s in range(shards)]
        alive = [np.array([s.item_id(row) not in dead for row in range(s.rows)], bool) if dead_share else None for s in opened]
        batches = [s.find(asked, k, where, grouped, a) for s, a in zip(opened, alive, strict=True)]
        for i in {0, 1 % queries, queries - 1}:
            expected = catalogue.brute(asked[i], k, where, grouped, dead)
            assert answers(opened, asked[i], k, where, grouped, alive) == expected
            whole = merge([b[i] for b in batches], k, group_by_product=grouped)
            assert list(zip(whole.item_ids, map(float, whole.scores), strict=True)) == expected  # a batch changes nothing


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    return Catalogue.random(3000, 32, 7)


def test_fp16_is_close_and_half_the_size(tmp_path: Path, catalogue: Catalogue):
    index = Location.of(tmp_path)
    catalogue.write(index, "full")
    catalogue.write(index, "half", store="fp16")
    sizes = {v: (tmp_path / "versions" / v / "shard-00000" / "vectors.bin").stat().st_size for v in ("full", "half")}
    assert sizes["half"] < 0.52 * sizes["full"]
    shard = Shard.open(index, "half", 0)
    recall = 0
    for query in catalogue.vectors[:50]:
        found = shard.find(query[None], 10, Filter.of(["bags", "shoes"]))[0]
        expected = dict(catalogue.brute(query, 10, Filter.of(["bags", "shoes"])))
        recall += len(set(found.item_ids) & set(expected))
        for item_id, score in zip(found.item_ids, found.scores, strict=True):
            assert abs(score - expected.get(item_id, score)) < 2e-3
    assert recall >= 0.97 * 500


@pytest.mark.parametrize("store", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("where", [Filter(), Filter.of(["bags"]), Filter.of(["bags"], {"colour": ["Black"]})])
def test_many_queries_in_small_blocks_answer_as_one_by_one(tmp_path: Path, catalogue: Catalogue, monkeypatch, store, where):
    index = Location.of(tmp_path)
    catalogue.write(index, "v1", store=store)
    shard = Shard.open(index, "v1", 0)
    single = [shard.search(catalogue.vectors[i : i + 1], 7, where) for i in range(40)]
    monkeypatch.setattr(store_module, "block_rows", lambda queries: 50)
    whole = shard.search(catalogue.vectors[:40], 7, where)
    assert np.array_equal(whole.rows, np.concatenate([hits.rows for hits in single]))
    assert np.array_equal(whole.scores, np.concatenate([hits.scores for hits in single]))


def test_codes_are_multiplied_where_they_are_mapped(tmp_path: Path, catalogue: Catalogue):
    catalogue.write(Location.of(tmp_path), "v1")
    place = tmp_path / "versions" / "v1" / "shard-00000"
    mapped = Store.mapped(place / VECTORS, place / CODES).vectors(slice(5, 900))
    assert mapped.flags.aligned  # numpy would copy them otherwise, each time
    assert not mapped.flags.owndata
    assert not mapped.flags.writeable
    with (place / CODES).open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match="1 bytes beyond its last whole vector of 128"):
        Store.mapped(place / VECTORS, place / CODES)


def test_items_by_row_and_id(tmp_path: Path, catalogue: Catalogue):
    index = Location.of(tmp_path)
    catalogue.write(index, "v1")
    shard = Shard.open(index, "v1", 0)
    for i in range(0, 3000, 97):
        item_id = catalogue.item_ids[i]
        row = shard.row_of(item_id)
        found = shard.items(np.array([row]), np.zeros(1))
        assert (found.item_ids, found.product_ids, found.verticals) == (
            [item_id],
            [catalogue.product_ids[i]],
            [catalogue.verticals[i]],
        )
        assert found.attributes.tolist() == [catalogue.attributes[i].tolist()]
        assert shard.vector(row).tolist() == catalogue.vectors[i].tolist()
        assert shard.thumbnail(row) == f"jpeg of {item_id}".encode()
    assert [shard.row_of(missing) for missing in ("", "a", "item:00001", "zzz")] == [-1] * 4


def test_a_shard_without_rows_answers_nothing(tmp_path: Path):
    one = Catalogue.random(1, 4, 0)
    index = Location.of(tmp_path)
    one.write(index, "v1", shards=2)  # product p0: shard 1 stays empty
    empty = Shard.open(index, "v1", 1)
    assert empty.find(one.vectors, 3)[0].item_ids == []
    assert empty.row_of(one.item_ids[0]) == -1
    parts = [Shard.open(index, "v1", 0).find(one.vectors, 3)[0], empty.find(one.vectors, 3)[0]]
    assert merge(parts, 3).item_ids == one.item_ids


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"queries": np.zeros((1, 31), np.float32)}, r"float32 \[Q, 32\]"),
        ({"queries": np.full((1, 32), np.nan, np.float32)}, "NaN"),
        ({"k": 0}, "k = 0 can't be used; it must be 1 to 10,000"),
        ({"k": 10**9}, "k = 1000000000 can't be used"),
        ({"where": Filter.of(["hats"])}, "'hats'; known are bags, dresses, shoes"),
        ({"where": Filter.of([], {"colour": ["Red"]})}, "'colour=Red'; known are colour=Black"),
        ({"where": Filter.of([], {"size": ["M"]})}, "'size=M'; known are colour, pattern"),
        ({"where": Filter.of([str(i) for i in range(300)])}, "names 300 verticals and values; at most 256"),
    ],
)
def test_bad_questions_are_refused(tmp_path: Path, catalogue: Catalogue, change, says):
    index = Location.of(tmp_path)
    catalogue.write(index, "v1")
    asked = {"queries": catalogue.vectors[:1], "k": 3} | change
    with pytest.raises(UserError, match=says):
        Shard.open(index, "v1", 0).search(**asked)
