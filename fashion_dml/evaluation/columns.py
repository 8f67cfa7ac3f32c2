"""The gallery as columns of a similarity matrix: sorted by label, so that a product is one range of columns.

Torch multiplies and counts, on the CPU or another device; it is imported where it is used, because reading a report needs none.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fashion_dml.evaluation.neighbours import normalised
from fashion_dml.storage import UserError

if TYPE_CHECKING:
    from torch import Tensor

# Columns are filled up to a multiple of this, so that eight masks are one word and words make equal groups.
MULTIPLE = 1024
# The rank of a relevant item that isn't there, or that lies beyond the places that were asked for.
FAR = 1 << 62


@dataclass(frozen=True)
class Columns:
    """N gallery images in P > N columns; those from N on are empty.

    vectors [P, D] float32 of unit length, by label; empty ones are zero. starts, counts [M] int64: columns of each product, by
    label. place [N] int64: the column of each gallery row.
    """

    vectors: Tensor
    count: int
    labels: np.ndarray
    starts: np.ndarray
    counts: np.ndarray
    place: np.ndarray

    @classmethod
    def of(cls, gallery: np.ndarray, labels: np.ndarray, device: str) -> Columns:
        """gallery [N, D] float of any length, labels [N] integer. Raises UserError for a device that can't hold it."""
        import torch

        order = np.argsort(labels, kind="stable")
        place = np.empty(len(order), np.int64)
        place[order] = np.arange(len(order))
        products, starts, counts = np.unique(labels[order], return_index=True, return_counts=True)
        padded = np.zeros((filled_up(len(order)), gallery.shape[1]), np.float32)
        padded[: len(order)] = normalised(gallery)[order]
        try:
            vectors = torch.from_numpy(padded).to(device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"The device {device!r} can't hold the gallery ({str(error).splitlines()[0]}); omit it.") from error
        return cls(vectors, len(order), products, starts, counts, place)

    def find(self, labels: np.ndarray) -> np.ndarray:
        """The product [Q] int64 of each label [Q], or -1 where the gallery doesn't show it."""
        if not len(self.labels):
            return np.full(len(labels), -1)
        product = np.minimum(np.searchsorted(self.labels, labels), len(self.labels) - 1)
        return np.where(self.labels[product] == labels, product, -1)

    def of_products(self, products: np.ndarray) -> np.ndarray:
        """The columns [b, R] int64 of products [b], filled up with the empty column N."""
        place = np.arange(self.counts[products].max(initial=1))
        columns: np.ndarray = self.starts[products][:, None] + place
        columns[place >= self.counts[products][:, None]] = self.count
        return columns


def filled_up(count: int) -> int:
    """The smallest multiple of MULTIPLE above `count`: at least one column stays empty."""
    return MULTIPLE * (count // MULTIPLE + 1)
