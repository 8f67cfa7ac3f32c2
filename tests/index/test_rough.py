"""The copy of one byte a number: what it promises of scores, when it is searched, and files that can't be one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from index_catalogue import Catalogue, rough_copies

from fashion_dml.index import rough
from fashion_dml.index.codes import STORES
from fashion_dml.index.manifest import CODES, ROUGH, VECTORS, load
from fashion_dml.index.rough import Rough
from fashion_dml.index.shard import Shard
from fashion_dml.index.store import Store
from fashion_dml.storage import Location, UserError
from jobs.benchmarks.index_versions import embeddings, write_version

DIMS = (3, 16, 24, 128)  # FAISS multiplies bytes where dimensions are a multiple of 16


@pytest.fixture(scope="module")
def copies(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, int], Store]:
    """Opened stores with copies, by how they are stored and dimensions."""
    made = {}
    for stored in ("fp32", "fp16"):
        for dim in DIMS:
            root = tmp_path_factory.mktemp("copies")
            with rough_copies(True):
                Catalogue.random(700, dim, dim).write(Location.of(root), "v1", store=stored)
            place = root / "versions" / "v1" / "shard-00000"
            made[stored, dim] = Store.mapped(place / VECTORS, place / CODES, place / ROUGH)
    return made


@settings(max_examples=150, deadline=None)
@given(
    stored=st.sampled_from(["fp32", "fp16"]), dim=st.sampled_from(DIMS), seed=st.integers(0, 9999), width=st.integers(1, 60),
    length=st.sampled_from([0, 1e-30, 1e-6, 1, 7, 1e6, 1e18]), spiky=st.booleans(),
)  # fmt: skip
def test_no_row_scores_above_what_the_copy_says(copies, stored, dim, seed, width, length, spiky):
    store = copies[stored, dim]
    query = np.random.default_rng(seed).standard_normal((2, dim))
    if spiky:
        query[:, 1:] *= 1e-4  # the codes of all but one number are 0
    query = (length * query / np.linalg.norm(query, axis=1, keepdims=True)).astype(np.float32)
    vectors = store.vectors(slice(0, store.rows)).astype(np.float64)
    true = query.astype(np.float64) @ vectors.T
    copy = store._rough
    assert copy is not None
    most, rows = copy.search(query, width, None)
    for i in range(2):
        assert (true[i, rows[i]] <= most[i]).all()
        left_out = np.setdiff1d(np.arange(store.rows), rows[i])
        assert (true[i, left_out] <= most[i].min()).all()
        assert most[i].max() - true[i].max() <= 0.1 * length  # and says something


def test_bounds_of_queries_longer_than_float32_holds_are_finite(copies):
    query = np.full((1, 16), 3e38, np.float32)
    most, _ = copies["fp32", 16]._rough.search(query, 5, None)
    assert np.isfinite(most).all()  # infinite ones would mean that nothing is left out


@pytest.mark.parametrize("k", [10, 50])
def test_the_first_candidates_settle_nearly_every_query(tmp_path: Path, monkeypatch, k):
    shard, queries, asked = write_version(tmp_path, embeddings(30_000)), embeddings(100, seed=1), []
    search = Rough.search
    monkeypatch.setattr(Rough, "search", lambda self, *given: asked.append(1) or search(self, *given))
    for i in range(100):
        shard.search(queries[i : i + 1], k)
    assert 100 <= len(asked) <= 105


@pytest.mark.parametrize("stored", ["fp32", "fp16"])
def test_few_queries_are_searched_in_the_copy_and_answered_as_without(tmp_path: Path, monkeypatch, stored):
    catalogue, index = Catalogue.random(3000, 32, 7), Location.of(tmp_path)
    for made in (True, False):
        with rough_copies(made):
            catalogue.write(index, f"copy-{made}", store=stored)
    with_copy, without = (Shard.open(index, f"copy-{made}", 0) for made in (True, False))
    assert f"shard-00000/{ROUGH}" in load(index, "copy-True").files
    asked: list[int] = []
    search = Rough.search

    def counted(self: Rough, queries: np.ndarray, *rest: object) -> object:
        asked.append(len(queries))
        return search(self, queries, *rest)

    monkeypatch.setattr(Rough, "search", counted)
    for n in (1, 40):
        with rough_copies(True):
            hits, expected = (shard.search(catalogue.vectors[:n], 9) for shard in (with_copy, without))
        assert np.array_equal(hits.rows, expected.rows)
        assert np.array_equal(hits.scores, expected.scores)
    assert set(asked) == {1}  # more are multiplied


def test_where_it_is_faster(copies):
    copy = replace(copies["fp32", 16]._rough, many=8)  # of 700 rows
    assert copy.suits(7, 3, 700)
    assert not copy.suits(8, 3, 700)
    assert not copy.suits(1, 4, 700)  # as many candidates to score
    assert copy.suits(1, 0, 117)
    assert not copy.suits(1, 0, 116)  # the vectors of few rows are read sooner than all are passed over


def test_only_large_exact_shards_of_wide_numbers_get_one(tmp_path: Path, monkeypatch):
    catalogue, index = Catalogue.random(300, 16, 1), Location.of(tmp_path)
    monkeypatch.setattr(rough, "LEAST_BYTES", 4 * 300 * 16)
    for kind, store in (("flat", "fp32"), ("flat", "fp16"), ("flat", "int8"), ("ivf", "fp32")):
        catalogue.write(index, f"{kind}-{store}", kind=kind, store=store)
        has = f"shard-00000/{ROUGH}" in load(index, f"{kind}-{store}").files
        assert has == (kind == "flat" and store != "int8")
        assert store in STORES
    monkeypatch.setattr(rough, "LEAST_BYTES", 4 * 300 * 16 + 1)
    catalogue.write(index, "small")
    assert f"shard-00000/{ROUGH}" not in load(index, "small").files


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda content: content[:-1], "bytes; the copy of 300 vectors of 16 dimensions has 4812"),
        (lambda content: content[:-12] + np.array([0, 0, 1], "<f4").tobytes(), "scale 0, error 0 and length 1: it was damaged"),
        (lambda content: content[:-12] + np.array([1, np.nan, 1], "<f4").tobytes(), "error nan"),
        (lambda content: content[:-12] + np.array([1, 0, -1], "<f4").tobytes(), "length -1"),
    ],
)
def test_a_file_that_cannot_be_one_is_refused(tmp_path: Path, damage, says):
    with rough_copies(True):
        Catalogue.random(300, 16, 1).write(Location.of(tmp_path), "v1")
    place = tmp_path / "versions" / "v1" / "shard-00000"
    (place / ROUGH).write_bytes(damage((place / ROUGH).read_bytes()))
    with pytest.raises(UserError, match=says):
        Store.mapped(place / VECTORS, place / CODES, place / ROUGH)
    with pytest.raises(UserError, match="the manifest says"):
        Shard.open(Location.of(tmp_path), "v1", 0)
