"""Embeddings on a plane: neighbours stay neighbours, every image is one dot."""

from __future__ import annotations

import re

import numpy as np

from fashion_dml.evaluation.embedding_map import embedding_map
from fashion_dml.evaluation.plots import embedding_map as plot
from fashion_dml.evaluation.protocol import Items, Vertical


def vertical(name: str, count: int, centre: np.ndarray, seed: int) -> Vertical:
    vectors = centre + 0.3 * np.random.default_rng(seed).normal(size=(count, len(centre)))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    labels = np.arange(count, dtype=np.int64)
    return Vertical(name, Items(vectors.astype(np.float32), labels, np.array([f"{name}{i}" for i in range(count)], object)))


def catalogue(*counts: int) -> list[Vertical]:
    return [vertical(f"vertical {n}", count, 3 * np.eye(12)[n], n) for n, count in enumerate(counts)]


def test_images_lie_beside_those_of_their_vertical() -> None:
    found = embedding_map(catalogue(40, 60, 50), 1000, seed=0)
    assert found is not None
    points = np.stack([found["x"], found["y"]], 1)
    names = np.array(found["vertical"])
    assert len(points) == len(names) == 150
    assert (points.min(), points.max()) == (0, 1)
    away = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(away, np.inf)
    assert np.mean(names[away.argmin(1)] == names) > 0.98


def test_a_sample_is_the_same_for_every_model() -> None:
    first, again = (embedding_map(catalogue(40, 60), 30, seed=5) for _ in range(2))
    assert first == again
    assert first is not None
    turned = [vertical(v.name, len(v.queries.labels), np.ones(12), 9) for v in catalogue(40, 60)]
    other = embedding_map(turned, 30, seed=5)
    assert other is not None
    assert other["vertical"] == first["vertical"]
    assert len(first["x"]) == 30


def test_few_images_make_no_map_and_an_empty_vertical_is_none() -> None:
    assert embedding_map(catalogue(3, 4), 1000, seed=0) is None
    empty = Vertical("none", Items(np.empty((0, 12), np.float32), np.empty(0, np.int64), np.empty(0, object)))
    found = embedding_map([empty, *catalogue(4, 4)], 1000, seed=0)
    assert found is not None
    assert set(found["vertical"]) == {"vertical 0", "vertical 1"}


def test_every_vertical_is_in_the_legend_and_every_image_a_dot() -> None:
    found = embedding_map(catalogue(*[4] * 9), 1000, seed=0)
    assert found is not None
    svg = plot(found, "unified")
    assert all(f">{name}</text>" in svg for name in set(found["vertical"]))
    assert len(re.findall("<use ", svg)) == 36 + 9  # and one in the legend for each vertical
