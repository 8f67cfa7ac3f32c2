"""The generated catalogue as a source: checked rows and a reader, like a folder of photos."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
from PIL import Image

from fashion_dml.config import Generated
from fashion_dml.data.sources.generated.catalogue import catalogue
from fashion_dml.data.sources.generated.picture import render


@dataclass(frozen=True)
class GeneratedReader:
    """Draws an image from its id."""

    settings: Generated
    seed: int

    def load(self, ref: str) -> Image.Image:
        return render(ref, self.settings, self.seed)


def read_generated(settings: Generated, seed: int) -> tuple[pa.Table, GeneratedReader]:
    """(rows before checks, reader). Attribute columns that a vertical doesn't have are empty there."""
    rows = list(catalogue(settings, seed))
    names = sorted({name for row in rows for name in row.attributes})
    fixed = {
        "ref": [r.image_id for r in rows], "image_id": [r.image_id for r in rows], "product_id": [r.product_id for r in rows],
        "vertical": [r.vertical for r in rows], "split": [r.split for r in rows], "domain": ["shop"] * len(rows), "view": [""] * len(rows),
    }  # fmt: skip
    attributes = {name: [r.attributes.get(name, "") for r in rows] for name in names}
    return pa.table({name: pa.array(values, pa.string()) for name, values in {**fixed, **attributes}.items()}), GeneratedReader(
        settings, seed
    )
