"""Which index suits a catalogue: each kind is built on a sample, its recall and latency are measured, and the choice is explained.

Time is that of a query of a batch of 32 in this process's threads: what a core can serve is what a catalogue's owner pays for. (One query
at a time takes two to three times as long of ivf and ivf_pq; beside encoding a photo that is little.) Where the sample is smaller than a
shard, each kind is built on a quarter of it too, and the time grows on as it grew from there.

Queries are items whose products are not in the index: with a photo's own product there, or the photo itself, a search is easier than a
customer's is.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from fashion_dml.index.candidates import Candidates
from fashion_dml.index.fill import filled
from fashion_dml.index.manifest import KINDS, Effort
from fashion_dml.index.store import Store
from fashion_dml.index.train import GRAPH_LINKS, directions, train
from fashion_dml.storage import UserError

AT = 10  # recall@10
MARGIN = 8  # candidates beyond k that are re-scored at least
QUERIES, BATCH = 200, 32
TUNED_QUERIES = 500  # an effort is searched by every query from then on, so that it is chosen with more care than a kind
SPARE = 0.1  # of the misses that are allowed: what these queries may be easier than others
MOST_SAME = 64  # images of a query's product that don't count: more are searched for like others
FINENESS = 4  # efforts measured from one to twice as much
HALVED = 3  # times that the step below the effort that a shard is given is halved
EXACT_PREFERRED = 1.1  # an approximate index that isn't faster by more isn't worth its recall
BYTES = {"fp32": 4, "fp16": 2, "int8": 1}


@dataclass(frozen=True)
class Point:
    """What one effort gives: recall@10 of the exact answer over the stored vectors, milliseconds a query."""

    kind: str
    effort: Effort | None
    recall: float
    milliseconds: float


@dataclass(frozen=True)
class Choice:
    """The kind to build, why, and what was measured (milliseconds scaled to a shard's rows)."""

    kind: str
    points: list[Point]
    reasons: list[str]

    def as_json(self) -> dict[str, Any]:
        return {"kind": self.kind, "reasons": self.reasons, "points": [asdict(p) for p in self.points]}


def resident_bytes(kind: str, store: str, dim: int, held: int) -> float:
    """Bytes a row that searches touch all over, so that they should fit into memory. What only re-scoring reads may stay on disk.

    held: how many directions hold nearly all of the vectors' length (`candidates.directions`).
    """
    vector = BYTES[store] * dim
    copy = 0 if store == "int8" else dim  # of one byte a number, that few queries read
    return {"flat": vector + copy, "ivf": vector + 8, "ivf_pq": held / 2 + 8, "hnsw": vector + 4 * 2 * GRAPH_LINKS + 16}[kind]


def choose(
    sample: np.ndarray, products: np.ndarray, *, store: str, rows: int, memory_bytes: int, recall: float,
    kinds: Sequence[str] = KINDS,
) -> Choice:  # fmt: skip
    """The fastest kind for shards of `rows` rows that reaches the recall and fits into `memory_bytes` a shard.

    sample: float32 [n, D] unit vectors, in random order; products: numbers of their products [n]. Items of up to 200 products serve
    as queries and aren't in the index. Raises UserError if no kind fits, with what would.
    """
    held = min(QUERIES, len(sample) // 10)
    if held == 0:
        return Choice("flat", [], [f"flat: {len(sample)} items are too few for anything else"])
    _, first = np.unique(products, return_index=True)
    asked = np.sort(first)[:held]
    queries, base = sample[asked], np.ascontiguousarray(sample[~np.isin(products, products[asked])])
    if len(base) < AT:
        return Choice("flat", [], [f"flat: the items of {len(first)} products are too few for anything else"])
    among = len(directions(base, base.shape[1]))
    points: list[Point] = []
    reasons: list[str] = []
    best: list[Point] = []
    for kind in kinds:
        needed = resident_bytes(kind, store, sample.shape[1], among) * rows
        if needed > memory_bytes:
            reasons.append(f"{kind}: {needed / 2**20:,.0f} MiB a shard, more than the {memory_bytes / 2**20:,.0f} MiB allowed")
            continue
        try:
            found = list(_measure(kind, store, base, queries))
            scale = 1.0 if rows <= len(base) else (rows / len(base)) ** _growth(kind, store, base, queries, recall, found)
        except UserError as error:
            reasons.append(f"{kind}: {error}")
            continue
        found = [replace(p, milliseconds=p.milliseconds * scale) for p in found]
        points += found
        enough = [p for p in found if p.recall >= recall]
        if not enough:
            reasons.append(f"{kind}: recall@{AT} {max(p.recall for p in found):.3f} at most, less than {recall:g}")
            continue
        best.append(min(enough, key=lambda p: p.milliseconds))
        reasons.append(
            f"{kind}: {best[-1].milliseconds:.3g} ms at recall@{AT} {best[-1].recall:.3f}, {needed / 2**20:,.0f} MiB a shard"
        )
    if not best:
        raise UserError(
            f"No index fits: {'; '.join(reasons)}. Raise index.memory_bytes or index.shards, or lower index.recall."
        )
    fastest = min(best, key=lambda p: p.milliseconds * (1 if p.kind == "flat" else EXACT_PREFERRED))
    return Choice(fastest.kind, points, reasons)


def _growth(kind: str, store: str, base: np.ndarray, queries: np.ndarray, recall: float, found: Sequence[Point]) -> float:
    """The power of the rows by which the time of the cheapest sufficient effort grew from a quarter of the sample on, 0 to 1."""
    if kind == "flat":
        return 1.0
    small = cheapest(list(_measure(kind, store, base[: len(base) // 4], queries)), recall)
    grown = cheapest(found, recall).milliseconds / max(small.milliseconds, 1e-9)
    return min(1.0, max(0.0, math.log(max(grown, 1e-9)) / math.log(4)))


def _measure(kind: str, store: str, base: np.ndarray, queries: np.ndarray) -> Iterator[Point]:
    trained = train(kind, store, base.shape[1], len(base), base)
    trained.store.add(base)
    opened = Store(trained.store)
    if trained.candidates is None:
        _, seconds = _answers(lambda q: opened.nearest(q, AT + MARGIN, [(0, opened.rows)])[0], opened, queries)
        yield Point(kind, None, 1.0, 1000 * seconds)
        return
    yield from curve(opened, Candidates(kind, filled(trained.candidates, base), opened), queries, exact(opened, queries))


def exact(store: Store, queries: np.ndarray, but: np.ndarray | None = None) -> np.ndarray:
    """The AT best rows of each query, int64 [Q, AT], -1 for none; but: rows int64 [Q, E] that don't count, -1 for none."""
    found, _ = store.nearest(queries, AT + MARGIN + (0 if but is None else but.shape[1]), [(0, store.rows)])
    return _best(store, queries, _without(found, but))


def _without(rows: np.ndarray, but: np.ndarray | None) -> np.ndarray:
    """The rows [Q, C], -1 where they don't count."""
    return rows if but is None else np.where((rows[:, :, None] == but[:, None]).any(axis=2), -1, rows)


def curve(
    store: Store, candidates: Candidates, queries: np.ndarray, truth: np.ndarray, but: np.ndarray | None = None
) -> Iterator[Point]:
    """Recall and latency by rising effort, until the recall no longer rises; arguments as in `exact`."""
    rescored = (AT + MARGIN, 50, 100, 200) if candidates.kind == "ivf_pq" else (AT + MARGIN,)
    most = candidates.most_probes
    for count in (c for c in rescored if c <= max(store.rows, AT + MARGIN)):
        best: list[float] = []
        for probes in _rising(1 if candidates.kind != "hnsw" else 16, most):
            point = _measured(store, candidates, Effort(probes, count), queries, truth, but)
            yield point
            hits = point.recall
            best.append(max([*best[-1:], hits]))
            if hits >= 0.999 or (hits > 0.9 and best[-1] == best[-1 - FINENESS :][0] and len(best) > FINENESS):
                break


def _measured(
    store: Store, candidates: Candidates, effort: Effort, queries: np.ndarray, truth: np.ndarray, but: np.ndarray | None
) -> Point:
    """Recall and latency of one effort."""
    found, seconds = _answers(lambda q: candidates.nearest(q, effort.candidates, effort), store, queries, but)
    hits = np.mean([len(set(a) & set(b)) / max(1, len(set(b) - {-1})) for a, b in zip(found, truth, strict=True)])
    return Point(candidates.kind, effort, float(hits), 1000 * seconds)


def _narrowed(points: Sequence[Point], point: Point, recall: float, measure: Callable[[Effort], Point]) -> Iterator[Point]:
    """Between the point and the next smaller effort, halved some times: what the steps of the curve leave out."""
    assert point.effort is not None
    high, count = point.effort.probes, point.effort.candidates
    low = max(
        (p.effort.probes for p in points if p.effort and p.effort.candidates == count and p.effort.probes < high), default=high
    )
    for _ in range(HALVED):
        middle = (low + high) // 2
        if not low < middle < high:
            return
        tried = measure(Effort(middle, count))
        yield tried
        low, high = (low, middle) if tried.recall >= recall else (middle, high)


def _rising(first: int, last: int) -> Iterator[int]:
    """Whole numbers from first to last, FINENESS of them to each doubling."""
    found = {min(last, round(first * 2 ** (i / FINENESS))) for i in range(FINENESS * last.bit_length() + 1)}
    return iter(sorted(found))


def cheapest(points: Sequence[Point], recall: float) -> Point:
    """The fastest point that reaches the recall; where none does, the one of most recall."""
    enough = [p for p in points if p.recall >= recall]
    return min(enough, key=lambda p: p.milliseconds) if enough else max(points, key=lambda p: p.recall)


def _answers(
    near: Callable[[np.ndarray], np.ndarray], store: Store, queries: np.ndarray, but: np.ndarray | None = None
) -> tuple[list[np.ndarray], float]:
    """(the AT best rows of each query, median seconds of a query), asked BATCH at a time."""
    found: list[np.ndarray] = []
    seconds = []
    for i in range(0, len(queries), BATCH):
        asked = queries[i : i + BATCH]
        began = time.perf_counter()
        best = _best(store, asked, _without(near(asked), None if but is None else but[i : i + BATCH]))
        seconds.append((time.perf_counter() - began) / len(asked))
        found += list(best)
    return found, float(np.median(seconds))


def _best(store: Store, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The AT best of the proposed rows [Q, C] by their exact scores, int64 [Q, AT], -1 for none."""
    scores = store.scores(queries, rows)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :AT]
    best = np.take_along_axis(np.where(np.isfinite(scores), rows, -1), order, axis=1)
    return np.pad(best, ((0, 0), (0, AT - best.shape[1])), constant_values=-1)


def tune(
    store: Store, candidates: Candidates, recall: float, products: np.ndarray, *, queries: int = TUNED_QUERIES
) -> tuple[Effort, float, list[Point]]:
    """(least effort that reaches the recall on a built shard, its recall, the curve).

    Some of the shard's rows are the queries; they and the others of their products don't count. products: numbers [N].
    """
    _, first = np.unique(products, return_index=True)
    rows = np.random.default_rng(0).choice(first, min(queries, len(first)), replace=False)
    same = [np.flatnonzero(products == products[row])[:MOST_SAME] for row in rows]
    but = np.full((len(rows), max(map(len, same))), -1)
    for i, found in enumerate(same):
        but[i, : len(found)] = found
    asked = np.ascontiguousarray(store.vectors(rows))
    truth = exact(store, asked, but)
    points = list(curve(store, candidates, asked, truth, but))
    goal = recall + SPARE * (1 - recall)
    point = cheapest(points, goal)
    if point.recall >= goal:  # the smaller the effort the faster, whatever the milliseconds of this moment say
        narrowed = _narrowed(points, point, goal, lambda effort: _measured(store, candidates, effort, asked, truth, but))
        nearer = [p for p in narrowed if p.recall >= goal]
        points += nearer
        point = nearer[-1] if nearer else point
    assert point.effort is not None
    return point.effort, point.recall, sorted(points, key=_order)


def _order(point: Point) -> tuple[int, int]:
    assert point.effort is not None
    return point.effort.candidates, point.effort.probes
