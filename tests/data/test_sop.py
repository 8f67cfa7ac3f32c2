"""Stanford Online Products in both layouts in circulation: classes, missing files, greyscale, and every refusal."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from benchmark_files import LOOSE, dropped, images, made, mean_colour, per_split, save
from PIL import Image

from fashion_dml.data.sources.sop import read_sop
from fashion_dml.storage import UserError

SUPER = {1: "bicycle", 4: "coffee_maker"}


def rows() -> dict[str, list[str]]:
    """Lines of both lists: classes 1-4 train, 5-8 test, two or three images each."""
    lines: dict[str, list[str]] = {"train": [], "test": []}
    number = 0
    for product in range(1, 9):
        for n in range(2 + product % 2):
            number += 1
            kind = (1, 4)[product % 2]
            lines["train" if product < 5 else "test"].append(
                f"{number} {product} {kind} {SUPER[kind]}_final/{111085122870 + product}_{n}.JPG"
            )
    return lines


def write(root: Path, *, other: bool = False) -> Path:
    lists, pictures = (root / "Info_Files", root / "images") if other else (root, root)
    for split, lines in rows().items():
        lists.mkdir(parents=True, exist_ok=True)
        (lists / f"Ebay_{split}.txt").write_text("image_id class_id super_class_id path\n" + "\n".join(lines) + "\n")
        for line in lines:
            name = line.split()[3]
            save(pictures, name.replace(".JPG", ".jpg") if other else name, seed=int(line.split()[0]))
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write(tmp_path / "Stanford_Online_Products")


def test_the_protocol(source: Path, tmp_path: Path) -> None:
    dataset = made(tmp_path / "d", *read_sop(str(tmp_path), LOOSE)[:2])  # one folder above is accepted too
    assert per_split(dataset) == {"train": 10, "test": 10}
    assert dataset.verticals() == dataset.verticals("train") == ["bicycle", "coffee_maker"]
    row = images(dataset)["coffee_maker-111085122875_2"]
    assert (row["product_id"], row["split"], row["vertical"]) == ("5", "test", "coffee_maker")
    assert dataset.manifest["protocol"] == {
        "name": "Stanford Online Products", "level": "image", "as_published": False,
        "found": {"train": {"images": 10, "products": 4}, "test": {"images": 10, "products": 4}},
        "published": {"test": {"images": 60_502, "products": 11_316}, "train": {"images": 59_551, "products": 11_318}},
    }  # fmt: skip


def test_the_other_layout_gives_the_same_rows(source: Path, tmp_path: Path) -> None:
    expected, _, _ = read_sop(str(source), LOOSE)
    found, reader, _ = read_sop(str(write(tmp_path / "online_products", other=True)), LOOSE)
    assert found.drop(["ref"]).equals(expected.drop(["ref"]))
    assert reader.load("images/bicycle_final/111085122872_0.jpg").size == (30, 40)


def test_missing_files_are_counted_and_greyscale_becomes_rgb(source: Path, tmp_path: Path) -> None:
    gone = source / "coffee_maker_final" / "111085122875_1.JPG"
    gone.unlink()
    grey = source / "bicycle_final" / "111085122876_0.JPG"
    Image.open(grey).convert("L").save(grey, "JPEG")
    dataset = made(tmp_path / "d", *read_sop(str(source), LOOSE)[:2])
    assert dropped(dataset) == {"missing file": 1}
    assert dataset.manifest["dropped"]["missing file"]["first"] == ["coffee_maker_final/111085122875_1.JPG"]
    assert dataset.manifest["unreadable"] == {"count": 0, "first": []}
    assert per_split(dataset) == {"train": 10, "test": 9}
    stored = images(dataset)["bicycle-111085122876_0"]["image"]
    assert np.ptp(mean_colour(stored)) < 1
    with pytest.raises(
        UserError, match=r"^1 of 20 images are unreadable, more than .* 1\.0%; the first is coffee_maker_final/.*: missing file"
    ):
        made(tmp_path / "e", *read_sop(str(source), LOOSE)[:2], LOOSE.model_copy(update={"max_unreadable": 0.01}))


REFUSALS = [
    ("image_id class_id", "image class_id", "line 1: the header is 'image class_id super_class_id path', not"),
    ("1 1 4 coffee", "1 1 coffee", "line 2: '1 coffee_maker_final"),
    ("1 1 4 coffee", "1 x 4 coffee", "is not three numbers and a path."),
    ("1 1 4 coffee", "1 1 13 coffee", "line 2: the super-class is 13; it must be 1 to 12."),
    ("1 1 4 coffee", "1 1 3 coffee", "is not in chair_final, the folder of super-class 3."),
    ("coffee_maker_final/", "../coffee_maker_final/", "is not in coffee_maker_final"),
    ("111085122871_1.JPG", "111085122871_0.JPG", "Ebay_train.txt, line 3: the image 'coffee_maker_final/111085122871_0.JPG' stands already in"),
    ("\n1 1 4", "\n1 5 4", "product '5' is in two splits, 'test' and 'train'"),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), REFUSALS)
def test_what_the_lists_must_not_hold(source: Path, tmp_path: Path, old: str, new: str, message: str) -> None:
    file = source / "Ebay_train.txt"
    assert old in file.read_text()
    file.write_text(file.read_text().replace(old, new, 1).replace("1 1 coffee", "1 coffee"))
    with pytest.raises(UserError) as caught:
        made(tmp_path / "d", *read_sop(str(source), LOOSE)[:2])
    assert message in str(caught.value)


def test_a_missing_list_or_no_image_is_refused(source: Path) -> None:
    for folder in ("bicycle_final", "coffee_maker_final"):
        shutil.rmtree(source / folder)
    with pytest.raises(UserError, match=r"No image of .* can be used \(missing file 20, first"):
        read_sop(str(source), LOOSE)
    (source / "Ebay_test.txt").unlink()
    with pytest.raises(UserError, match=r"holds no Ebay_test\.txt: give --source"):
        read_sop(str(source), LOOSE)
