"""An ablation measured: each rung's mean over seeds with its interval, and a verdict for every claim."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fashion_dml.evaluation.bootstrap import Interval, intervals, paired_difference
from fashion_dml.evaluation.protocol import Measured

RECALL_AT = (1, 10)
METRICS = ("R@1", "R@10", "MAP@R", "mAP")


def verdict(difference: Interval) -> str:
    """holds: the 95 % interval lies above 0; does not hold: below; undecided: it holds 0."""
    if difference.low > 0:
        return "holds"
    return "does not hold" if difference.high < 0 else "undecided"


def build(
    measured: Mapping[tuple[str, int], Measured], claims: Sequence[tuple[str, str, str, str]], *, resamples: int, seed: int
) -> dict[str, Any]:
    """Rows of the rungs and of the claims, ready for `json.dumps`.

    measured: (rung, seed) -> its queries, the same ones for all. claims: (says, better, worse, metric). A query's value is
    its mean over seeds and queries are resampled, so an interval is of the queries; how far seeds are apart stands beside it.
    """
    rungs = list(dict.fromkeys(rung for rung, _ in measured))
    seeds = sorted({s for _, s in measured})
    first = next(iter(measured.values())).queries
    names = [m for m in METRICS if m in first.values]
    scored = first.scored

    def values(rung: str, one: int) -> np.ndarray:
        return np.stack([measured[rung, one].queries.values[m][scored] for m in names], axis=1)

    means = {rung: np.mean([values(rung, s) for s in seeds], axis=0) for rung in rungs}
    rows = []
    for rung in rungs:
        found = intervals(means[rung], resamples, np.random.default_rng(seed))
        by_seed = {m: [float(values(rung, s)[:, i].mean()) for s in seeds] for i, m in enumerate(names)}
        rows.append({"rung": rung, **{m: vars(v) | {"seeds": by_seed[m]} for m, v in zip(names, found, strict=True)}})
    judged = []
    for says, better, worse, metric in claims:
        i = names.index(metric)
        found = paired_difference(means[better], means[worse], resamples, np.random.default_rng(seed))
        apart = [float((values(better, s) - values(worse, s))[:, i].mean()) for s in seeds]
        judged.append(
            {"claim": says, "better": better, "worse": worse, "metric": metric, **vars(found[i]), "seeds": apart,
             "verdict": verdict(found[i])}
        )  # fmt: skip
    return {"rungs": rows, "claims": judged, "queries": int(scored.sum()), "seeds": seeds}


def markdown(report: Mapping[str, Any]) -> str:
    """The two tables for a page of the docs."""
    metrics = [m for m in METRICS if m in report["rungs"][0]]
    lines = ["| step | " + " | ".join(metrics) + " |", "|---|" + "---|" * len(metrics)]
    for row in report["rungs"]:
        cells = (f"{100 * v['value']:.1f} ({100 * v['low']:.1f}-{100 * v['high']:.1f})" for v in (row[m] for m in metrics))
        lines.append(f"| {row['rung']} | " + " | ".join(cells) + " |")
    lines += ["", "| claim | difference | points | each seed | verdict |", "|---|---|---|---|---|"]
    for c in report["claims"]:
        points = f"{100 * c['value']:+.1f} ({100 * c['low']:+.1f} to {100 * c['high']:+.1f})"
        seeds = ", ".join(f"{100 * s:+.1f}" for s in c["seeds"])
        lines.append(
            f"| {c['claim']} | {c['metric']}: {c['better']} - {c['worse']} | {points} | {seeds} | **{c['verdict']}** |"
        )
    return "\n".join(lines) + "\n"
