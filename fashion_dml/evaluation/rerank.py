"""k-reciprocal re-ranking of the nearest N (Zhong, Zheng, Cao, Li: Re-ranking Person Re-identification, CVPR 2017, arXiv 1701.08398).

Two images that stand in each other's lists are likelier to show one product than two of which one only finds the other.
With N(p, k) the k nearest of p and p itself, over queries and gallery together:

    R(p, k)   = {g in N(p, k) : p in N(g, k)}
    R*(p)     = R(p, k1), and R(c, k1 / 2) for every c in R(p, k1) of whose R(c, k1 / 2) more than two thirds are in R(p, k1)
    V_p(g)    = exp(-d(p, g)) on R*(p), else 0; scaled to sum 1; then the mean of V over the first k2 of N(p, k2), p among them
    d_J(p, g) = 1 - sum min(V_p, V_g) / sum max(V_p, V_g)
    d*        = (1 - weight) d_J + weight d

d = 1 - cosine, which takes the place of the authors' distance divided by its largest value. They re-rank everything in O((Q + N)^2) memory;
here only the `top` nearest of each query are scored again, in O(Q top + (Q + N) k1^2) at most.
"""

from __future__ import annotations

import numpy as np

from fashion_dml.evaluation.neighbours import check_pair, nearest, normalised
from fashion_dml.storage import UserError

Rows = list[np.ndarray]


def k_reciprocal(
    queries: np.ndarray,
    gallery: np.ndarray,
    top: int,
    *,
    exclude: np.ndarray | None = None,
    k1: int = 20,
    k2: int = 6,
    weight: float = 0.3,
    memory_bytes: int = 256 << 20,
    device: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The `top` nearest gallery rows of each query, best first by -d*: scores [Q, top] float64, rows [Q, top] int64.

    queries [Q, D], gallery [N, D] float; exclude [Q]: the gallery row that is the query itself, or -1. Where fewer rows exist,
    score -inf and row -1. Raises UserError on settings that can't be.
    """
    if top < 1 or not 1 <= k2 <= k1 or not 0 <= weight <= 1:
        raise UserError(
            f"k-reciprocal re-ranking can't use top = {top}, k1 = {k1}, k2 = {k2}, weight = {weight:g}; "
            "give top of 1 or more, 1 <= k2 <= k1, and a weight of 0 to 1."
        )
    exclude = check_pair(queries, gallery, exclude)
    queries, gallery = normalised(queries), normalised(gallery)
    cosine, rows = nearest(queries, gallery, top, exclude=exclude, memory_bytes=memory_bytes, device=device)
    # Every image once: the gallery, then the queries that aren't in it.
    outside = np.flatnonzero(exclude < 0)
    everything = np.concatenate([gallery, queries[outside]])
    own = exclude.copy()
    own[outside] = len(gallery) + np.arange(len(outside))
    members, values = encoded(everything, k1, k2, memory_bytes, device)
    scratch = np.zeros(len(everything))
    scores = np.full(rows.shape, -np.inf)
    for q, found in enumerate(rows):
        there = found[found >= 0]
        if not len(there):
            continue
        scratch[members[own[q]]] = values[own[q]]
        common = [float(np.minimum(scratch[members[g]], values[g]).sum()) for g in there]
        scratch[members[own[q]]] = 0
        shared = np.array(common)
        # Both sum to 1, so the larger values sum to 2 less what is shared.
        jaccard = 1 - shared / (2 - shared)
        scores[q, : len(there)] = -(1 - weight) * jaccard - weight * (1 - cosine[q, : len(there)].astype(float))
    order = np.argsort(-scores, axis=1, kind="stable")
    return np.take_along_axis(scores, order, 1), np.take_along_axis(rows, order, 1)


def encoded(vectors: np.ndarray, k1: int, k2: int, memory_bytes: int, device: str | None) -> tuple[Rows, Rows]:
    """V of every unit vector [U, D]: members (rows, ascending) and values (float64, sum 1) of each."""
    _, found = nearest(vectors, vectors, k1, exclude=np.arange(len(vectors)), memory_bytes=memory_bytes, device=device)
    lists = [np.concatenate([[p], near[near >= 0]]) for p, near in enumerate(found)]
    half = [reciprocal(lists, p, round(k1 / 2)) for p in range(len(lists))]
    members: Rows = []
    values: Rows = []
    for p in range(len(lists)):
        first = reciprocal(lists, p, k1)
        more = [half[c] for c in first if 3 * np.isin(half[c], first).sum() > 2 * len(half[c])]
        whole = np.unique(np.concatenate([first, *more]))
        value = np.exp(vectors[whole].astype(float) @ vectors[p] - 1)
        members.append(whole)
        values.append(value / value.sum())
    if k2 == 1:
        return members, values
    averaged = [mean_of(members, values, near[:k2]) for near in lists]
    return [m for m, _ in averaged], [v for _, v in averaged]


def reciprocal(lists: Rows, p: int, k: int) -> np.ndarray:
    """R(p, k), from every image's list of itself and its nearest."""
    return np.array([g for g in lists[p][: k + 1] if p in lists[g][: k + 1]])


def mean_of(members: Rows, values: Rows, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of V over some rows."""
    whole, place = np.unique(np.concatenate([members[r] for r in rows]), return_inverse=True)
    return whole, np.bincount(place, np.concatenate([values[r] for r in rows])) / len(rows)
