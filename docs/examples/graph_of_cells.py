"""An index kind of your own: k-means cells that are found by a graph, for shards of so many cells that looking at all costs."""

from __future__ import annotations

from typing import Any

import faiss
import numpy as np

from fashion_dml.index.train import SCALAR

LINKS = 32


def ivf_hnsw(dim: int, store: str, count: int, sample: np.ndarray) -> faiss.Index:
    """An empty index of `count` cells; it learns them, and is searched, as the kind ivf is."""
    quantizer: Any = faiss.IndexHNSWFlat(dim, LINKS, faiss.METRIC_INNER_PRODUCT)
    if store == "fp32":
        index: Any = faiss.IndexIVFFlat(quantizer, dim, count, faiss.METRIC_INNER_PRODUCT)
    else:
        index = faiss.IndexIVFScalarQuantizer(quantizer, dim, count, SCALAR[store], faiss.METRIC_INNER_PRODUCT, False)
    quantizer.this.disown()
    index.own_fields = True
    return index
