"""Exact nearest neighbours, block by block: a matrix product within a byte budget, then a selection per row.

The same vector can get slightly different scores in two blocks, or two columns of one block, because BLAS chooses its
order of summation by shape. So nothing here compares two scores more finely than `TIE`.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fashion_dml.storage import UserError

# Scores closer than this are equal. Scores of one pair of unit vectors of 128 to 2,048 dimensions, over blocks of many shapes
# of OpenBLAS, differed by up to 8.4e-7, and from the float64 value by as much; cosines that mean something differ by far more.
TIE = 2e-6


def check_vectors(name: str, vectors: np.ndarray) -> None:
    """Refuse what is not a finite float matrix [N, D]; `name` stands in the message."""
    if vectors.ndim != 2 or vectors.shape[1] == 0 or not np.issubdtype(vectors.dtype, np.floating):
        raise UserError(
            f"The {name} have shape {list(vectors.shape)} and type {vectors.dtype}; give a float32 matrix of one row per image."
        )
    bad = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if bad.size:
        raise UserError(
            f"{bad.size} of {len(vectors)} {name} hold NaN or infinity, the first is row {bad[0]}; "
            "none may: look at the training that made the model, then embed again."
        )


def normalised(vectors: np.ndarray) -> np.ndarray:
    """Rows scaled to length 1: [N, D] float32. A zero row stays zero: it has similarity 0 to everything."""
    # Scaled by the largest entry first, so that the squares neither overflow nor vanish.
    largest = np.maximum(np.abs(vectors).max(axis=1, keepdims=True, initial=0), np.finfo(np.float32).tiny)
    scaled = vectors / largest
    length = np.sqrt(np.einsum("nd,nd->n", scaled, scaled, dtype=np.float64))
    return (scaled / np.where(length > 0, length, 1)[:, None]).astype(np.float32)


def similarity_blocks(
    queries: np.ndarray, gallery: np.ndarray, memory_bytes: int, device: str | None = None
) -> Iterator[tuple[int, np.ndarray]]:
    """Blocks of the similarity matrix: (first query row, scores [B, N] float32), in order.

    queries [Q, D], gallery [N, D]: float32. A block holds at most `memory_bytes`, but always one whole row; it is
    overwritten by the next, and the caller may change it. `device` (such as "cuda") computes the product by torch
    there; None uses numpy.
    """
    rows = max(1, min(len(queries), memory_bytes // (4 * max(1, len(gallery)))))
    if device is not None:
        yield from _torch_blocks(queries, gallery, rows, device)
        return
    buffer = np.empty((rows, len(gallery)), np.float32)
    columns = gallery.T
    for start in range(0, len(queries), rows):
        part = queries[start : start + rows]
        yield start, np.matmul(part, columns, out=buffer[: len(part)])


def _torch_blocks(queries: np.ndarray, gallery: np.ndarray, rows: int, device: str) -> Iterator[tuple[int, np.ndarray]]:
    import torch

    try:
        columns = torch.from_numpy(gallery).to(device).T
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"The device {device!r} can't hold the gallery ({str(error).splitlines()[0]}); omit it.") from error
    for start in range(0, len(queries), rows):
        part = torch.from_numpy(queries[start : start + rows]).to(device)
        # A training job may have allowed TF32, whose errors of 1e-3 would be far above TIE.
        before = torch.get_float32_matmul_precision()
        torch.set_float32_matmul_precision("highest")
        try:
            scores = part @ columns
        finally:
            torch.set_float32_matmul_precision(before)
        yield start, scores.cpu().numpy()


def nearest(
    queries: np.ndarray,
    gallery: np.ndarray,
    k: int,
    *,
    exclude: np.ndarray | None = None,
    memory_bytes: int = 256 << 20,
    device: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The k gallery rows of largest dot product for each query: scores [Q, k] float32, rows [Q, k] int64, best first.

    queries [Q, D], gallery [N, D]: float32. exclude [Q] int64: the gallery row that is the query itself, left out by its
    number; -1 leaves out none. Equal scores stand in row order; where scores within TIE x |q| x max|g| straddle the k-th
    place the smaller rows get in. The chosen are scored again in float64, so the block size doesn't change the answer.
    Fewer than k rows: the rest is score -inf, row -1. Raises UserError on a wrong k, shape or value.
    """
    exclude = check_pair(queries, gallery, exclude)
    if k < 1:
        raise UserError(f"k is {k}; ask for at least 1 neighbour.")
    queries, gallery = np.ascontiguousarray(queries, np.float32), np.ascontiguousarray(gallery, np.float32)
    found = np.full((len(queries), k), -1, np.int64)
    depth = min(k, len(gallery))
    if depth:
        ties = TIE * np.linalg.norm(queries, axis=1) * np.linalg.norm(gallery, axis=1).max()
        # Half of the budget, because the selection copies a block.
        for start, block in similarity_blocks(queries, gallery, memory_bytes // 2, device):
            left_out = exclude[start : start + len(block)]
            masked = np.flatnonzero(left_out >= 0)
            block[masked, left_out[masked]] = -np.inf
            last = np.partition(block, len(gallery) - depth, axis=1)[:, len(gallery) - depth]
            for i, row in enumerate(block):
                chosen = _choose(row, last[i], ties[start + i], depth)
                found[start + i, : len(chosen)] = chosen
    return _ordered(queries, gallery, found, memory_bytes)


def _choose(row: np.ndarray, last: np.float32, tie: float, k: int) -> np.ndarray:
    """The k columns of `row` [N] at or above its k-th best score `last`; of those tied with it, the first ones."""
    candidates = np.flatnonzero(row >= last - tie)
    candidates = candidates[row[candidates] > -np.inf]
    above = row[candidates] > last + tie
    certain = candidates[above]
    return np.concatenate([certain, candidates[~above][: k - len(certain)]])


def _ordered(queries: np.ndarray, gallery: np.ndarray, found: np.ndarray, memory_bytes: int) -> tuple[np.ndarray, np.ndarray]:
    """Found rows [Q, k] with float64-accurate scores, ordered by (score descending, row)."""
    scores = np.full(found.shape, -np.inf, np.float32)
    step = max(1, memory_bytes // (16 * max(1, found.shape[1] * queries.shape[1])))
    for start in range(0, len(queries) if len(gallery) else 0, step):
        part = slice(start, start + step)
        exact = np.einsum("qkd,qd->qk", gallery[found[part]], queries[part], dtype=np.float64)
        scores[part] = np.where(found[part] >= 0, exact, -np.inf)
    order = np.lexsort((found, -scores), axis=1)
    return np.take_along_axis(scores, order, 1), np.take_along_axis(found, order, 1)


def check_pair(queries: np.ndarray, gallery: np.ndarray, exclude: np.ndarray | None) -> np.ndarray:
    """Refuse queries, gallery and excluded rows that don't fit together; the excluded rows [Q] int64, -1 for none."""
    check_vectors("query vectors", queries)
    check_vectors("gallery vectors", gallery)
    if queries.shape[1] != gallery.shape[1]:
        raise UserError(
            f"The queries have {queries.shape[1]} dimensions and the gallery {gallery.shape[1]}; embed both with one model."
        )
    if exclude is None:
        return np.full(len(queries), -1, np.int64)
    if exclude.shape != (len(queries),) or not np.issubdtype(exclude.dtype, np.integer):
        raise UserError(
            f"The excluded rows have shape {list(exclude.shape)} and type {exclude.dtype}; give {len(queries)} integers."
        )
    if exclude.size and not (exclude.min() >= -1 and exclude.max() < len(gallery)):
        raise UserError(
            f"The excluded rows reach from {exclude.min()} to {exclude.max()}; they must be rows of the gallery, "
            f"0 to {len(gallery) - 1}, or -1 for none."
        )
    return exclude.astype(np.int64)
