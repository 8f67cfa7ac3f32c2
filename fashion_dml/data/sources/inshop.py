"""DeepFashion In-Shop: 52,712 shop photos of 7,982 items, evaluated from query to gallery.

    Eval/list_eval_partition.txt        count; `image_name item_id evaluation_status`; status train, query or gallery
    Anno/list_item_inshop.txt           count; one item id per line (also named list_items_inshop.txt)
    Anno/list_attr_cloth.txt            count; header; one attribute per line, blanks included
    Anno/list_attr_items.txt            count; header; item id and 1, -1 or 0 for every attribute
    Anno/list_color_cloth.txt           count; header; image name, and the colour to the end of the line
    Anno/list_bbox_inshop.txt           count; `image_name clothes_type pose_type x_1 y_1 x_2 y_2`; needed for crops only
    Img/img/WOMEN/Dresses/id_00000002/02_1_front.jpg      <colourway>_<number>_<view>

The lists may lie in the root or in Anno/attributes. Verticals are gender and category of the path, never of the item:
some items span two categories, and MEN and WOMEN share names. Query and gallery have the same items.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import pyarrow as pa

from fashion_dml.config import Ingest
from fashion_dml.data.sources.crop import Cropped, boxed
from fashion_dml.data.sources.deepfashion import (
    ImageTree,
    attribute_columns,
    boxes,
    checked_name,
    item_attributes,
    item_ids,
    numbered,
    safe,
)
from fashion_dml.data.sources.files import Files, Reader
from fashion_dml.data.sources.left_out import LeftOut
from fashion_dml.data.sources.listed import Listed, protocol, to_table
from fashion_dml.data.sources.text_list import ANY, TextList, read_list, required
from fashion_dml.storage import UserError

NAME = "DeepFashion In-Shop"
PARTITION = "list_eval_partition.txt"
HEADER = ("image_name", "item_id", "evaluation_status")
FILE = re.compile(r"(\d+)_(\d+)_([A-Za-z]+)\.\w+")
COLOURS = 256
BOX_SIDE = "256p"
PUBLISHED = {
    "gallery": {"images": 12_612, "products": 3_985},
    "query": {"images": 14_218, "products": 3_985},
    "train": {"images": 25_882, "products": 3_997},
}


def read_inshop(source: str, settings: Ingest) -> tuple[pa.Table, Reader, dict[str, str]]:
    """(rows before checks, reader, inputs) of a folder or tar. Raises UserError naming file, line and value."""
    files = Files.open(source, f"the {NAME} benchmark")
    partition = required(read_list(files, [PARTITION], HEADER), files, PARTITION, NAME)
    left_out = LeftOut()
    rows, names, colourways = _rows(files, partition, settings, left_out)
    words: dict[str, Sequence[str]] = {
        "gender": [r.vertical.partition("-")[0] for r in rows], "category": [r.vertical.partition("-")[2] for r in rows],
        "colour": _colours(files, partition.base, names, left_out),
    }  # fmt: skip
    cloth = read_list(files, ["list_attr_cloth.txt"], ["attribute_name"], base=partition.base)
    attributes = numbered([f"attribute={text}" for _, text in cloth.rows]) if cloth else []
    signs = attribute_columns(
        attributes, item_attributes(files, partition.base, attributes, left_out) if cloth else {}, [r.product_id for r in rows]
    )
    left_out.notes = protocol(
        NAME, rows, PUBLISHED, level="image", **left_out.notes, **_remarks(rows, colourways),
        resolution="img_highres" if settings.highres else "img", cropped=settings.crop == "yes",
    )  # fmt: skip
    table = to_table(
        rows, left_out, partition.file, {w: v for w, v in words.items() if w in settings.columns.attributes}, signs
    )
    images = [r.ref.partition("|")[0] for r in rows]
    return table, Cropped(files.reader(images)), files.inputs(images)


def _rows(
    files: Files, partition: TextList, settings: Ingest, left_out: LeftOut
) -> tuple[list[Listed], list[str], list[tuple[str, str]]]:
    """(rows, their names in the lists, their item and colourway)."""
    items = item_ids(files, partition.base, ["list_item_inshop.txt", "list_items_inshop.txt"])
    tree = ImageTree(files, partition.base, settings.highres)
    found_boxes = boxes(files, partition.base, "list_bbox_inshop.txt", "pose_type") if settings.crop == "yes" else {}
    rows, names, colourways = [], [], []
    lines: dict[str, int] = {}
    for line, (name, item, status) in partition.split(3):
        if status not in ("train", "query", "gallery"):
            raise UserError(f"{partition.file}, line {line}: the status is {status!r}; it must be train, query or gallery.")
        if (before := lines.setdefault(name, line)) != line:
            raise UserError(f"{partition.file}, line {line}: the image {name!r} stands already in line {before}.")
        if items and item not in items:
            raise UserError(f"{partition.file}, line {line}: the item {item!r} is not in the list of items.")
        gender, category, folder, file = checked_name(name, 3, partition.file, line)
        path = tree.find(name)
        if path is None:
            left_out.add("missing file", name, damage=True)
            continue
        if found_boxes and name not in found_boxes:
            left_out.add("no box", name, damage=True)
            continue
        if found_boxes:
            corners = found_boxes[name][0]
            if corners[0] >= corners[2] or corners[1] >= corners[3]:
                left_out.add("box without area", name, damage=True)
                continue
            path = boxed(path, corners, BOX_SIDE)
        parts = FILE.fullmatch(file)
        image_id = "-".join(safe(p) for p in (gender, category, folder, file.rpartition(".")[0]))
        view = parts[3].lower() if parts else ""
        rows.append(Listed(path, image_id, item, f"{safe(gender)}-{safe(category)}", status, "shop", view))
        names.append(name)
        colourways.append((item, parts[1] if parts else ""))
    return rows, names, colourways


def _colours(files: Files, base: str, names: list[str], left_out: LeftOut) -> list[str]:
    """The colour of each image, unknown ("") for all but the most frequent ones: the shop wrote them freely."""
    found = read_list(files, ["list_color_cloth.txt"], ANY, base=base)
    told: dict[str, str] = {}
    for _, text in found.rows if found else []:
        name, *rest = text.split()
        told[name] = " ".join(rest).lower()
    colours = [told.get(name, "") for name in names]
    frequency = Counter(c for c in colours if c)
    kept = {c for c, _ in frequency.most_common(COLOURS)}
    if len(kept) < len(frequency):
        left_out.notes["colours_left_unknown"] = len(frequency) - len(kept)
    return [c if c in kept else "" for c in colours]


def _remarks(rows: list[Listed], colourways: list[tuple[str, str]]) -> dict[str, int]:
    """What a score on this benchmark has to be read with."""
    gallery = {r.product_id for r in rows if r.split == "gallery"}
    shown = {c for r, c in zip(rows, colourways, strict=True) if r.split == "gallery"}
    queries = [(r, c) for r, c in zip(rows, colourways, strict=True) if r.split == "query"]
    images = Counter(r.product_id for r in rows if r.split == "train")
    homes = Counter(p for p, _ in {(r.product_id, r.vertical) for r in rows})
    return {
        "queries_without_answer": sum(r.product_id not in gallery for r, _ in queries),
        "queries_without_own_colourway": sum(c not in shown for _, c in queries),
        "train_products_with_one_image": sum(n == 1 for n in images.values()),
        "products_in_two_verticals": sum(n > 1 for n in homes.values()),
    }
