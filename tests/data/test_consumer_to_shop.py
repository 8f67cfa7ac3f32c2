"""DeepFashion Consumer-to-Shop: pairs counted once, val in the gallery as distractors, and every refusal."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from benchmark_files import LOOSE, dropped, images, made, numbered_list, per_split, save
from PIL import Image

from fashion_dml.data.sources.consumer_to_shop import read_consumer_to_shop
from fashion_dml.storage import UserError

PARTITION = "Eval/list_eval_partition.txt"
HEADER = "image_pair_name_1 image_pair_name_2 item_id evaluation_status"
HOMES = ("CLOTHING/Summer_Wear", "DRESSES/Lace_Dress")


def pairs() -> list[tuple[str, str, str, str]]:
    """Items 1-4 train, 5-6 val, 7-8 test; two consumer and two shop images each, in three pairs: images repeat.

    Item 1's images lie in the folder of another id, as some do: the item is told by its column.
    """
    made = []
    for i in range(1, 9):
        folder = f"img/{HOMES[i % 2]}/id_{90 if i == 1 else i:08d}"
        status = "train" if i < 5 else "val" if i < 7 else "test"
        for consumer, shop in ((1, 1), (1, 2), (2, 1)):
            made.append((f"{folder}/comsumer_{consumer:02d}.jpg", f"{folder}/shop_{shop:02d}.jpg", f"id_{i:08d}", status))
    return made


def names() -> list[str]:
    return sorted({name for pair in pairs() for name in pair[:2]})


def write(root: Path) -> Path:
    numbered_list(root, PARTITION, HEADER, [f"{a:<70}{b:<70}{item}     {status}" for a, b, item, status in pairs()])
    numbered_list(root, "Anno/list_items_consumer2shop.txt", "", [f"id_{i:08d}" for i in range(1, 9)])
    cloth = ["蕾丝   lace   1", "短 袖".replace(" ", "") + " short sleeve  2", "红色 red 9"]
    numbered_list(root, "Anno/list_attr_cloth.txt", "Chinese English type", cloth, mark="\ufeff")
    numbered_list(root, "Anno/list_attr_type.txt", "Chinese English", ["材质  fabric", "袖长  sleeve length"], mark="\ufeff")
    numbered_list(root, "Anno/list_attr_items.txt", "item_id attributes", [f"id_{i:08d} {(-1) ** i} 0 1" for i in range(2, 9)])
    numbered_list(
        root, "Anno/list_bbox_consumer2shop.txt", "image_name clothes_type source_type x_1 y_1 x_2 y_2",
        [f"{name} 1 {1 if 'shop_' in name else 2} 010 020 110 300" for name in names()],
    )  # fmt: skip
    for name in names():
        save(root, f"Img/{name}", size=(300, 200))
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("c2s") / "Consumer-to-shop Clothes Retrieval Benchmark")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_the_protocol(whole: Path, tmp_path: Path) -> None:
    dataset = made(tmp_path / "d", *read_consumer_to_shop(str(whole), LOOSE)[:2])
    assert per_split(dataset) == {"train": 16, "validation": 8, "query": 4, "gallery": 8}
    told = images(dataset)
    assert {r["domain"] for r in told.values() if r["split"] == "query"} == {"consumer"}
    gallery = [r for r in told.values() if r["split"] == "gallery"]
    assert {r["domain"] for r in gallery} == {"shop"}
    assert {r["product_id"] for r in gallery} == {"id_00000005.gallery", "id_00000006.gallery", "id_00000007", "id_00000008"}
    assert {r["product_id"] for r in told.values() if r["split"] == "query"} == {"id_00000007", "id_00000008"}
    assert told["DRESSES-Lace_Dress-id_00000090-comsumer_01"]["product_id"] == "id_00000001"
    assert dataset.verticals() == ["CLOTHING-Summer_Wear", "DRESSES-Lace_Dress"]
    protocol = dataset.manifest["protocol"]
    assert protocol["listed"] == {"images": 32, "items": 8, "pairs": 24}
    assert (protocol["as_published"], protocol["gallery"]) == (False, "all shop images of val and test")
    assert dropped(dataset) == {}


def test_attributes_have_english_names_and_types(whole: Path, tmp_path: Path) -> None:
    dataset = made(tmp_path / "d", *read_consumer_to_shop(str(whole), LOOSE)[:2])
    assert dataset.attributes == ["fabric=lace", "sleeve length=short sleeve", "attribute=red"]
    for row in images(dataset).values():
        item = int(row["product_id"][3:11])
        assert row["attributes"] == ([0, 0, 0] if item == 1 else [(-1) ** item, 0, 1])


def test_boxes_are_corners(copy: Path, tmp_path: Path) -> None:
    cropping = LOOSE.model_copy(update={"crop": "yes"})
    rows, reader, _ = read_consumer_to_shop(str(copy), cropping)
    assert {reader.load(ref).size for ref in rows["ref"].to_pylist()} == {(100, 280)}
    for name in names():
        file = (
            copy / "Img" / name.replace("img/", "img_highres/", 1).replace("Summer_Wear", "Summer_Suit")
        )  # named so in the archive
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.open(copy / "Img" / name).resize((400, 600)).save(file)
    rows, reader, _ = read_consumer_to_shop(str(copy), cropping.model_copy(update={"highres": True}))
    assert {reader.load(ref).size for ref in rows["ref"].to_pylist()} == {(200, 560)}
    assert any("Summer_Suit" in ref for ref in rows["ref"].to_pylist())
    assert rows["vertical"].unique().to_pylist() == ["DRESSES-Lace_Dress", "CLOTHING-Summer_Wear"]
    boxes = copy / "Anno/list_bbox_consumer2shop.txt"
    first, second, third = (f"{name} 1 2" for name in [n for n in names() if "comsumer" in n][:3])
    text = boxes.read_text()
    text = (
        text.replace(first, first[:-1] + "1")
        .replace(f"{second} 010", f"{second} 110")
        .replace(third, "img/a/b/c/comsumer_1.jpg 1 2")
    )
    boxes.write_text(text)
    dataset = made(tmp_path / "d", *read_consumer_to_shop(str(copy), cropping)[:2])
    assert dropped(dataset) == {"box of another source type": 1, "box without area": 1, "no box": 1}


def test_missing_images_mended_spellings_and_repeated_images(copy: Path, tmp_path: Path) -> None:
    files = [copy / "Img" / name for name in names()]
    files[0].rename(files[0].with_name(files[0].name.replace("comsumer", "consumer")))
    next(f for f in files if f.name == "shop_02.jpg" and "DRESSES" in str(f)).unlink()
    text = (copy / PARTITION).read_text()
    a, b, _, _ = pairs()[0]
    lines = [f"{a} {b} id_00000002 train", f"{pairs()[3][0]} {pairs()[3][1]} id_00000002 test"]
    (copy / PARTITION).write_text(text.strip().replace("24", "26", 1) + "\n" + "\n".join(lines) + "\n")
    dataset = made(tmp_path / "d", *read_consumer_to_shop(str(copy), LOOSE)[:2])
    # Item 2 has pairs of train and of test: it is measured, and not learned from.
    assert dropped(dataset) == {"missing file": 1, "pair of an item that is in a later status too": 4}
    told = images(dataset)
    assert {r["split"] for r in told.values() if r["product_id"] == "id_00000002"} == {"query", "gallery"}
    (copy / PARTITION).write_text(text.strip().replace("24", "25", 1) + f"\n{a} {b} id_00000003 train\n")
    dataset = made(tmp_path / "e", *read_consumer_to_shop(str(copy), LOOSE)[:2])
    assert dropped(dataset)["image of another item too"] == 2


REFUSALS = [
    (PARTITION, "24", "25", "line 1: declares 25 rows, but 24 follow"),
    (PARTITION, "image_pair_name_1 image_pair_name_2", "image_name", "line 2: the header is 'image_name item_id evaluation_status'"),
    (PARTITION, "     train", "     training", "line 3: the status is 'training'; it must be train, val or test."),
    (PARTITION, "comsumer_01", "shop_01", "line 3: 'img/DRESSES/Lace_Dress/id_00000090/shop_01.jpg' stands in the column of consumer images."),
    (PARTITION, "img/DRESSES/Lace_Dress", "img/Lace_Dress", "is not img/ and 3 folders and a file."),
    (PARTITION, "id_00000001 ", "id_00000011 ", "line 3: the item 'id_00000011' is not in the list of items."),
    ("Anno/list_attr_cloth.txt", "lace   1", "lace", "line 3: '蕾丝   lace' is not a Chinese name, an English name and a type's number."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), REFUSALS)
def test_what_the_lists_must_not_hold(copy: Path, name: str, old: str, new: str, message: str) -> None:
    file = copy / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        read_consumer_to_shop(str(copy), LOOSE)
    assert message in str(caught.value)
