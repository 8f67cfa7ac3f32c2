"""What a reply says of the items that were found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fashion_dml.index.merge import Found


def describe(found: Found, columns: Sequence[tuple[str, str]]) -> list[dict[str, Any]]:
    """A Result of each, in order; columns: (column, value) of each attribute of the index."""
    return [
        {
            "item_id": item_id, "product_id": found.product_ids[i], "vertical": found.verticals[i],
            "score": round(float(found.scores[i]), 6), "image_url": f"/v1/items/{item_id}/image",
            "attributes": _attributes(found.attributes[i], columns),
        }
        for i, item_id in enumerate(found.item_ids)
    ]  # fmt: skip


def _attributes(values: np.ndarray, columns: Sequence[tuple[str, str]]) -> dict[str, str]:
    """{column: value} of what is known to hold; several values of a column are joined by commas."""
    described: dict[str, str] = {}
    for place in np.flatnonzero(values == 1):
        column, value = columns[int(place)]
        described[column] = f"{described[column]}, {value}" if column in described else value
    return described
