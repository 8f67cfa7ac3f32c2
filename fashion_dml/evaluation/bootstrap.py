"""95 % percentile bootstrap over queries, and paired differences of two models on the same queries.

Resampling draws queries with replacement (Efron and Tibshirani: An Introduction to the Bootstrap, 1993, chapter 13).
Queries that show the same product are not independent, so an interval over queries is, if anything, too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from fashion_dml.storage import UserError

LEVEL = 0.95


@dataclass(frozen=True)
class Interval:
    """A mean and the interval that holds it; NaN where nothing was scored."""

    value: float
    low: float
    high: float


def intervals(values: np.ndarray, resamples: int, rng: np.random.Generator, *, memory_bytes: int = 64 << 20) -> list[Interval]:
    """Mean of each metric with its interval: values [Q, M] float, one row per scored query -> M intervals.

    All metrics share the resamples. Memory: `memory_bytes`, or one resample. Raises UserError on NaN or resamples < 1.
    """
    return macro_intervals([values], resamples, rng, memory_bytes=memory_bytes)


def macro_intervals(
    groups: Sequence[np.ndarray], resamples: int, rng: np.random.Generator, *, memory_bytes: int = 64 << 20
) -> list[Interval]:
    """Mean over groups of each group's mean: groups of [Q_g, M] float -> M intervals; each group is resampled by itself.

    Groups without queries are left out; with none left, M intervals of NaN.
    """
    if resamples < 1:
        raise UserError(f"The bootstrap is asked for {resamples} resamples; give at least 1, usually 1000.")
    if not all(np.isfinite(g).all() for g in groups):
        raise UserError("The values to resample hold NaN or infinity; keep only scored queries.")
    filled = [np.asarray(g, np.float64) for g in groups if len(g)]
    if not filled:
        return [Interval(float("nan"), float("nan"), float("nan"))] * groups[0].shape[1]
    means = sum(np.concatenate(list(resampled_means(g, resamples, rng, memory_bytes))) for g in filled) / len(filled)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    value = np.mean([g.mean(axis=0) for g in filled], axis=0)
    return [Interval(float(v), float(lo), float(hi)) for v, lo, hi in zip(value, low, high, strict=True)]


def resampled_means(values: np.ndarray, resamples: int, rng: np.random.Generator, memory_bytes: int) -> Iterator[np.ndarray]:
    """Means of `resamples` draws with replacement of values [Q, M] float64: chunks [b, M] float64, in all `resamples` rows.

    The draws don't depend on the chunks: one generator is read in order.
    """
    count = len(values)
    # A draw is held as int64, and how often each query was drawn as int64 and float64.
    chunk = max(1, min(resamples, memory_bytes // (24 * count)))
    for start in range(0, resamples, chunk):
        rows = min(chunk, resamples - start)
        drawn = rng.integers(count, size=(rows, count))
        drawn += np.arange(rows)[:, None] * count
        times = np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count)
        yield times.astype(np.float64) @ values / count


def paired_difference(
    a: np.ndarray, b: np.ndarray, resamples: int, rng: np.random.Generator, *, memory_bytes: int = 64 << 20
) -> list[Interval]:
    """Mean of a - b with its interval: a, b [Q, M] float of two models on the SAME queries in the same order -> M intervals.

    An interval that excludes zero is a difference that another draw of queries would likely show too. A row where
    either is NaN (not scored) is left out. Raises UserError when the shapes differ.
    """
    if a.shape != b.shape:
        raise UserError(
            f"The models to compare have values of shape {list(a.shape)} and {list(b.shape)}; measure both on the same queries."
        )
    difference = np.asarray(a, np.float64) - np.asarray(b, np.float64)
    both = ~np.isnan(difference).any(axis=1)
    return intervals(difference[both], resamples, rng, memory_bytes=memory_bytes)


def paired_ratio(
    a: np.ndarray, b: np.ndarray, resamples: int, rng: np.random.Generator, *, memory_bytes: int = 64 << 20
) -> Interval:
    """Mean of a over mean of b with its interval: a, b [Q] float of two models on the SAME queries in the same order.

    A row where either is NaN (not scored) is left out. NaN where b is 0 in every row, or in every row of some resample.
    """
    if a.shape != b.shape:
        raise UserError(
            f"The models to compare have values of shape {list(a.shape)} and {list(b.shape)}; measure both on the same queries."
        )
    both = np.stack([a, b], axis=1).astype(np.float64)
    both = both[~np.isnan(both).any(axis=1)]
    if not len(both) or not both[:, 1].any():
        return Interval(float("nan"), float("nan"), float("nan"))
    means = np.concatenate(list(resampled_means(both, resamples, rng, memory_bytes)))
    with np.errstate(divide="ignore", invalid="ignore"):
        low, high = np.quantile(means[:, 0] / means[:, 1], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    value = both[:, 0].mean() / both[:, 1].mean()
    return (
        Interval(float(value), float(low), float(high))
        if np.isfinite([low, high]).all()
        else Interval(float(value), *[float("nan")] * 2)
    )
