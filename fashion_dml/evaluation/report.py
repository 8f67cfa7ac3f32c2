"""`evaluation.json`: every model, protocol, vertical and metric with its 95 % interval, and the differences of models.

    {"models": {name: {"separate" | "merged": {"overall": {"R@1": {"value", "low", "high"}, ...}, "macro": {...},
                "verticals": {V: {...}}, "attributes": {"column=value": {"queries": n, "R@1": {...}, ...}},
                "queries": n, "unscored": n, "gallery": "image" | "product"}}},
     "cost": {name: {"models": n, "parameters": n, "bytes": n, "ms_per_image": t}},
     "kept": {"overall": {"queries": n, "value", "low", "high"}, "verticals": {V: {...}}},
     "map": {name: {"vertical": [...], "x": [...], "y": [...]}},
     "agreement": {"answers": k, "models": {name: {"colour": {"queries": n, "value", "low", "high"}, ...}}},
     "dataset": {...}, "left_out": [{"model", "protocol", "reason"}],
     "differences": [{"a", "b", "protocol", "metric", "value", "low", "high"}]}

"overall" is the mean over queries (micro), "macro" the mean over verticals; "attributes" are queries known to have a value, where
the dataset has attributes; "kept" is the unified model's R@1 over the specialists', on separate indexes; "agreement" is how
often the first answers share a query's. A value that can't be had is null.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fashion_dml.evaluation.agreement import agreement
from fashion_dml.evaluation.bootstrap import Interval, intervals, macro_intervals, paired_difference, paired_ratio
from fashion_dml.evaluation.metrics import Retrieval
from fashion_dml.evaluation.protocol import PROTOCOLS, LeftOut, Measured, Protocol, Vertical
from fashion_dml.storage import UserError

COMPARED = ("R@1", "mAP", "MAP@R")
KEPT: tuple[str, str] = ("unified", "specialists")


def build(
    results: Mapping[str, Sequence[Measured | LeftOut]],
    dataset: Mapping[str, Any],
    *,
    resamples: int = 1000,
    seed: int = 0,
    compared: Sequence[str] = COMPARED,
    attributes: tuple[Sequence[str], Mapping[str, np.ndarray]] | None = None,
) -> dict[str, Any]:
    """The report of all models, ready for `json.dumps`.

    results: model name -> what `protocol.evaluate` gave for it, one for each protocol. dataset: what was measured on
    (see `describe`). Differences are of every pair of models under the same protocol, over all queries: the model
    named later minus the one named before. attributes: the words [A], and signs [A] of every query image by its id: 1 has it.
    Raises UserError when there is no model, or when two models were measured on different queries.
    """
    if not results:
        raise UserError("There is no model to report on; name at least one.")
    measured = {name: {r.protocol: r for r in rs if isinstance(r, Measured)} for name, rs in results.items()}
    models = {name: {p: protocol_report(by[p], resamples, seed) for p in PROTOCOLS if p in by} for name, by in measured.items()}
    if attributes is not None:
        for name, by in measured.items():
            for p, found in by.items():
                models[name][p]["attributes"] = attribute_report(found, *attributes, resamples, seed)
    left_out = [
        {"model": name, "protocol": r.protocol, "reason": r.reason}
        for name, rs in results.items()
        for r in rs
        if isinstance(r, LeftOut)
    ]
    differences: list[dict[str, Any]] = []
    for protocol in PROTOCOLS:
        having = [name for name in measured if protocol in measured[name]]
        for a, b in itertools.combinations(having, 2):
            # The later minus the earlier: models are named from the baseline on.
            differences += compare(b, measured[b][protocol], a, measured[a][protocol], compared, resamples, seed)
    content = {"models": models, "dataset": dict(dataset), "left_out": left_out, "differences": differences}
    unified, specialists = (measured.get(m, {}).get("separate") for m in KEPT)
    if unified is not None and specialists is not None:
        content["kept"] = kept_report(unified, specialists, resamples, seed)
    return content


def kept_report(unified: Measured, specialists: Measured, resamples: int, seed: int) -> dict[str, Any]:
    """R@1 of the unified model over that of the specialists, on separate indexes: of all queries, and of each vertical."""

    def ratio(one: Retrieval, other: Retrieval) -> dict[str, Any]:
        found = paired_ratio(one.values["R@1"], other.values["R@1"], resamples, np.random.default_rng(seed))
        return {"queries": int(one.scored.sum()), **_plain(found)}

    verticals = {v: ratio(part, specialists.by_vertical[v]) for v, part in unified.by_vertical.items()}
    return {"overall": ratio(unified.queries, specialists.queries), "verticals": verticals}


def protocol_report(measured: Measured, resamples: int, seed: int) -> dict[str, Any]:
    """One protocol of one model.

    Each interval starts from a generator of its own with the same seed, so adding a model or a vertical changes no
    other figure.
    """
    names = list(measured.queries.values)
    groups = {vertical: _scored_matrix(part) for vertical, part in measured.by_vertical.items()}

    def named(found: Sequence[Interval]) -> dict[str, Any]:
        return {name: _plain(interval) for name, interval in zip(names, found, strict=True)}

    return {
        "overall": named(intervals(_scored_matrix(measured.queries), resamples, np.random.default_rng(seed))),
        "macro": named(macro_intervals(list(groups.values()), resamples, np.random.default_rng(seed))),
        "verticals": {v: named(intervals(g, resamples, np.random.default_rng(seed))) for v, g in groups.items()},
        "queries": len(measured.queries),
        "unscored": measured.queries.unscored,
        "gallery": measured.level,
    }


def attribute_report(
    measured: Measured, words: Sequence[str], signs: Mapping[str, np.ndarray], resamples: int, seed: int
) -> dict[str, Any]:
    """Each attribute value by the queries that have it, of those that any scored query has."""
    matrix = np.array([signs[i] for i in measured.query_ids.tolist()]).reshape(len(measured.query_ids), len(words))
    found: dict[str, Any] = {}
    for word, column in zip(words, matrix.T, strict=True):
        scored = _scored_matrix(measured.queries.select(column == 1))
        if len(scored):
            means = intervals(scored, resamples, np.random.default_rng(seed))
            found[word] = {
                "queries": len(scored),
                **{name: _plain(mean) for name, mean in zip(measured.queries.values, means, strict=True)},
            }
    return found


def agreement_report(
    verticals: Sequence[Vertical], words: Sequence[str], signs: Mapping[str, np.ndarray], k: int, resamples: int, seed: int, memory_bytes: int
) -> dict[str, Any]:  # fmt: skip
    """How often a model's first k answers share the query's attributes, by column."""
    found = agreement(verticals, words, signs, k=k, resamples=resamples, seed=seed, memory_bytes=memory_bytes)
    return {column: {"queries": n, **_plain(mean)} for column, (n, mean) in found.items()}


def compare(
    a: str, measured_a: Measured, b: str, measured_b: Measured, metrics: Sequence[str], resamples: int, seed: int
) -> list[dict[str, Any]]:
    """Differences a - b under one protocol, one for each metric that both have."""
    if not np.array_equal(measured_a.query_ids, measured_b.query_ids):
        raise UserError(
            f"The models {a!r} and {b!r} were measured on different query images ({len(measured_a.query_ids)} and "
            f"{len(measured_b.query_ids)}), so their difference means nothing; evaluate both on the same split."
        )
    names = [m for m in metrics if m in measured_a.queries.values and m in measured_b.queries.values]
    if not names:
        return []
    values = [np.stack([m.queries.values[n] for n in names], axis=1) for m in (measured_a, measured_b)]
    found = paired_difference(values[0], values[1], resamples, np.random.default_rng(seed))
    protocol: Protocol = measured_a.protocol
    return [
        {"a": a, "b": b, "protocol": protocol, "metric": name, **_plain(interval)}
        for name, interval in zip(names, found, strict=True)
    ]


def describe(verticals: Sequence[Vertical], **more: Any) -> dict[str, Any]:
    """The "dataset" part: counts of each vertical, beside anything that the job knows (name, split, sha256)."""
    counts = {
        v.name: {
            "queries": len(v.queries.labels),
            "gallery": len(v.index.labels),
            "products": len(np.unique(v.index.labels)),
            "self_retrieval": v.gallery is None,
        }
        for v in verticals
    }
    return {**more, "verticals": counts}


def _scored_matrix(retrieval: Retrieval) -> np.ndarray:
    """[scored queries, metrics] float64."""
    return np.stack(list(retrieval.values.values()), axis=1)[retrieval.scored]


def _plain(interval: Interval) -> dict[str, float | None]:
    """JSON has no NaN: what can't be had is null."""
    values = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: None if math.isnan(v) else v for name, v in values.items()}
