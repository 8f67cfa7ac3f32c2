"""What a model keeps and what it gives up: how often its first answers share the query's colour, pattern, ...

Where photos of one product differ in colour, a model learns to pass over colour, and a user who wants it must filter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from fashion_dml.evaluation.bootstrap import Interval, intervals
from fashion_dml.evaluation.neighbours import nearest, normalised
from fashion_dml.evaluation.protocol import Vertical, searched


def agreement(
    verticals: Sequence[Vertical], words: Sequence[str], signs: Mapping[str, np.ndarray], *, k: int = 10, resamples: int = 1000,
    seed: int = 0, memory_bytes: int = 256 << 20,
) -> dict[str, tuple[int, Interval]]:  # fmt: skip
    """Attribute column -> (queries counted, mean share of the first k answers with a value of the query's), separate index.

    words [A], as "colour=red"; signs: int8 [A] of every image by its id, 1 has it. Answers and queries of which a column's
    value isn't known don't count.
    """
    columns = list(dict.fromkeys(word.partition("=")[0] for word in words))
    of_column = {c: np.array([word.partition("=")[0] == c for word in words]) for c in columns}
    shares: dict[str, list[np.ndarray]] = {c: [] for c in columns}
    for vertical in verticals:
        if not len(vertical.queries.labels) or not len(vertical.index.labels):
            continue
        index, own = searched(verticals, vertical, "separate")
        queries, gallery = normalised(vertical.queries.vectors), normalised(index.vectors)
        _, near = nearest(queries, gallery, k, exclude=own, memory_bytes=memory_bytes)
        asked, there = (
            np.stack([signs[i] for i in ids.tolist()]) == 1 for ids in (vertical.queries.image_ids, index.image_ids)
        )
        for column, mine in of_column.items():
            shares[column].append(_shares(asked[:, mine], there[:, mine], near))
    found = {}
    for column, parts in shares.items():
        share = np.concatenate(parts)
        share = share[~np.isnan(share)]
        if len(share):
            found[column] = (len(share), intervals(share[:, None], resamples, np.random.default_rng(seed))[0])
    return found


def _shares(asked: np.ndarray, there: np.ndarray, near: np.ndarray) -> np.ndarray:
    """[Q] share of each query's answers that have one of its values, of those that have any; NaN where there is none.

    asked [Q, W] and there [N, W] bool; near [Q, k] rows of there, -1 for none.
    """
    placed = near >= 0
    values = there[near] & placed[:, :, None]
    counted = values.any(2) & asked.any(1, keepdims=True)
    same = (values & asked[:, None, :]).any(2)
    total = counted.sum(1)
    return np.where(total > 0, same.sum(1) / np.maximum(total, 1), np.nan)
