"""Approximate kinds: the recall they are asked for at every selectivity, k answers where there are k, and true scores."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pytest
from index_catalogue import Catalogue

import fashion_dml.index.shard as shard_module
from fashion_dml.index.filters import Filter
from fashion_dml.index.manifest import Effort
from fashion_dml.index.shard import Shard
from fashion_dml.index.train import cells, directions, sample_rows, train
from fashion_dml.storage import Location, UserError

N, DIM = 4000, 32
CASES = [
    ("ivf", "fp32", Effort(24, 18)), ("ivf", "int8", Effort(24, 18)), ("ivf_pq", "fp16", Effort(24, 200)),
    ("hnsw", "fp32", Effort(64, 18)), ("hnsw", "fp16", Effort(64, 18)), ("hnsw", "int8", Effort(64, 18)),
]  # fmt: skip


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    """Vectors in 60 clumps, as products have them; the attribute `colour=Black` holds for 1 %, `pattern=Solid` for half."""
    rng = np.random.default_rng(5)
    found = Catalogue.random(N, DIM, 5)
    centres = rng.standard_normal((60, DIM))
    vectors = centres[rng.integers(0, 60, N)] + 0.7 * rng.standard_normal((N, DIM))
    found.vectors[:] = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    found.attributes[:, 0] = np.where(rng.random(N) < 0.01, 1, -1)
    found.attributes[:, 1] = np.where(rng.random(N) < 0.5, 1, -1)
    return found


@pytest.mark.parametrize(("kind", "store", "effort"), CASES)
def test_recall_at_every_selectivity(tmp_path: Path, monkeypatch, catalogue: Catalogue, kind, store, effort):
    monkeypatch.setattr(shard_module, "EXACT_ROWS", 20)  # so that a filter of 1 % is met by scanning, others by proposals
    index = Location.of(tmp_path)
    catalogue.write(index, "v1", kind=kind, store=store, effort=effort)
    shard = Shard.open(index, "v1", 0)
    alive = np.random.default_rng(1).random(N) < 0.9
    dead = {shard.item_id(int(row)) for row in np.flatnonzero(~alive)}
    for where, mask in (
        (Filter(), None),
        (Filter.of(["bags"]), None),
        (Filter.of([], {"colour": ["Black"]}), None),
        (Filter.of([], {"pattern": ["Solid"]}), None),
        (Filter(), alive),
    ):
        hit = total = 0
        for query in catalogue.vectors[:40]:
            found = shard.find(query[None], 10, where, alive=mask)[0]
            expected = dict(catalogue.brute(query, 10, where, dead=dead if mask is not None else ()))
            assert len(found.item_ids) == len(expected)
            every = dict(catalogue.brute(query, N, where, dead=dead if mask is not None else ()))
            assert max(abs(every[i] - s) for i, s in zip(found.item_ids, found.scores, strict=True)) < 0.02
            hit, total = hit + len(set(found.item_ids) & set(expected)), total + len(expected)
        assert hit / total >= (0.9 if store == "int8" else 0.95), where


def test_more_answers_than_the_effort_was_made_for(tmp_path: Path, monkeypatch, catalogue: Catalogue):
    monkeypatch.setattr(shard_module, "EXACT_ROWS", 20)
    index = Location.of(tmp_path)
    catalogue.write(index, "v1", kind="ivf", effort=Effort(1, 18))
    shard = Shard.open(index, "v1", 0)
    for k in (1, 300, N + 5):
        assert len(shard.find(catalogue.vectors[:1], k)[0].item_ids) == min(k, N)
    grouped = shard.find(catalogue.vectors[:1], 200, group_by_product=True)[0]
    assert len(set(grouped.product_ids)) == 200


def test_shards_begin_with_the_same_training(catalogue: Catalogue):
    trained = train("ivf_pq", "int8", DIM, N, catalogue.vectors)
    for index in (trained.candidates, trained.store):
        assert index is not None
        assert (index.is_trained, index.ntotal) == (True, 0)
    few = train("ivf", "fp32", DIM, 100 * N, catalogue.vectors)
    assert few.candidates is not None
    assert few.candidates.nlist == cells(100 * N)  # by the rows of a shard, however few the vectors that are learnt from
    assert train("ivf", "fp32", DIM, 100 * N, catalogue.vectors[:50]).candidates.nlist == 50
    assert sample_rows("flat", "fp32", N) == sample_rows("hnsw", "fp16", N) == 0
    assert sample_rows("ivf", "fp32", 10_000_000) == 48 * cells(10_000_000)


def test_directions_hold_nearly_all_of_the_length(catalogue: Catalogue):
    assert directions(catalogue.vectors, DIM).shape == (DIM, DIM)  # no direction is spare
    rng = np.random.default_rng(2)
    flat = rng.standard_normal((500, 5)) @ rng.standard_normal((5, 30))
    held = directions(flat.astype(np.float32), 30)
    assert held.shape == (8, 30)
    assert np.allclose(held @ held.T, np.eye(8), atol=1e-5)
    assert np.square(flat @ held.T).sum() >= 0.99 * np.square(flat).sum()
    assert np.allclose((flat @ held.T) @ (flat @ held.T).T, flat @ flat.T, atol=1e-2 * np.abs(flat @ flat.T).max())
    assert directions(flat[:, :7].astype(np.float32), 7).shape[0] <= 7


@pytest.mark.parametrize(
    ("kind", "store", "dim", "says"),
    [
        ("lsh", "fp32", 8, "'lsh' is unknown; known are auto, flat, ivf, ivf_pq, hnsw"),
        ("flat", "fp8", 8, "'fp8' is unknown; known are fp32, fp16, int8"),
    ],
)
def test_bad_kinds_are_refused(kind, store, dim, says):
    with pytest.raises(UserError, match=says):
        train(kind, store, dim, 100, np.eye(dim, dtype=np.float32))


@pytest.mark.parametrize("count", [0, 15])
def test_codes_are_not_learnt_from_a_handful(count: int):
    few = np.eye(8, dtype=np.float32)[np.arange(count) % 8]
    with pytest.raises(UserError, match=f"from 16 items at least, here are {count}; take flat"):
        train("ivf_pq", "fp32", 8, count, few)


def test_an_index_that_must_learn_needs_items():
    with pytest.raises(UserError, match="of no items"):
        train("flat", "int8", 8, 0, np.empty((0, 8), np.float32))


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["flat", "ivf"])
def test_a_gpu_answers_as_the_cpu_does(tmp_path: Path, monkeypatch, catalogue: Catalogue, kind):
    monkeypatch.setattr(shard_module, "EXACT_ROWS", 20)
    index = Location.of(tmp_path)
    catalogue.write(index, "v1", kind=kind, effort=Effort(60, 18))
    cpu, gpu = Shard.open(index, "v1", 0), Shard.open(index, "v1", 0, gpu=True)
    same = total = 0
    for where in (Filter(), Filter.of([], {"pattern": ["Solid"]})):
        for a, b in zip(cpu.find(catalogue.vectors[:50], 10, where), gpu.find(catalogue.vectors[:50], 10, where), strict=True):
            same, total = same + len(set(a.item_ids) & set(b.item_ids)), total + 10
    assert same / total >= 0.99


@pytest.mark.parametrize(("kind", "says"), [("hnsw", "of a kind in flat, ivf; this one is hnsw"), ("flat", "sees no GPU")])
def test_a_gpu_that_cannot_be_used_is_refused(tmp_path: Path, catalogue: Catalogue, kind, says):
    if kind == "flat" and faiss.get_num_gpus():
        pytest.skip("there is a GPU")
    index = Location.of(tmp_path)
    catalogue.write(index, "v1", kind=kind)
    with pytest.raises(UserError, match=says):
        Shard.open(index, "v1", 0, gpu=True)
