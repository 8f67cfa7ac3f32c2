"""Fabric photos, one folder per fabric: the layout of FIRD with a split of one's own.

    split.csv                   path,fabric_id,split        paths relative to the CSV
    <fabric_id>/<image>.jpg

No list and no split of FIRD's authors could be found, so scores on such a split compare only with each other; the
manifest says so. A fabric is one product, all fabrics are one vertical.
"""

from __future__ import annotations

import csv
from pathlib import PurePosixPath

import pyarrow as pa

from fashion_dml.config import Ingest
from fashion_dml.data.schema import SPLITS
from fashion_dml.data.sources.deepfashion import safe
from fashion_dml.data.sources.files import Files, Reader
from fashion_dml.data.sources.left_out import LeftOut
from fashion_dml.data.sources.listed import Listed, protocol, to_table
from fashion_dml.data.sources.text_list import decoded
from fashion_dml.storage import UserError

NAME = "fabric folders (FIRD)"
COLUMNS = ("path", "fabric_id", "split")
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
VERTICAL = "fabric"


def read_fabric(source: str, settings: Ingest) -> tuple[pa.Table, Reader, dict[str, str]]:
    """(rows before checks, reader, inputs) of a folder or tar. Raises UserError naming file, line and value."""
    files = Files.open(source, "split.csv and a folder of images for every fabric")
    path = min((p for p in files.names if PurePosixPath(p).name == "split.csv"), key=lambda p: (p.count("/"), p), default="")
    if not path:
        raise UserError(
            f"{source!r} holds no split.csv: write one with the columns {', '.join(COLUMNS)}; all images of a fabric_id in one split."
        )
    file, base = f"{source}:{path}", path.removesuffix("split.csv")
    table = csv.reader(decoded(files, path))
    header = [c.strip() for c in next(table, [])]
    if header != list(COLUMNS):
        raise UserError(f"{file}, line 1: the header is {','.join(header)[:80]!r}, not {','.join(COLUMNS)!r}.")
    left_out = LeftOut()
    rows: list[Listed] = []
    listed: dict[str, int] = {}
    for cells in table:
        line = table.line_num
        if not any(c.strip() for c in cells):
            continue
        name, fabric, split = _row([c.strip() for c in cells], file, line)
        if (before := listed.setdefault(f"{base}{name}", line)) != line:
            raise UserError(f"{file}, line {line}: the image {name!r} stands already in line {before}.")
        if f"{base}{name}" not in files.names:
            left_out.add("missing file", name, damage=True)
            continue
        rows.append(Listed(f"{base}{name}", safe(name.replace("/", "-")), fabric, VERTICAL, split))
    for other in sorted(files.names):
        if other.startswith(base) and other.lower().endswith(SUFFIXES) and other not in listed:
            left_out.add("not in split.csv", other.removeprefix(base))
    left_out.notes = protocol(
        NAME, rows, {"images": "about 25,000", "fabrics": "about 4,300"}, level="image",
        split="this source's own split.csv; the split of FIRD's authors is unknown",
    )  # fmt: skip
    refs = [r.ref for r in rows]
    return to_table(rows, left_out, file, {}, {}), files.reader(refs), files.inputs(refs)


def _row(cells: list[str], file: str, line: int) -> tuple[str, str, str]:
    if len(cells) != 3:
        raise UserError(f"{file}, line {line}: {','.join(cells)[:80]!r} has {len(cells)} columns, not 3.")
    name, fabric, split = cells
    parts = PurePosixPath(name).parts
    if len(parts) < 2 or ".." in parts or name.startswith("/"):
        raise UserError(f"{file}, line {line}: the path {name!r} is not <fabric_id>/<image>.")
    if parts[-2] != fabric:
        raise UserError(f"{file}, line {line}: the fabric is {fabric!r}, but the image lies in the folder {parts[-2]!r}.")
    if split not in SPLITS:
        raise UserError(f"{file}, line {line}: split is {split!r}; it must be one of {', '.join(SPLITS)}.")
    return name, fabric, split
