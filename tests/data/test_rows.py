"""Checks of a source's rows: each refusal names the value and says what to do; validation is held out by product."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pyarrow as pa
import pytest
from drawn import shop_rows

from fashion_dml.data.sources.rows import (
    FIXED,
    MAX_VOCABULARY,
    attribute_matrix,
    check_rows,
    hash64,
    hold_out_validation,
    name_unlabelled,
    vocabulary,
)
from fashion_dml.storage import UserError

Row = dict[str, str]


def table(rows: list[Row]) -> pa.Table:
    made = [
        {"ref": r["path"], "image_id": r.get("image_id", r["path"].replace("/", "-")), "product_id": r["product_id"],
         "vertical": r["vertical"], "split": r["split"], "domain": "shop", "view": "",
         **{k: v for k, v in r.items() if k not in (*FIXED, "path")}}
        for r in rows
    ]  # fmt: skip
    return pa.Table.from_pylist(made) if made else pa.table({n: pa.array([], pa.string()) for n in FIXED})


def test_a_good_catalogue_passes() -> None:
    check_rows(table(shop_rows()), "shop.csv")


def _set(line: int, **values: str) -> Callable[[list[Row]], list[Row]]:
    """Change the row that stands in this line of the CSV."""

    def change(rows: list[Row]) -> list[Row]:
        rows[line - 2].update(values)
        return rows

    return change


def _no_training(rows: list[Row]) -> list[Row]:
    return [{**r, "split": "test"} if r["vertical"] == "shoes" else r for r in rows]


def _no_pair(rows: list[Row]) -> list[Row]:
    return [r for r in rows if r["vertical"] != "shoes" or r["split"] == "test" or r["path"].endswith("_0.jpg")]


REFUSALS = {
    "no rows": (lambda rows: [], "shop.csv lists no image; add rows."),
    "empty vertical": (
        _set(4, vertical=""),
        "shop.csv, line 4: vertical is empty (image 'photos/dresses/1_0.jpg'); fill it in or remove the row.",
    ),
    "blank product": (
        _set(3, product_id="  "),
        "shop.csv, line 3: product_id is empty (image 'photos/dresses/0_1.jpg'); fill it in or remove the row, or take such training "
        "images as unlabelled (ingest.unlabelled = true).",
    ),
    "bad split": (_set(2, split="training"), "shop.csv, line 2: split is 'training'; it must be one of train, validation, test"),
    "bad vertical": (_set(5, vertical="../up"), "shop.csv: vertical '../up' must match [A-Za-z0-9][A-Za-z0-9_.-]{0,63}; rename it."),
    "long vertical": (_set(5, vertical="v" * 65), f"shop.csv: vertical '{'v' * 65}' must match"),
    "bad product": (_set(5, product_id="a b"), "shop.csv: product_id 'a b' must match"),
    "bad image id": (_set(5, image_id="é"), "shop.csv: image_id 'é' must match"),
    "duplicate": (
        lambda rows: _set(3, image_id="x")(_set(2, image_id="x")(rows)),
        "shop.csv: image_id 'x' stands 2 times; ids must be unique (set ingest.columns.image_id).",
    ),
    "two splits": (
        _set(2, split="test"),
        "shop.csv: product 'dresses-0' is in two splits, 'test' and 'train'; put all its images into one, or the model is measured "
        "on what it was trained on.",
    ),
    "no training product": (
        _no_training,
        "shop.csv: vertical 'shoes' has no training image; give it products with split = train or remove its rows.",
    ),
    "no product of two images": (
        _no_pair,
        "shop.csv: vertical 'shoes' has no training product with two images, so nothing can be learned from it; add images or "
        "remove its rows.",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSALS)
def test_what_is_wrong_is_refused_in_one_sentence(case: str) -> None:
    change, message = REFUSALS[case]
    with pytest.raises(UserError) as caught:
        check_rows(table(change(shop_rows())), "shop.csv")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_training_images_without_a_product_stand_alone() -> None:
    given = shop_rows()
    blank = [i for i, row in enumerate(given) if row["split"] == "train"][:3]
    for i in blank:
        given[i]["product_id"] = " "
    rows = table(given)
    named = name_unlabelled(rows)
    check_rows(named, "shop.csv")
    ids = named["product_id"].to_pylist()
    assert [ids[i] for i in blank] == [f"unlabelled-{rows['image_id'][i]}" for i in blank]
    assert [p for i, p in enumerate(ids) if i not in blank] == [r["product_id"] for i, r in enumerate(given) if i not in blank]
    held_out = hold_out_validation(named, 0.5, seed=0)
    assert {held_out["split"][i].as_py() for i in blank} == {"train"}  # they can't be measured


def test_other_images_need_their_product() -> None:
    given = shop_rows()
    next(row for row in given if row["split"] == "test")["product_id"] = ""
    with pytest.raises(UserError, match="product_id is empty"):
        check_rows(name_unlabelled(table(given)), "shop.csv")


def splits(rows: pa.Table) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {}
    for row in rows.to_pylist():
        found.setdefault(row["product_id"], set()).add(row["split"])
    return found


def test_validation_holds_out_whole_training_products_of_each_vertical() -> None:
    rows = table(shop_rows(products=60, images=3))
    told = splits(hold_out_validation(rows, 0.2, seed=1))
    assert all(len(s) == 1 for s in told.values())
    before = splits(rows)
    assert {p for p, s in told.items() if s == {"test"}} == {p for p, s in before.items() if s == {"test"}}
    assert Counter(p.split("-")[0] for p, s in told.items() if s == {"validation"}) == {"dresses": 8, "shoes": 8}
    assert told == splits(hold_out_validation(rows.take(list(range(rows.num_rows))[::-1]), 0.2, seed=1))
    assert told != splits(hold_out_validation(rows, 0.2, seed=2))


def test_validation_takes_no_single_and_leaves_two_products_to_learn_from() -> None:
    rows = shop_rows(products=6, images=2, verticals=("shoes",))  # four training products
    rows = [r for r in rows if r["product_id"] != "shoes-0" or r["path"].endswith("_0.jpg")]
    told = splits(hold_out_validation(table(rows), 0.9, seed=0))
    assert told["shoes-0"] == {"train"}
    assert Counter(next(iter(s)) for s in told.values()) == {"train": 3, "validation": 1, "test": 2}


@pytest.mark.parametrize("share", [0.0, 0.5])
def test_validation_of_the_source_is_kept(share: float) -> None:
    rows = shop_rows()
    if share:
        rows = [{**r, "split": "validation"} if r["product_id"] == "shoes-1" else r for r in rows]
    made = table(rows)
    assert hold_out_validation(made, share, seed=0).equals(made)


def test_attributes_are_yes_no_or_unknown() -> None:
    made = table(
        [{**r, "sleeve": "long=er"} if r["vertical"] == "dresses" else {**r, "sleeve": ""} for r in shop_rows(images=3)]
    )
    words = vocabulary(made)
    assert words == ["colour=blue", "colour=red", "sleeve=long=er"]
    matrix = attribute_matrix(made, words)
    assert matrix.dtype == np.int8
    for row, values in zip(made.to_pylist(), matrix.tolist(), strict=True):
        colour = {"red": [-1, 1], "blue": [1, -1], "": [0, 0]}[row["colour"]]
        assert values == [*colour, 1 if row["vertical"] == "dresses" else 0]


def test_a_free_text_column_is_refused() -> None:
    made = pa.table({**{n: ["x"] * (MAX_VOCABULARY + 1) for n in FIXED}, "text": [str(i) for i in range(MAX_VOCABULARY + 1)]})
    with pytest.raises(UserError, match=r"have 4,097 different values, more than 4,096; leave out free-text columns"):
        vocabulary(made)


def test_hashes_are_the_same_everywhere() -> None:
    assert [hash64("a"), hash64("a", 1), hash64("é", 5)] == [3405396810240292928, 686407283439188259, 16625622762631095022]
