"""Small synthetic retrieval problems, and a report made of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from fashion_dml.evaluation.protocol import PROTOCOLS, Items, LeftOut, Measured, Vertical, evaluate
from fashion_dml.evaluation.report import build, describe

NAMES = ("dresses", "shoes", "bags")


def make_verticals(
    noise: float, *, products: int = 12, images: int = 3, dims: tuple[int, ...] = (16, 16, 16)
) -> list[Vertical]:
    """Clusters of images around products; more noise is a worse model of the same queries."""
    rng = np.random.default_rng(7)
    found = []
    for v, (name, dim) in enumerate(zip(NAMES, dims, strict=True)):
        labels = np.repeat(np.arange(products), images) + 1000 * v
        centres = rng.normal(size=(products, dim))
        vectors = np.repeat(centres, images, axis=0) + noise * rng.normal(size=(products * images, dim))
        ids = np.array([f"{name}/{label:04d}_{i}.jpg" for i, label in enumerate(labels)])
        found.append(Vertical(name, Items(vectors.astype(np.float32), labels, ids)))
    return found


MODELS = {"pretrained": 2.0, "specialists": 0.7, "unified": 0.9}


@pytest.fixture(scope="session")
def results() -> dict[str, list[Measured | LeftOut]]:
    found = {name: [evaluate(make_verticals(noise), p) for p in PROTOCOLS] for name, noise in MODELS.items()}
    mixed = make_verticals(3.0, dims=(8, 8, 12))
    return {**found, "mixed": [evaluate(mixed, p) for p in PROTOCOLS]}


@pytest.fixture(scope="session")
def evaluation(results: dict[str, list[Measured | LeftOut]]) -> dict[str, Any]:
    return build(results, describe(make_verticals(1.0), name="synthetic", split="test"), resamples=200, seed=3)
