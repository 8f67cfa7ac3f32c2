"""The ranks of all relevant items: by `screen` where that is less work, by `dense` for the queries that it leaves."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

import numpy as np

from fashion_dml.evaluation.columns import Columns
from fashion_dml.evaluation.dense import Dense
from fashion_dml.evaluation.parallel import full_precision, in_threads, threads_of
from fashion_dml.evaluation.screen import MOST_RELEVANT, Screen, worthwhile

Level = Literal["image", "product"]


def ranked(
    columns: Columns,
    queries: np.ndarray,
    products: np.ndarray,
    hidden: np.ndarray,
    level: Level,
    end: int | None,
    memory_bytes: int,
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """(query rows [b], their ranks [b, R], relevant items [b]) of all queries that the gallery can answer, in any order.

    queries [Q, D] float32 of unit length; products [Q] int64, -1 where the gallery has none; hidden [Q] int64: the column that is
    the query itself, N for none. Ranks ascend; FAR stands where there is no relevant item, and may stand after place
    max(R, end); end None: every rank is found. Threads share `memory_bytes`, each holding one row at least.
    """
    import torch

    device, threads = columns.vectors.device, threads_of(columns.vectors.device)

    def given(rows: np.ndarray) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
        return torch.from_numpy(queries[rows]).to(device), products[rows], hidden[rows]

    known = np.flatnonzero(products >= 0)
    # Queries with as many relevant items stand in one panel: none is filled up much.
    rest = known[np.argsort(columns.counts[products[known]], kind="stable")]
    counts = columns.counts[products[rest]]
    few = int(np.searchsorted(counts, MOST_RELEVANT, side="right"))
    deepest = max(end or 1, int(counts[:few].max(initial=0)))
    with full_precision():
        if level == "image" and few and worthwhile(columns, deepest):
            screen = Screen(columns, memory_bytes, threads)

            def screened(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
                last = None if end is None else np.maximum(columns.counts[products[rows]], end)
                return rows, *screen.ranks(*given(rows), last)

            left = [rest[few:]]
            for rows, ranks, count, right in in_threads(screened, panels(rest[:few], screen.rows), threads):
                yield rows[right], ranks[right], count[right]
                left.append(rows[~right])
            rest = np.concatenate(left)
            del screen
        dense = Dense(columns, level, memory_bytes, threads)

        def counted(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
            return rows, *dense.ranks(*given(rows))

        yield from in_threads(counted, panels(rest, dense.rows), threads)


def panels(rows: np.ndarray, size: int) -> list[np.ndarray]:
    """Consecutive parts of at most `size` rows."""
    return [rows[start : start + size] for start in range(0, len(rows), size)]
