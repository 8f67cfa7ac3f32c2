"""Answers of shards, and how they become one: exact, and the same whatever the shards and replicas.

Order is by falling score, ties by item_id. Scores are computed alike everywhere (see `shard`), so equal vectors tie.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Found:
    """The neighbours of one query, best first: scores float32 [n] (cosine), attributes int8 [n, A]; n <= k.

    born int64 [n]: the commit that brought the item as it is, 0 where the index version itself holds it.
    """

    scores: np.ndarray
    item_ids: list[str]
    product_ids: list[str]
    verticals: list[str]
    attributes: np.ndarray
    born: np.ndarray

    def split(self, counts: np.ndarray) -> list[Found]:
        """One after the other so many neighbours, counts [Q]: the answers of Q queries out of one list of all."""
        ends = np.cumsum(counts).tolist()
        return [
            Found(
                self.scores[a:b], self.item_ids[a:b], self.product_ids[a:b], self.verticals[a:b], self.attributes[a:b],
                self.born[a:b],
            )
            for a, b in zip([0, *ends], ends, strict=False)
        ]  # fmt: skip

    def take(self, order: Sequence[int] | np.ndarray) -> Found:
        """The neighbours at these places, in this order."""
        places = [int(i) for i in order]
        return Found(
            self.scores[places], [self.item_ids[i] for i in places], [self.product_ids[i] for i in places],
            [self.verticals[i] for i in places], self.attributes[places], self.born[places],
        )  # fmt: skip


def rank(scores: np.ndarray, item_id: Callable[[int], str]) -> np.ndarray:
    """Places sorted by falling score, equal scores by item_id; item_id is asked only where scores tie. int64 [n]."""
    order = np.argsort(-scores, kind="stable")
    ranked = scores[order]
    ties = np.flatnonzero(ranked[1:] == ranked[:-1])
    done = 0
    for start in ties:
        if start < done:
            continue
        end = int(start) + 1
        while end < len(ranked) and ranked[end] == ranked[start]:
            end += 1
        order[start:end] = sorted(order[start:end], key=lambda place: item_id(int(place)))
        done = end
    return order


def merge(parts: Sequence[Found], k: int, *, group_by_product: bool = False) -> Found:
    """The k best of all parts; with group_by_product at most one item, the best, of each product."""
    if not parts:
        raise ValueError("merge needs the answer of at least one shard")
    whole = Found(
        np.concatenate([p.scores for p in parts]), [i for p in parts for i in p.item_ids],
        [i for p in parts for i in p.product_ids], [v for p in parts for v in p.verticals],
        np.concatenate([p.attributes for p in parts]), np.concatenate([p.born for p in parts]),
    )  # fmt: skip
    order = rank(whole.scores, lambda place: whole.item_ids[place])
    if group_by_product:
        first: dict[str, int] = {}
        for place in order:
            first.setdefault(whole.product_ids[place], int(place))
        order = np.fromiter(first.values(), np.int64, len(first))
    return whole.take(order[:k])
