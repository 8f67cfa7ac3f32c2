"""Stanford Online Products: 120,053 photos of 22,634 products in 12 super-classes, each a vertical.

    Ebay_train.txt, Ebay_test.txt       `image_id class_id super_class_id path`, one blank between columns, no count
    bicycle_final/111085122871_0.JPG    beside the lists

Also in circulation: Info_Files/Ebay_train.txt with images/bicycle_final/*.jpg. Suffixes are tried in both cases. Some
files are known to be missing from copies, and some are greyscale, which becomes RGB. Test products search among themselves.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import pyarrow as pa

from fashion_dml.config import Ingest
from fashion_dml.data.sources.files import Files, Reader
from fashion_dml.data.sources.left_out import LeftOut
from fashion_dml.data.sources.listed import Listed, protocol, to_table
from fashion_dml.data.sources.text_list import decoded
from fashion_dml.storage import UserError

NAME = "Stanford Online Products"
HEADER = ["image_id", "class_id", "super_class_id", "path"]
SUPER_CLASSES = (
    "bicycle", "cabinet", "chair", "coffee_maker", "fan", "kettle", "lamp", "mug", "sofa", "stapler", "table", "toaster",
)  # fmt: skip
SUFFIXES = (".JPG", ".jpg", ".jpeg", ".JPEG")
PUBLISHED = {"test": {"images": 60_502, "products": 11_316}, "train": {"images": 59_551, "products": 11_318}}


def read_sop(source: str, settings: Ingest) -> tuple[pa.Table, Reader, dict[str, str]]:
    """(rows before checks, reader, inputs) of a folder or tar. Raises UserError naming file, line and value."""
    files = Files.open(source, f"the {NAME} benchmark")
    left_out = LeftOut()
    rows: list[Listed] = []
    owners: dict[str, str] = {}
    for split in ("train", "test"):
        path = _list(files, f"Ebay_{split}.txt")
        file = f"{files.source}:{path}"
        lines = decoded(files, path)
        folders = _image_folders(path)
        if not lines or lines[0].split() != HEADER:
            raise UserError(f"{file}, line 1: the header is {''.join(lines[:1])[:80]!r}, not {' '.join(HEADER)!r}.")
        for line, text in enumerate(lines[1:], 2):
            if not text.strip():
                continue
            product, vertical, name = _row(text, file, line)
            image_id = f"{vertical}-{PurePosixPath(name).stem}"
            if (before := owners.setdefault(image_id, f"{file}, line {line}")) != f"{file}, line {line}":
                raise UserError(f"{file}, line {line}: the image {name!r} stands already in {before}.")
            found = _find(files, folders, name)
            if found is None:
                left_out.add("missing file", name, damage=True)
                continue
            rows.append(Listed(found, image_id, product, vertical, split))
    left_out.notes = protocol(NAME, rows, PUBLISHED, level="image")
    refs = [r.ref for r in rows]
    return to_table(rows, left_out, f"{source}:Ebay_*.txt", {}, {}), files.reader(refs), files.inputs(refs)


def _list(files: Files, name: str) -> str:
    found = [p for p in files.names if PurePosixPath(p).name == name and not p.startswith("__MACOSX")]
    if not found:
        raise UserError(f"{files.source!r} holds no {name}: give --source the folder (or plain tar) of {NAME}.")
    return min(found, key=lambda p: (p.count("/"), p))


def _image_folders(path: str) -> list[str]:
    """Where a list's paths may start: beside the list, or in images/ beside its folder."""
    home = PurePosixPath(path).parent
    return ["" if str(f) == "." else f"{f}/" for f in (home, home / "images", home.parent, home.parent / "images")]


def _row(text: str, file: str, line: int) -> tuple[str, str, str]:
    """(product, vertical, path) of a line."""
    cells = text.split()
    if len(cells) != 4 or not all(c.isdigit() for c in cells[:3]):
        raise UserError(f"{file}, line {line}: {text[:80]!r} is not three numbers and a path.")
    _, product, number, name = cells
    if not 1 <= int(number) <= len(SUPER_CLASSES):
        raise UserError(f"{file}, line {line}: the super-class is {number}; it must be 1 to {len(SUPER_CLASSES)}.")
    vertical = SUPER_CLASSES[int(number) - 1]
    if name.split("/")[:-1] != [f"{vertical}_final"]:
        raise UserError(
            f"{file}, line {line}: the path {name!r} is not in {vertical}_final, the folder of super-class {number}."
        )
    return product, vertical, name


def _find(files: Files, folders: list[str], name: str) -> str | None:
    stem = name.removesuffix(PurePosixPath(name).suffix)
    for path in (f"{folder}{stem}{suffix}" for folder in folders for suffix in (PurePosixPath(name).suffix, *SUFFIXES)):
        if path in files.names:
            return path
    return None
