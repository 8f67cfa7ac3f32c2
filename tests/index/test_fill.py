"""Vectors come to the cells that FAISS would assign them to, and the lists are those that FAISS would make."""

from __future__ import annotations

import faiss
import numpy as np
import pytest

from fashion_dml.index.assign import CENTRES, ROWS, assign
from fashion_dml.index.fill import Filling
from fashion_dml.index.kmeans import centres
from fashion_dml.index.train import train


def unit(rows: int, dim: int, seed: int) -> np.ndarray:
    found = np.random.default_rng(seed).standard_normal((rows, dim)).astype(np.float32)
    return found / np.linalg.norm(found, axis=1, keepdims=True)


@pytest.mark.parametrize("threads", [1, 3])
@pytest.mark.parametrize(("rows", "count", "dim"), [(1, 1, 4), (ROWS + 1, 3, 8), (5 * ROWS, CENTRES + 7, 24)])
def test_cells_are_those_that_faiss_assigns(rows: int, count: int, dim: int, threads: int):
    vectors, cells = unit(rows, dim, 0), unit(count, dim, 1)
    quantizer = faiss.IndexFlatIP(dim)
    quantizer.add(cells)
    theirs = quantizer.assign(vectors, 1).ravel()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(threads)
    try:
        ours = assign(vectors, np.ascontiguousarray(cells.T))
    finally:
        faiss.omp_set_num_threads(before)
    other = np.flatnonzero(ours != theirs)  # only where both are as near, to rounding
    scores = vectors[other].astype(np.float64) @ cells.T.astype(np.float64)
    each = np.arange(len(other))
    assert len(other) < 0.01 * rows
    assert np.abs(scores[each, ours[other]] - scores[each, theirs[other]]).max(initial=0) < 1e-6


def test_of_equal_centres_the_first_counts():
    cells = np.repeat(unit(2, 8, 0), CENTRES, axis=0)  # the second begins with the second product
    assert assign(cells[[0, -1]], np.ascontiguousarray(cells.T)).tolist() == [0, CENTRES]


@pytest.mark.parametrize(
    ("kind", "store"), [("ivf", "fp32"), ("ivf", "fp16"), ("ivf", "int8"), ("ivf_pq", "fp16"), ("hnsw", "fp32")]
)
def test_an_index_is_what_faiss_makes_of_the_same_training(kind: str, store: str):
    vectors = unit(6000, 24, 2)
    trained = train(kind, store, 24, 6000, vectors[:3000])
    assert trained.candidates is not None
    ours, theirs = trained.candidates, faiss.clone_index(trained.candidates)
    filling = Filling(ours)
    for start in range(0, 6000, 2500):  # a last batch that is shorter, lists that grow
        filling.add(vectors[start : start + 2500])
        theirs.add(vectors[start : start + 2500])
    filling.close()
    assert ours.ntotal == theirs.ntotal == 6000
    a, b = (faiss.serialize_index(index) for index in (ours, theirs))
    assert np.array_equal(a, b)


def test_centres_are_of_length_one_and_near_their_vectors():
    rng = np.random.default_rng(3)
    true = unit(20, 16, 4)
    sample = true[rng.integers(0, 20, 3000)] + 0.05 * rng.standard_normal((3000, 16)).astype(np.float32)
    found = centres(sample, 60)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert (found @ true.T).max(axis=0).min() > 0.99
    assert np.array_equal(found, centres(sample, 60))


def test_no_cell_stays_empty_where_others_could_share():
    rng = np.random.default_rng(5)
    sample = np.concatenate([np.tile(unit(1, 16, 6), (500, 1)), unit(500, 16, 7)])[rng.permutation(1000)]
    held = np.bincount(assign(sample, np.ascontiguousarray(centres(sample, 100).T)), minlength=100)
    assert (held > 0).sum() > 90  # half of the first centres are the same vector


def test_as_many_centres_as_vectors_are_the_vectors():
    sample = unit(30, 8, 8)
    assert np.allclose(np.sort(centres(sample, 30), axis=0), np.sort(sample, axis=0))
