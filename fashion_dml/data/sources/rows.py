"""What every source becomes before it is written: a checked table, one row per image.

Columns: ref (what the source's reader takes), image_id, product_id, vertical, split, domain, view, and the attribute columns:
text, whose values become words `column=value`, or int8 (1 yes, -1 no, 0 unknown), whose name is the word itself.
All checks that need no pixels happen here, so bad input is refused before anything is written.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fashion_dml.data.schema import SPLITS, VERTICAL_NAME
from fashion_dml.storage import UserError

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")
FIXED = ("ref", "image_id", "product_id", "vertical", "split", "domain", "view")
MAX_VOCABULARY = 4096
UNLABELLED = "unlabelled-"


def _first(table: pa.Table, mask: pa.Array | pa.ChunkedArray) -> dict[str, str] | None:
    """The first row where the mask holds, with `line`: its line in the CSV."""
    found = pc.indices_nonzero(pc.fill_null(mask, False))
    if len(found) == 0:
        return None
    i = found[0].as_py()
    return {**{k: table[k][i].as_py() for k in table.column_names}, "line": str(i + 2)}


def name_unlabelled(table: pa.Table) -> pa.Table:
    """Training rows without a product become products of one image: they make no pair, but a student has a target for them."""
    alone = pc.and_(pc.equal(pc.utf8_trim_whitespace(table["product_id"]), ""), pc.equal(table["split"], "train"))
    named = pc.binary_join_element_wise(UNLABELLED, table["image_id"], "")
    at = table.column_names.index("product_id")
    return table.set_column(at, "product_id", pc.if_else(alone, named, table["product_id"]))


def check_rows(table: pa.Table, origin: str) -> None:
    """Raise UserError with the first thing that is wrong with a source's rows; `origin` names the source."""
    if table.num_rows == 0:
        raise UserError(f"{origin} lists no image; add rows.")
    for column in ("ref", "image_id", "product_id", "vertical", "split"):
        if row := _first(table, pc.equal(pc.utf8_trim_whitespace(table[column]), "")):
            raise UserError(
                f"{origin}, line {row['line']}: {column} is empty (image {row['ref']!r}); fill it in or remove the row"
                + (
                    ", or take such training images as unlabelled (ingest.unlabelled = true)."
                    if column == "product_id"
                    else "."
                )
            )
    if row := _first(table, pc.invert(pc.is_in(table["split"], pa.array(SPLITS)))):
        raise UserError(f"{origin}, line {row['line']}: split is {row['split']!r}; it must be one of {', '.join(SPLITS)}.")
    for column, pattern in (("vertical", VERTICAL_NAME), ("product_id", ID), ("image_id", ID)):
        for value in table[column].unique().to_pylist():
            if not pattern.fullmatch(value):
                raise UserError(f"{origin}: {column} {value!r} must match {pattern.pattern}; rename it.")
    counts = table.group_by("image_id").aggregate([("image_id", "count")])
    if row := _first(counts, pc.greater(counts["image_id_count"], 1)):
        raise UserError(
            f"{origin}: image_id {row['image_id']!r} stands {row['image_id_count']} times; ids must be unique (set ingest.columns.image_id)."
        )
    _check_splits(table, origin)
    training = table.filter(pc.equal(table["split"], "train"))
    trained = training.group_by(["vertical", "product_id"]).aggregate([("ref", "count")])
    pairs = set(trained.filter(pc.greater(trained["ref_count"], 1))["vertical"].to_pylist())
    present = set(trained["vertical"].to_pylist())
    for vertical in sorted(set(table["vertical"].to_pylist())):
        if vertical not in present:
            raise UserError(
                f"{origin}: vertical {vertical!r} has no training image; give it products with split = train or remove its rows."
            )
        if vertical not in pairs:
            raise UserError(
                f"{origin}: vertical {vertical!r} has no training product with two images, so nothing can be learned from it; add images or remove its rows."
            )


def _check_splits(table: pa.Table, origin: str) -> None:
    """A product is in one split; only query and gallery share theirs, and neither stands without the other."""
    both = pc.is_in(table["split"], pa.array(["query", "gallery"]))
    roles = table.append_column("role", pc.if_else(both, "query and gallery", table["split"]))
    per_product = roles.group_by("product_id").aggregate(
        [("role", "count_distinct"), ("split", "min"), ("split", "max")],
    )
    if row := _first(per_product, pc.greater(per_product["role_count_distinct"], 1)):
        raise UserError(
            f"{origin}: product {row['product_id']!r} is in two splits, {row['split_min']!r} and {row['split_max']!r}; "
            f"put all its images into one, or the model is measured on what it was trained on."
        )
    present = set(table["split"].unique().to_pylist())
    if len(missing := {"query", "gallery"} - present) == 1:
        raise UserError(
            f"{origin} has no image of split {missing.pop()!r}: queries are searched in the gallery, so give both or neither."
        )


def hash64(text: str, seed: int = 0) -> int:
    """A 64-bit hash that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8, salt=seed.to_bytes(16, "little")).digest(), "little")


def hold_out_validation(table: pa.Table, share: float, seed: int) -> pa.Table:
    """Move a share of each vertical's training PRODUCTS to split validation, chosen by hash; none if the source has its own.

    Only products with two images are moved (others can't be a query), and at least two training products with two
    images stay; a product of two verticals stays, for moving it would take it from the other one too.
    """
    if share == 0 or pc.any(pc.equal(table["split"], "validation")).as_py():
        return table
    training = (
        table.filter(pc.equal(table["split"], "train")).group_by(["vertical", "product_id"]).aggregate([("ref", "count")])
    )
    moved: set[str] = set()
    by_vertical: dict[str, list[tuple[str, int]]] = {}
    listed = training.to_pylist()
    homes = Counter(row["product_id"] for row in listed)
    for row in listed:
        by_vertical.setdefault(row["vertical"], []).append((row["product_id"], row["ref_count"]))
    for products in by_vertical.values():
        usable = sorted((p for p, n in products if n > 1 and homes[p] == 1), key=lambda p: hash64(p, seed))
        moved.update(usable[: max(0, min(max(2, round(share * len(products))), len(usable) - 2))])
    mask = pc.is_in(table["product_id"], pa.array(sorted(moved), pa.string()))
    split = pc.if_else(mask, "validation", table["split"])
    return table.set_column(table.column_names.index("split"), "split", split)


def vocabulary(table: pa.Table) -> list[str]:
    """Words of all attribute columns, in their order and sorted within one; raises UserError past MAX_VOCABULARY."""
    found: list[str] = []
    for column in table.column_names:
        if column in FIXED:
            continue
        if pa.types.is_int8(table[column].type):
            found.append(column)
        else:
            values = sorted(v for v in table[column].unique().to_pylist() if v)
            found.extend(f"{column}={value}" for value in values)
    if len(found) > MAX_VOCABULARY:
        raise UserError(
            f"The attribute columns have {len(found):,} different values, more than {MAX_VOCABULARY:,}; "
            f"leave out free-text columns in ingest.columns.attributes."
        )
    return found


def attribute_matrix(table: pa.Table, words: list[str]) -> np.ndarray:
    """int8 [N, A]: 1 the row has the value, -1 it has another value of that column, 0 its column is empty."""
    matrix = np.zeros((table.num_rows, len(words)), np.int8)
    signs = {n for n in table.column_names if n not in FIXED and pa.types.is_int8(table[n].type)}
    for a, word in enumerate(words):
        if word in signs:
            matrix[:, a] = table[word].to_numpy()
            continue
        column, _, value = word.partition("=")
        cells = table[column]
        known = pc.not_equal(cells, "").to_numpy(zero_copy_only=False)
        same = pc.equal(cells, value).to_numpy(zero_copy_only=False)
        matrix[:, a] = np.where(same, 1, np.where(known, -1, 0))
    return matrix
