"""Street2Shop (Where To Buy It): photos from the street, with a box, searched among the shop photos of their category.

    photos/photos.txt                   no header; `000000001,http://...`: everything after the first comma is the address
    meta/json/train_pairs_<cat>.json    [{"photo": 1, "product": 2, "bbox": {"left", "top", "width", "height"}}, ...]
    meta/json/test_pairs_<cat>.json     the same
    meta/json/retrieval_<cat>.json      [{"photo": 3, "product": 2}, ...]       shop photos, without a box
    images/1.jpg or images/000000001.jpg        downloaded by the user; not always JPEG, whatever the suffix says

Products are numbered anew in every category, which is the vertical. Queries are the street boxes of test_pairs, the gallery is
retrieval_<cat>, and products are ranked by their best photo. Training has the street boxes of train_pairs and the
shop photos of their products.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from fashion_dml.config import Ingest
from fashion_dml.data.decode import FORMATS
from fashion_dml.data.sources.crop import Corners, Cropped, boxed
from fashion_dml.data.sources.files import Files, Reader
from fashion_dml.data.sources.left_out import LeftOut
from fashion_dml.data.sources.listed import Listed, distractor, protocol, to_table
from fashion_dml.data.sources.street_photos import Photos, find_photos
from fashion_dml.storage import UserError

NAME = "Street2Shop"
CATEGORIES = ("bags", "belts", "dresses", "eyewear", "footwear", "hats", "leggings", "outerwear", "pants", "skirts", "tops")
LISTS = ("train_pairs", "test_pairs", "retrieval")
ALSO_READ = (*FORMATS, "GIF", "BMP", "TIFF")
TOP_K = (1, 3, 5, 10, 20)
Entry = tuple[int, int, int, Corners | None]
"""Number in its file, photo, product, box."""


def read_street2shop(source: str, settings: Ingest) -> tuple[pa.Table, Reader, dict[str, str]]:
    """(rows before checks, reader, inputs) of a folder or tar. Raises UserError naming file, entry and value."""
    files = Files.open(source, f"the photos and meta folders of {NAME}")
    left_out = LeftOut()
    photos = find_photos(files, left_out)
    rows: list[Listed] = []
    for category in CATEGORIES:
        paths = {kind: f"{photos.base}meta/json/{kind}_{category}.json" for kind in LISTS}
        there = [kind for kind in LISTS if paths[kind] in files.names]
        if there and len(there) < len(LISTS):
            missing = next(kind for kind in LISTS if kind not in there)
            raise UserError(
                f"{source!r} holds {paths[there[0]]} but no {paths[missing]}; add it or remove the category {category}."
            )
        if there:
            train, test, retrieval = (list(_entries(files, paths[kind], kind != "retrieval")) for kind in LISTS)
            rows += _category(category, train, test, retrieval, photos, settings, left_out)
    if not rows and not left_out.counts:
        raise UserError(
            f"{source!r} holds no {photos.base}meta/json/retrieval_<category>.json; unpack the meta folder of {NAME}."
        )
    left_out.notes = protocol(
        NAME, rows, {}, level="product", **left_out.notes, recall_at=TOP_K, cropped=settings.crop != "no",
        gallery="all shop photos of the category" + ("" if settings.distractors else " but those of training products, which is easier"),
    )  # fmt: skip
    left_out.notes.pop("as_published")  # the photos have to be downloaded, and links die: no two copies are the same
    refs = [r.ref.partition("|")[0] for r in rows]
    return to_table(rows, left_out, f"{source}:meta/json", {}, {}), Cropped(files.reader(refs, ALSO_READ)), files.inputs(refs)


def _category(
    category: str,
    train: list[Entry],
    test: list[Entry],
    retrieval: list[Entry],
    photos: Photos,
    settings: Ingest,
    left_out: LeftOut,
) -> list[Listed]:
    """The rows of one category. A product of both lists is measured and not trained on."""
    rows: list[Listed] = []
    queried = {product for _, _, product, _ in test}
    trained = {product for _, _, product, _ in train} - queried
    seen: set[tuple[str, int, int, Corners | None]] = set()
    for split, entries in (("train", train), ("query", test), ("gallery", retrieval)):
        domain = "shop" if split == "gallery" else "street"
        for number, photo, product, box in entries:
            what = f"{category} {domain} photo {photo} of product {product}"
            path = photos.find(photo)
            if split == "train" and product in queried:
                left_out.add("training pair of a test product", what)
            elif (domain, photo, product, box) in seen:
                left_out.add("listed twice", what)
            elif box is not None and (box[2] <= box[0] or box[3] <= box[1]):
                left_out.add("box without area", what)
            elif path is None:
                left_out.add("missing file" if photo in photos.ids else "photo not in photos.txt", what, damage=True)
            else:
                seen.add((domain, photo, product, box))
                ref = path if box is None or settings.crop == "no" else boxed(path, box)
                # One street photo may show a product in two boxes: the entry's number keeps them apart.
                image_id = f"{category}-{domain}-{photo:09d}-{product}" + (f"-{number}" if domain == "street" else "")
                row = Listed(ref, image_id, f"{category}-{product}", category, split, domain)
                if split != "gallery" or product not in trained:
                    rows.append(row)
                    continue
                rows.append(row._replace(split="train"))
                if settings.distractors:
                    rows.append(distractor(row))
                else:
                    left_out.add("shop photo of a training product, left out of the gallery", what)
    return rows


def _entries(files: Files, path: str, boxes: bool) -> Iterator[Entry]:
    """The entries of one JSON list; boxes as corners, cut to whole pixels."""
    file = f"{files.source}:{path}"
    try:
        found = json.loads(files.read(path))
    except ValueError as error:
        raise UserError(f"{file} is not JSON ({error}); get it again.") from error
    if not isinstance(found, list):
        raise UserError(f"{file} holds {type(found).__name__}, not a list of photos.")
    for number, entry in enumerate(found, 1):
        try:
            photo, product = int(entry["photo"]), int(entry["product"])
            yield number, photo, product, _corners(entry["bbox"]) if boxes else None
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            said = json.dumps(entry)[:120]
            fields = "photo, product and bbox {left, top, width, height}" if boxes else "photo and product"
            raise UserError(f"{file}, entry {number}: {said} does not give {fields} as numbers.") from error


def _corners(box: dict[str, Any]) -> Corners:
    left, top, width, height = (int(float(box[k])) for k in ("left", "top", "width", "height"))
    return left, top, left + width, top + height
