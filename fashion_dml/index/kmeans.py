"""Centres of cells: spherical k-means, whose vectors are compared by inner product with centres of length 1."""

from __future__ import annotations

import numpy as np

from fashion_dml.index.assign import assign

ITERATIONS = 10
APART = 2.0**-10  # by this share the two centres differ that a full cell is split into


def centres(sample: np.ndarray, count: int) -> np.ndarray:
    """float32 [count, d], each of length 1, of a sample float32 [n, d] in any order, n >= count; the same for the same sample.

    A cell that holds no vector takes half of one of the fullest.
    """
    drawn = np.random.default_rng(0).permutation(len(sample))[:count]
    found = _unit(sample[drawn])
    for _ in range(ITERATIONS if len(sample) > count else 0):
        sums, counts = _sums(sample, assign(sample, np.ascontiguousarray(found.T)), count)
        found = _split(_unit(sums), counts)
    return found


def _sums(vectors: np.ndarray, cells: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(sum of each cell's vectors float32 [count, d], how many it holds int64 [count])."""
    counts = np.bincount(cells, minlength=count)
    held = np.flatnonzero(counts)
    sums = np.zeros((count, vectors.shape[1]), np.float32)
    starts = (np.cumsum(counts) - counts)[held]
    sums[held] = np.add.reduceat(vectors[np.argsort(cells, kind="stable")], starts, axis=0)
    return sums, counts


def _split(found: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Centres [count, d] where each empty cell has become half of a full one: both centres move a little apart."""
    order = np.argsort(-counts, kind="stable")
    empty, full = order[counts[order] == 0], order[counts[order] > 0]
    if not len(empty):
        return found
    split = full[np.arange(len(empty)) % len(full)]
    shift = np.where(np.arange(found.shape[1]) % 2 == 0, APART, -APART).astype(np.float32)
    found[empty] = found[split] * (1 + shift)
    found[split] *= 1 - shift
    return _unit(found)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """The vectors [n, d] divided by their lengths; zero stays zero."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, np.finfo(np.float32).tiny), np.float32)
