"""The k best rows of a store, with true scores and true ties: candidates are asked for until none that is missing could be among them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from fashion_dml.index.merge import rank
from fashion_dml.index.store import Store
from fashion_dml.storage import UserError

MARGIN = 8  # candidates beyond k, so that ties at the edge are seen
ROUNDING = 1e-5  # far above the float32 rounding of an inner product of unit vectors
MOST_K = 10_000  # an answer of more is no search, and takes memory in proportion
MOST_CANDIDATES = 4096  # beyond so many equal scores the choice among them is FAISS's


@dataclass(frozen=True)
class Hits:
    """scores float32 [Q, k], -inf where there are fewer than k; rows int64 [Q, k], there -1."""

    scores: np.ndarray
    rows: np.ndarray


@dataclass(frozen=True)
class Rows:
    """What a search needs of the rows: vectors, numbers of their products int32 [N], and an item's id by row."""

    store: Store
    products: np.ndarray
    item_id: Callable[[int], str]


def nearest(
    rows: Rows,
    queries: np.ndarray,
    k: int,
    ranges: list[tuple[int, int]],
    kept: np.ndarray | None,
    group_by_product: bool,
    propose: Callable[[np.ndarray, int], np.ndarray] | None = None,
) -> Hits:
    """The k best rows of the ranges that `kept`, bool [N], keeps (None: all): queries float32 [Q, D], ties by item_id.

    group_by_product: k different products, each by its best row. propose: of an approximate index, (queries, width) to rows of the
    selection [Q, C], -1 for none; where it doesn't find k, all rows are looked at.
    """
    queries = np.ascontiguousarray(queries)
    hits = Hits(np.empty((len(queries), k), np.float32), np.empty((len(queries), k), np.int64))
    hits.scores.fill(-np.inf)
    hits.rows.fill(-1)
    pending = np.arange(len(queries))
    width, most = (4 * k if group_by_product else k) + MARGIN, max(MOST_CANDIDATES, 4 * k)
    blur = ROUNDING * np.sqrt(np.einsum("qd,qd->q", queries, queries))
    while len(pending):
        if propose is None or width > most:
            found, floor = rows.store.nearest(queries[pending], width, ranges, kept)
            hidden = np.isfinite(floor)  # some rows are not among the candidates
        else:
            found = propose(queries[pending], width)
            floor, hidden = np.full(len(pending), -np.inf, np.float32), np.ones(len(pending), bool)
        scores = rows.store.scores(queries[pending], found)
        _settle(rows, scores, found, k, group_by_product, hits, pending)
        ends = hits.scores[pending, k - 1]  # score of the k-th hit: nothing unseen may come near it
        tied = not group_by_product and propose is None and width > most
        open_ = ~np.isfinite(ends) if tied else ends <= floor + blur[pending]
        pending = pending[open_ & hidden]
        width *= 4
    return hits


def _settle(
    rows: Rows, scores: np.ndarray, found: np.ndarray, k: int, group_by_product: bool, hits: Hits, queries: np.ndarray
) -> None:
    """Put the k best candidates, scores and rows [Q, C], in order into the hits of these queries [Q]."""
    order = (-scores).argsort(axis=1, kind="stable")
    each = np.arange(len(scores))[:, None]
    ranked = scores[each, order]
    best = found[each, order[:, :k]]
    best[ranked[:, :k] == -np.inf] = -1
    hits.scores[queries, : best.shape[1]], hits.rows[queries, : best.shape[1]] = ranked[:, :k], best
    ties = (ranked[:, 1:] == ranked[:, :-1]) & (ranked[:, 1:] > -np.inf)  # by item_id
    for i in np.arange(len(queries)) if group_by_product else ties.any(axis=1).nonzero()[0]:
        chosen = _best(rows, scores[i], found[i], k, group_by_product)
        hits.scores[queries[i]], hits.rows[queries[i]] = -np.inf, -1
        hits.scores[queries[i], : len(chosen)], hits.rows[queries[i], : len(chosen)] = scores[i, chosen], found[i, chosen]


def _best(rows: Rows, scores: np.ndarray, found: np.ndarray, k: int, group_by_product: bool) -> np.ndarray:
    """Places of the k best candidates of one query, ordered, ties by item_id."""
    order = rank(scores, lambda place: rows.item_id(int(found[place])) if found[place] >= 0 else "")
    order = order[np.isfinite(scores[order])]
    if group_by_product:
        _, first = np.unique(rows.products[found[order]], return_index=True)
        order = order[np.sort(first)]
    return order[:k]


def check_queries(queries: np.ndarray, dim: int, k: int) -> None:
    """Raises UserError unless queries are float32 [Q, dim], finite, and k is 1 to MOST_K."""
    if queries.dtype != np.float32 or queries.ndim != 2 or queries.shape[1] != dim:
        raise UserError(f"Queries must be float32 [Q, {dim}], these are {queries.dtype} {list(queries.shape)}.")
    if not np.isfinite(queries.sum()) and not np.isfinite(queries).all():  # the sum of finite ones can be infinite too
        raise UserError("A query holds NaN or infinity; send finite numbers.")
    if not 1 <= k <= MOST_K:
        raise UserError(f"k = {k} can't be used; it must be 1 to {MOST_K:,}.")
