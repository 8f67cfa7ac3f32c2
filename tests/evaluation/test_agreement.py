"""Agreement of answers with the query's attributes: against loops, and where values aren't known."""

from __future__ import annotations

import numpy as np
import pytest

from fashion_dml.evaluation.agreement import agreement
from fashion_dml.evaluation.neighbours import normalised
from fashion_dml.evaluation.protocol import Items, Vertical

WORDS = ["colour=red", "colour=blue", "pattern=dots", "fit=slim"]


def items(name: str, count: int, rng: np.random.Generator) -> Items:
    ids = np.array([f"{name}{i}" for i in range(count)], object)
    return Items(rng.normal(size=(count, 6)).astype(np.float32), np.arange(count), ids)


def looped(verticals: list[Vertical], signs: dict[str, np.ndarray], k: int) -> dict[str, list[float]]:
    found: dict[str, list[float]] = {}
    for v in verticals:
        similarity = normalised(v.queries.vectors) @ normalised(v.index.vectors).T
        for q, own in enumerate(v.queries.image_ids):
            order = [j for j in np.argsort(-similarity[q]) if v.gallery is not None or j != q][:k]
            for column in ("colour", "pattern", "fit"):
                mine = [w for w, word in enumerate(WORDS) if word.startswith(column)]
                asked = {w for w in mine if signs[own][w] == 1}
                answers = [{w for w in mine if signs[v.index.image_ids[j]][w] == 1} for j in order]
                known = [a for a in answers if a]
                if asked and known:
                    found.setdefault(column, []).append(sum(bool(a & asked) for a in known) / len(known))
    return found


@pytest.mark.parametrize("roles", [False, True])
def test_shares_are_those_of_the_loops(roles: bool) -> None:
    rng = np.random.default_rng(3)
    verticals = [
        Vertical(name, items(f"{name}-q", 9, rng), items(f"{name}-g", 14, rng) if roles else None) for name in ("bags", "shoes")
    ]
    ids = [i for v in verticals for i in (*v.queries.image_ids, *v.index.image_ids)]
    signs = {i: rng.choice(np.array([-1, 0, 1], np.int8), size=len(WORDS)) for i in ids}
    for sign in signs.values():
        sign[3] = -1  # nobody is slim
    expected = looped(verticals, signs, 4)
    found = agreement(verticals, WORDS, signs, k=4, resamples=50)
    assert set(found) == set(expected) == {"colour", "pattern"}
    for column, (queries, mean) in found.items():
        assert queries == len(expected[column])
        assert mean.value == pytest.approx(np.mean(expected[column]))
        assert mean.low <= mean.value <= mean.high


def test_few_images_have_fewer_answers() -> None:
    rng = np.random.default_rng(0)
    alone = Vertical("bags", items("b", 2, rng))
    signs = {"b0": np.array([1, -1, 1, 0], np.int8), "b1": np.array([1, -1, -1, 0], np.int8)}
    found = agreement([alone], WORDS, signs, k=10, resamples=5)
    assert found["colour"][1].value == 1.0
    assert "pattern" not in found  # the one answer's pattern isn't known
