"""Which index suits a catalogue: each kind is built on a sample, its recall and latency are measured, and the choice is explained.

Latency is that of one query at a time in this process's FAISS threads. Where the sample is smaller than a shard it is scaled: flat by
the rows, ivf and ivf_pq by their square root (cells grow with it), hnsw by their logarithm.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from fashion_dml.index.candidates import GRAPH_LINKS, Candidates, train
from fashion_dml.index.manifest import KINDS, Effort
from fashion_dml.index.store import Store
from fashion_dml.storage import UserError

AT = 10  # recall@10
MARGIN = 8  # candidates beyond k that are re-scored at least
QUERIES = 200
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


def resident_bytes(kind: str, store: str, dim: int) -> float:
    """Bytes a row that searches touch all over, so that they should fit into memory. What only re-scoring reads may stay on disk."""
    vector = BYTES[store] * dim
    return {"flat": vector, "ivf": vector + 8, "ivf_pq": dim / 4 + 8, "hnsw": vector + 4 * 2 * GRAPH_LINKS + 16}[kind]


def _scale(kind: str, rows: int, sample: int) -> float:
    if rows <= sample:
        return 1.0
    return {"flat": rows / sample, "hnsw": math.log(rows) / math.log(max(2, sample))}.get(kind, (rows / sample) ** 0.5)


def choose(
    sample: np.ndarray, *, store: str, rows: int, memory_bytes: int, recall: float, kinds: Sequence[str] = KINDS
) -> Choice:
    """The fastest kind for shards of `rows` rows that reaches the recall and fits into `memory_bytes` a shard.

    sample: float32 [n, D] unit vectors, in random order; up to 200 of them serve as queries and aren't in the index.
    Raises UserError if no kind fits, with what would.
    """
    held = min(QUERIES, len(sample) // 10)
    if held == 0:
        return Choice("flat", [], [f"flat: {len(sample)} items are too few for anything else"])
    queries, base = sample[:held], np.ascontiguousarray(sample[held:])
    points: list[Point] = []
    reasons: list[str] = []
    best: list[Point] = []
    for kind in kinds:
        needed = resident_bytes(kind, store, sample.shape[1]) * rows
        if needed > memory_bytes:
            reasons.append(f"{kind}: {needed / 2**20:,.0f} MiB a shard, more than the {memory_bytes / 2**20:,.0f} MiB allowed")
            continue
        try:
            found = list(_measure(kind, store, base, queries, rows))
        except UserError as error:
            reasons.append(f"{kind}: {error}")
            continue
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


def _measure(kind: str, store: str, base: np.ndarray, queries: np.ndarray, rows: int) -> Iterator[Point]:
    trained = train(kind, store, base.shape[1], len(base), base)
    trained.store.add(base)
    opened = Store(trained.store)
    scale = _scale(kind, rows, len(base))
    if trained.candidates is None:
        _, seconds = _answers(lambda q: opened.nearest(q, AT + MARGIN, [(0, opened.rows)])[0], opened, queries)
        yield Point(kind, None, 1.0, 1000 * seconds * scale)
        return
    trained.candidates.add(base)
    truth = exact(opened, queries)
    for point in curve(opened, Candidates(kind, trained.candidates, opened), queries, truth):
        yield Point(kind, point.effort, point.recall, point.milliseconds * scale)


def exact(store: Store, queries: np.ndarray, rows: np.ndarray | None = None) -> np.ndarray:
    """The AT best rows of each query, int64 [Q, AT]; `rows` int64 [Q]: the row that a query is itself, left out."""
    found, _ = store.nearest(queries, AT + MARGIN, [(0, store.rows)])
    if rows is not None:
        found = np.where(found == rows[:, None], -1, found)
    return _best(store, queries, found)


def curve(
    store: Store, candidates: Candidates, queries: np.ndarray, truth: np.ndarray, rows: np.ndarray | None = None
) -> Iterator[Point]:
    """Recall and latency by rising effort, until the recall no longer rises; arguments as in `exact`."""
    rescored = (AT + MARGIN, 50, 100, 200) if candidates.kind == "ivf_pq" else (AT + MARGIN,)
    most = int(candidates.index.nlist) if candidates.kind != "hnsw" else 1024
    for count in (c for c in rescored if c <= max(store.rows, AT + MARGIN)):
        probes, last = 1 if candidates.kind != "hnsw" else 16, -1.0
        while True:
            effort = Effort(min(probes, most), count)

            def near(q: np.ndarray, effort: Effort = effort) -> np.ndarray:
                return candidates.nearest(q, effort.candidates, effort)

            found, seconds = _answers(near, store, queries, rows)
            hits = np.mean([len(set(a) & set(b)) / max(1, len(set(b) - {-1})) for a, b in zip(found, truth, strict=True)])
            yield Point(candidates.kind, effort, float(hits), 1000 * seconds)
            if probes >= most or (hits >= 0.999) or (hits > 0.9 and hits <= last):
                break
            probes, last = probes * 2, float(hits)


def cheapest(points: Sequence[Point], recall: float) -> Point:
    """The fastest point that reaches the recall; where none does, the one of most recall."""
    enough = [p for p in points if p.recall >= recall]
    return min(enough, key=lambda p: p.milliseconds) if enough else max(points, key=lambda p: p.recall)


def _answers(
    near: Callable[[np.ndarray], np.ndarray], store: Store, queries: np.ndarray, rows: np.ndarray | None = None
) -> tuple[list[np.ndarray], float]:
    """(the AT best rows of each query, median seconds of a query), asked one by one."""
    found, seconds = [], []
    for i in range(len(queries)):
        query = queries[i : i + 1]
        began = time.perf_counter()
        proposed = near(query)
        best = _best(store, query, proposed if rows is None else np.where(proposed == rows[i], -1, proposed))
        seconds.append(time.perf_counter() - began)
        found.append(best[0])
    return found, float(np.median(seconds))


def _best(store: Store, queries: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """The AT best of the proposed rows [Q, C] by their exact scores, int64 [Q, AT], -1 for none."""
    scores = store.scores(queries, rows)
    order = np.argsort(-scores, axis=1, kind="stable")[:, :AT]
    best = np.take_along_axis(np.where(np.isfinite(scores), rows, -1), order, axis=1)
    return np.pad(best, ((0, 0), (0, AT - best.shape[1])), constant_values=-1)


def tune(store: Store, candidates: Candidates, recall: float, *, queries: int = QUERIES) -> tuple[Effort, float, list[Point]]:
    """(least effort that reaches the recall on a built shard, its recall, the curve); some of the shard's own rows are the queries."""
    rows = np.random.default_rng(0).choice(store.rows, min(queries, store.rows), replace=False)
    asked = np.ascontiguousarray(store.vectors(rows))
    points = list(curve(store, candidates, asked, exact(store, asked, rows), rows))
    point = cheapest(points, recall)
    assert point.effort is not None
    return point.effort, point.recall, points
