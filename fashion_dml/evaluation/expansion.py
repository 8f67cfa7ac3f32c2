"""Query expansion: a query is searched again as a mean of itself and what it found.

Average (Chum et al.: Total Recall, ICCV 2007) and alpha (Radenović, Tolias, Chum: Fine-tuning CNN Image Retrieval with No Human
Annotation, 2018, arXiv 1711.02512): q' = q + sum_j max(0, <q, x_j>)^alpha x_j over the n nearest x_j, scaled to length 1.
alpha = 0 is the average.
"""

from __future__ import annotations

import numpy as np

from fashion_dml.evaluation.neighbours import nearest, normalised
from fashion_dml.storage import UserError


def expanded(
    queries: np.ndarray,
    gallery: np.ndarray,
    count: int,
    alpha: float = 3.0,
    *,
    exclude: np.ndarray | None = None,
    memory_bytes: int = 256 << 20,
    device: str | None = None,
) -> np.ndarray:
    """New queries [Q, D] float32 of length 1 from queries [Q, D], gallery [N, D] float and the `count` nearest of each.

    exclude [Q]: the gallery row that is the query itself, which adds nothing. Raises UserError for count < 1 or alpha < 0.
    """
    if count < 1 or alpha < 0:
        raise UserError(f"Query expansion is asked for {count} neighbours and alpha {alpha:g}; give 1 or more and 0 or more.")
    queries, gallery = normalised(queries), normalised(gallery)
    scores, rows = nearest(queries, gallery, count, exclude=exclude, memory_bytes=memory_bytes, device=device)
    weights = np.where(rows >= 0, np.maximum(scores, 0) ** alpha, 0).astype(np.float32)
    step = max(1, memory_bytes // (4 * count * queries.shape[1]))
    found = queries.copy()
    for start in range(0, len(queries) if len(gallery) else 0, step):
        part = slice(start, start + step)
        found[part] += np.einsum("qn,qnd->qd", weights[part], gallery[rows[part]])
    return normalised(found)
