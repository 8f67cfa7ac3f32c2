"""DeepFashion Consumer-to-Shop: photos of buyers searched among photos of shops; 239,557 images of 33,881 items.

    Eval/list_eval_partition.txt        count of pairs; `image_pair_name_1 image_pair_name_2 item_id evaluation_status`
    Anno/list_item_consumer2shop.txt    count; one item id per line (also list_items_...)
    Anno/list_attr_cloth.txt            count; header; Chinese name, English name, number of the type
    Anno/list_attr_type.txt             count; header; Chinese name, English name; types count from 1
    Anno/list_attr_items.txt            count; header; item id and 1, -1 or 0 for every attribute
    Anno/list_bbox_consumer2shop.txt    count; `image_name clothes_type source_type x_1 y_1 x_2 y_2`; for crops only
    Img/img/CLOTHING/Summer_Wear/id_00000001/comsumer_01.jpg | shop_01.jpg      "comsumer" is the spelling on disk

A pair is a consumer's image, a shop's image, the item, and train, val or test. Images repeat over pairs and count once.
Queries are the consumer images of test; the gallery is all shop images of val and test, those of val as distractors.
val itself becomes the split validation.
"""

from __future__ import annotations

from pathlib import PurePosixPath

import pyarrow as pa

from fashion_dml.config import Ingest
from fashion_dml.data.sources.crop import Cropped, boxed
from fashion_dml.data.sources.deepfashion import (
    Box,
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
from fashion_dml.data.sources.listed import Listed, distractor, protocol, to_table
from fashion_dml.data.sources.text_list import ANY, TextList, read_list, required
from fashion_dml.storage import UserError

NAME = "DeepFashion Consumer-to-Shop"
PARTITION = "list_eval_partition.txt"
HEADER = ("image_pair_name_1", "image_pair_name_2", "item_id", "evaluation_status")
STATUS = ("train", "val", "test")
SPLIT = {("train", "consumer"): "train", ("train", "shop"): "train", ("val", "consumer"): "validation", ("val", "shop"): "validation",
         ("test", "consumer"): "query", ("test", "shop"): "gallery"}  # fmt: skip
SOURCE_TYPE = {"1": "shop", "2": "consumer"}
RENAMES = {"/comsumer_": "/consumer_", "CLOTHING/Summer_Wear/": "CLOTHING/Summer_Suit/"}
PUBLISHED = {"images": 239_557, "items": 33_881, "pairs": 195_540}


def read_consumer_to_shop(source: str, settings: Ingest) -> tuple[pa.Table, Reader, dict[str, str]]:
    """(rows before checks, reader, inputs) of a folder or tar. Raises UserError naming file, line and value."""
    files = Files.open(source, f"the {NAME} benchmark")
    partition = required(read_list(files, [PARTITION], HEADER), files, PARTITION, NAME)
    left_out = LeftOut()
    images = _images(files, partition, left_out)
    rows = _rows(files, partition, images, settings, left_out)
    words = _words(files, partition.base)
    owners = [r.product_id.removesuffix(".gallery") for r in rows]
    signs = attribute_columns(words, item_attributes(files, partition.base, words, left_out) if words else {}, owners)
    found = {"images": len(images), "items": len({item for item, _, _, _ in images.values()}), "pairs": len(partition.rows)}
    left_out.notes = protocol(
        NAME, rows, PUBLISHED, level="image", **left_out.notes, listed=found, gallery="all shop images of val and test",
        resolution="img_highres" if settings.highres else "img", cropped=settings.crop == "yes",
    ) | {"as_published": found == PUBLISHED}  # fmt: skip
    refs = [r.ref.partition("|")[0] for r in rows]
    return to_table(rows, left_out, partition.file, {}, signs), Cropped(files.reader(refs)), files.inputs(refs)


Image = tuple[str, str, str, int]


def _images(files: Files, partition: TextList, left_out: LeftOut) -> dict[str, Image]:
    """Image -> (item, domain, status, line), each once. An item of two statuses keeps the later one, as does an image of two items
    its first item: either would otherwise be learned from and measured on."""
    items = item_ids(files, partition.base, ["list_item_consumer2shop.txt", "list_items_consumer2shop.txt"])
    pairs = partition.split(4)
    last: dict[str, int] = {}
    for line, (_, _, item, status) in pairs:
        if status not in STATUS:
            raise UserError(f"{partition.file}, line {line}: the status is {status!r}; it must be train, val or test.")
        if items and item not in items:
            raise UserError(f"{partition.file}, line {line}: the item {item!r} is not in the list of items.")
        last[item] = max(last.get(item, 0), STATUS.index(status))
    found: dict[str, Image] = {}
    for line, (consumer, shop, item, status) in pairs:
        if STATUS.index(status) != last[item]:
            left_out.add("pair of an item that is in a later status too", f"line {line}")
            continue
        for name, domain in ((consumer, "consumer"), (shop, "shop")):
            told = PurePosixPath(name).name.partition("_")[0].replace("comsumer", "consumer")
            if told != domain:
                raise UserError(f"{partition.file}, line {line}: {name!r} stands in the column of {domain} images.")
            if found.setdefault(name, (item, domain, status, line))[0] != item:
                left_out.add("image of another item too", name)
    return found


def _rows(files: Files, partition: TextList, images: dict[str, Image], settings: Ingest, left_out: LeftOut) -> list[Listed]:
    tree = ImageTree(files, partition.base, settings.highres, RENAMES)
    found: dict[str, tuple[Box, str]] = {}
    if settings.crop == "yes":
        found = boxes(files, partition.base, "list_bbox_consumer2shop.txt", "source_type")
    rows = []
    for name, (item, domain, status, line) in images.items():
        section, category, folder, file = checked_name(name, 3, partition.file, line)
        path = tree.find(name)
        if path is None:
            left_out.add("missing file", name, damage=True)
            continue
        if settings.crop == "yes":
            corners, kind = found.get(name, ((0.0, 0.0, 0.0, 0.0), ""))
            if reason := _box_fault(corners, kind, domain):
                left_out.add(reason, name, damage=True)
                continue
            path = boxed(path, corners, "300" if settings.highres else "")
        image_id = "-".join(safe(p) for p in (section, category, folder, file.rpartition(".")[0]))
        split = SPLIT[status, domain]
        rows.append(Listed(path, image_id, item, f"{safe(section)}-{safe(category)}", split, domain))
        if (status, domain) == ("val", "shop"):
            rows.append(distractor(rows[-1]))
    return rows


def _box_fault(corners: Box, kind: str, domain: str) -> str:
    """What is wrong with an image's box, or nothing."""
    if not kind:
        return "no box"
    if SOURCE_TYPE.get(kind) != domain:
        return "box of another source type"
    return "" if corners[0] < corners[2] and corners[1] < corners[3] else "box without area"


def _words(files: Files, base: str) -> list[str]:
    """`type=name` in English; `attribute=name` where the type isn't told."""
    types = read_list(files, ["list_attr_type.txt"], ANY, base=base)
    kinds = [text.split(maxsplit=1)[-1] for _, text in types.rows] if types else []
    cloth = read_list(files, ["list_attr_cloth.txt"], ANY, base=base)
    words = []
    for line, text in cloth.rows if cloth else []:
        cells = text.split()
        assert cloth is not None
        if len(cells) < 3 or not cells[-1].isdigit():
            raise UserError(
                f"{cloth.file}, line {line}: {text[:80]!r} is not a Chinese name, an English name and a type's number."
            )
        number = int(cells[-1])
        kind = kinds[number - 1] if 1 <= number <= len(kinds) else "attribute"
        words.append(f"{kind.replace('=', '-')}={' '.join(cells[1:-1])}")
    return numbered(words)
