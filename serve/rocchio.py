"""The query of "more like these, less like those": Rocchio, Relevance feedback in information retrieval, 1971."""

from __future__ import annotations

import numpy as np

from serve.errors import Refusal

LEAST = 1e-6  # length below which a difference of unit vectors is rounding


def query(positive: np.ndarray, negative: np.ndarray, weight: float) -> np.ndarray:
    """The mean of the positive vectors [P, D] less weight x the mean of the negative ones [N, D], of length 1, float32 [D].

    All of them count as unit vectors; P >= 1. Weight 0.5 gives the direction of 2 x mean(positive) - mean(negative), which others call the
    average vector. Raises Refusal where nothing is left.
    """
    found = _unit(positive).mean(axis=0)
    if len(negative):
        found = found - weight * _unit(negative).mean(axis=0)
    length = np.linalg.norm(found)
    if length < LEAST:
        raise Refusal(
            422,
            "no_direction",
            "What is liked and what isn't cancel each other out, so nothing is left to search by; change one.",
        )
    return (found / length).astype(np.float32)


def _unit(vectors: np.ndarray) -> np.ndarray:
    """float64 [n, D]; zero stays zero."""
    wide = vectors.astype(np.float64)
    return wide / np.maximum(np.linalg.norm(wide, axis=1, keepdims=True), np.finfo(np.float64).tiny)
