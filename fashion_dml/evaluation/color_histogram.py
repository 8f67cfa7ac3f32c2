"""The `color-histogram` baseline: what a search by colour alone would find. No training, no weights."""

from __future__ import annotations

import numpy as np

from fashion_dml.storage import UserError

BINS = 8
DIM = BINS**3
# A pixel whose darkest channel is at least this is studio ground, not product.
NEAR_WHITE = 240


def color_histogram(images: np.ndarray) -> np.ndarray:
    """Joint RGB histogram: images uint8 [B, H, W, 3] -> unit vectors float32 [B, 512].

    8 x 8 x 8 bins over the pixels that aren't near-white; an image that is near-white everywhere is counted whole. The
    square root makes the dot product of two images the Bhattacharyya coefficient of their histograms.
    Raises UserError on another shape or type.
    """
    if images.ndim != 4 or images.shape[3] != 3 or images.dtype != np.uint8 or 0 in images.shape[1:]:
        raise UserError(
            f"The colour histogram got images of shape {list(images.shape)} and type {images.dtype}; "
            "give uint8 of shape [B, H, W, 3], RGB."
        )
    count = len(images)
    pixels = images.reshape(count, images.shape[1] * images.shape[2], 3)
    product = pixels.min(axis=2) < NEAR_WHITE
    product |= ~product.any(axis=1, keepdims=True)
    level = (pixels // (256 // BINS)).astype(np.int64)
    bins = (level[..., 0] * BINS + level[..., 1]) * BINS + level[..., 2]
    bins += np.arange(count)[:, None] * DIM
    histogram = np.bincount(bins[product], minlength=count * DIM).reshape(count, DIM)
    return np.sqrt(histogram / histogram.sum(axis=1, keepdims=True)).astype(np.float32)
