"""What In-Shop and Consumer-to-Shop share: where images lie, attributes by item, boxes by image."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fashion_dml.data.sources.files import Files
from fashion_dml.data.sources.left_out import LeftOut
from fashion_dml.data.sources.text_list import ANY, read_list
from fashion_dml.storage import UserError

Box = tuple[float, float, float, float]


@dataclass
class ImageTree:
    """Finds a list's `img/...` names below the benchmark's folder: in Img/ or beside it, plain or high resolution."""

    files: Files
    base: str
    highres: bool
    renames: Mapping[str, str] = field(default_factory=dict)
    """Spellings on disk that differ from the list's: tried where a name isn't found."""

    def find(self, name: str) -> str | None:
        """The path in the source, or None where the file is missing."""
        relative = re.sub("^img/", "img_highres/", name) if self.highres else name
        spellings = [relative, *(relative.replace(a, b) for a, b in self.renames.items() if a in relative)]
        for path in (f"{self.base}{folder}{spelling}" for spelling in spellings for folder in ("Img/", "")):
            if path in self.files.names:
                return path
        return None


def checked_name(name: str, folders: int, file: str, line: int) -> list[str]:
    """Folders and file of an `img/...` name, without img. Raises UserError for another shape."""
    parts = name.split("/")
    if parts[0] != "img" or len(parts) != folders + 2 or any(p in ("", ".", "..") for p in parts):
        raise UserError(f"{file}, line {line}: the image {name!r} is not img/ and {folders} folders and a file.")
    return parts[1:]


def safe(text: str) -> str:
    """Text as a legal part of a vertical's name or an id."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text)


def item_ids(files: Files, base: str, names: Sequence[str]) -> set[str]:
    """Ids of the item list (count, no header, one id per line); empty where there is no such file."""
    found = read_list(files, names, [], base=base)
    return set() if found is None else {cells[0] for _, cells in found.split(1)}


def item_attributes(files: Files, base: str, words: Sequence[str], left_out: LeftOut) -> dict[str, np.ndarray]:
    """Item -> int8 [A] of 1 yes, -1 no, 0 unknown, from list_attr_items.txt; empty where it is missing.

    The file repeats items. Where rows of one item contradict each other the attribute is unknown, and noted.
    """
    found = read_list(files, ["list_attr_items.txt"], ANY, base=base, distinct=True)
    items: dict[str, np.ndarray] = {}
    contradicted = set()
    for line, text in found.rows if found else []:
        item, _, rest = text.partition(" ")
        try:
            values = np.array(rest.split(), np.int64)
        except (ValueError, OverflowError):
            values = np.array([2])
        assert found is not None
        if wrong := sorted(set(values.tolist()) - {-1, 0, 1}):
            raise UserError(f"{found.file}, line {line}: item {item!r} has the attribute value {wrong[0]}, not 1, -1 or 0.")
        if len(values) != len(words):
            raise UserError(
                f"{found.file}, line {line}: item {item!r} has {len(values)} attributes, list_attr_cloth.txt {len(words)}."
            )
        signs = values.astype(np.int8)
        if item in items and not np.array_equal(items[item], signs):
            contradicted.add(item)
            signs = np.where(items[item] == signs, signs, 0).astype(np.int8)
        items[item] = signs
    if contradicted:
        left_out.notes["items_with_contradicting_attributes"] = len(contradicted)
    return items


def attribute_columns(words: Sequence[str], items: Mapping[str, np.ndarray], owners: Sequence[str]) -> dict[str, np.ndarray]:
    """Word -> int8 [N] for rows of these items; an item without attributes has them unknown."""
    if not items:
        return {}
    unknown = np.zeros(len(words), np.int8)
    matrix = np.stack([items.get(owner, unknown) for owner in owners]) if owners else np.zeros((0, len(words)), np.int8)
    return {word: matrix[:, a] for a, word in enumerate(words)}


def numbered(words: Sequence[str]) -> list[str]:
    """The words made unique: a repeated one gets its number, so that no attribute covers another."""
    seen: dict[str, int] = {}
    made = []
    for word in words:
        seen[word] = seen.get(word, 0) + 1
        made.append(word if seen[word] == 1 else f"{word} {seen[word]}")
    return made


def boxes(files: Files, base: str, name: str, third: str) -> dict[str, tuple[Box, str]]:
    """Image -> (corners left, top, right, bottom; the third column), from a list of boxes.

    Columns: image_name clothes_type `third` x_1 y_1 x_2 y_2. Corners, not width and height.
    """
    found = read_list(files, [name], ["image_name", "clothes_type", third], base=base)
    if found is None:
        raise UserError(f"{files.source!r} holds no {name}, which ingest.crop = yes needs; add it or set ingest.crop to no.")
    told: dict[str, tuple[Box, str]] = {}
    for line, cells in found.split(7):
        try:
            left, top, right, bottom = (float(c) for c in cells[3:])
        except ValueError:
            raise UserError(f"{found.file}, line {line}: the box {' '.join(cells[3:])!r} is no four numbers.") from None
        told[cells[0]] = ((left, top, right, bottom), cells[2])
    return told
