"""A model's space on a plane: where the verticals lie, and which of them run into each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fashion_dml.evaluation.protocol import Vertical

PERPLEXITY = 30.0
FEWEST = 8  # images; a map of fewer says nothing


def embedding_map(verticals: Sequence[Vertical], most: int, seed: int) -> dict[str, Any] | None:
    """{"vertical", "x", "y"}: t-SNE by cosine of at most `most` query images, drawn by lot; None where there are too few.

    verticals: queries float32 [n, D], all of one model. Coordinates are in [0, 1]; only nearness means something in them.
    The same seed gives the same images for every model.
    """
    from sklearn.manifold import TSNE  # a second, which only this needs

    names = np.repeat([v.name for v in verticals], [len(v.queries.vectors) for v in verticals])
    if len(names) < FEWEST:
        return None
    chosen = np.sort(np.random.default_rng(seed).permutation(len(names))[:most])
    vectors = np.concatenate([v.queries.vectors for v in verticals if len(v.queries.vectors)])[chosen]
    perplexity = min(PERPLEXITY, (len(chosen) - 1) / 3)
    # On unit vectors squared Euclidean distance is twice one minus the cosine, so neighbours are the same.
    spread = TSNE(perplexity=perplexity, init="random", random_state=seed).fit_transform(vectors)
    low, high = spread.min(0), spread.max(0)
    x, y = ((spread - low) / np.maximum(high - low, np.finfo(np.float32).tiny)).T
    return {"vertical": names[chosen].tolist(), "x": np.round(x, 4).tolist(), "y": np.round(y, 4).tolist()}
