"""A source of your own: folders VERTICAL/PRODUCT/*.jpg, every fifth product a test product."""

from __future__ import annotations

from pathlib import PurePosixPath

import pyarrow as pa

from fashion_dml.config import Ingest
from fashion_dml.data.sources.files import Files, Reader
from fashion_dml.data.sources.left_out import LeftOut
from fashion_dml.data.sources.listed import Listed, to_table
from fashion_dml.data.sources.rows import hash64

PHOTOS = (".jpg", ".jpeg", ".png", ".webp")


def read_tree(source: str, settings: Ingest) -> tuple[pa.Table, Reader, dict[str, str]]:
    """(rows before checks, reader, inputs) of a folder or tar. Raises UserError where no photo is found."""
    files, left_out = Files.open(source, "folders VERTICAL/PRODUCT/*.jpg"), LeftOut()
    rows = []
    for name in sorted(files.names):
        path = PurePosixPath(name)
        if path.suffix.lower() not in PHOTOS:
            continue
        if len(path.parts) < 3:
            left_out.add("not in VERTICAL/PRODUCT/", name)
            continue
        vertical, product = path.parts[-3], f"{path.parts[-3]}-{path.parts[-2]}"
        split = "test" if hash64(product) % 5 == 0 else "train"
        rows.append(Listed(name, f"{product}-{path.stem}", product, vertical, split))
    refs = [row.ref for row in rows]
    return to_table(rows, left_out, source, {}, {}), files.reader(refs), files.inputs(refs)
