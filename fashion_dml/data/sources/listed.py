"""From a benchmark's rows to the table that ingest takes; every converter ends here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fashion_dml.data.sources.left_out import LeftOut, attach
from fashion_dml.data.sources.rows import FIXED
from fashion_dml.storage import UserError


class Listed(NamedTuple):
    """One image; the fields are the fixed columns of rows.py, in their order."""

    ref: str
    image_id: str
    product_id: str
    vertical: str
    split: str
    domain: str = "shop"
    view: str = ""


def distractor(row: Listed) -> Listed:
    """The same image once more in the gallery, under a name of its own: it is in the protocol's gallery, and no query's
    answer. Its product may have been trained on or validated with, and a product is in one split."""
    return row._replace(image_id=f"{row.image_id}.gallery", product_id=f"{row.product_id}.gallery", split="gallery")


def to_table(
    rows: Sequence[Listed], left_out: LeftOut, origin: str, words: Mapping[str, Sequence[str]], signs: Mapping[str, np.ndarray]
) -> pa.Table:
    """The table of a source. words: attribute columns of text; signs: of 1 yes, -1 no, 0 unknown (int8 [N])."""
    if not rows:
        reasons = "; ".join(f"{r} {n:,}, first {left_out.first[r][0]}" for r, n in left_out.counts.items()) or "it is empty"
        raise UserError(f"No image of {origin} can be used ({reasons}); unpack the image archives into the source.")
    fixed = zip(FIXED, zip(*rows, strict=True), strict=True)
    text = {name: pa.array(values, pa.string()) for name, values in [*fixed, *words.items()]}
    return attach(pa.table({**text, **{n: pa.array(v, pa.int8()) for n, v in signs.items()}}), left_out)


def counts(rows: Sequence[Listed]) -> dict[str, dict[str, int]]:
    """Images and products of each split, to be compared with the published ones."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for row in rows:
        products, images = found.setdefault(row.split, (set(), set()))
        products.add(row.product_id)
        images.add(row.image_id)
    return {s: {"images": len(images), "products": len(products)} for s, (products, images) in sorted(found.items())}


def protocol(name: str, rows: Sequence[Listed], published: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """The manifest's `protocol`: the benchmark, what was found beside what is published, and its own remarks."""
    found = counts(rows)
    return {"name": name, "found": found, "published": published, "as_published": found == published, **more}
