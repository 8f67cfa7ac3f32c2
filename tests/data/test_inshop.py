"""DeepFashion In-Shop from a folder of its layout: the protocol's counts, verticals by path, and every refusal."""

from __future__ import annotations

import shutil
import tarfile
from pathlib import Path

import numpy as np
import pytest
from benchmark_files import LOOSE, dropped, images, made, mean_colour, numbered_list, per_split, save
from PIL import Image

from fashion_dml.data.sources.inshop import read_inshop
from fashion_dml.storage import UserError

HEADER = "image_name item_id evaluation_status"
VIEWS = ("front", "side", "back", "full", "additional", "flat")
PARTITION = "Eval/list_eval_partition.txt"


def lines_of() -> list[tuple[str, str, str]]:
    """(image, item, status): items 1-4 train, 5-8 in query and gallery; 4 has one image, 8 spans two categories."""
    made = []
    for i in range(1, 9):
        folder = ("MEN/Denim", "WOMEN/Denim")[i % 2]
        for n in range(1 if i == 4 else 4):
            home = "WOMEN/Graphic_Tees" if i in (3, 7) and n > 1 else folder
            name = f"img/{home}/id_{i:08d}/{1 + n // 2:02d}_{1 + n}_{VIEWS[n]}.jpg"
            status = "train" if i < 5 else "query" if n % 2 else "gallery"
            made.append((name, f"id_{i:08d}", status))
    return made


def write(root: Path, *, lifted: bool = False, items: str = "list_item_inshop.txt", anno: str = "Anno") -> Path:
    rows = lines_of()
    partition = [f"{name:<75}{item}      {status}" for name, item, status in rows]
    numbered_list(root, PARTITION.removeprefix("Eval/") if lifted else PARTITION, HEADER, partition)
    numbered_list(root, f"Anno/{items}", "", [f"id_{i:08d}" for i in range(1, 9)])
    words = ["red", "long-sleeve", "crew neck tee", "red"]
    numbered_list(root, f"{anno}/list_attr_cloth.txt", "attribute_name", words)
    signs = [f"id_{i:08d}  1   -1 0  {(-1) ** i}" for i in range(1, 9)]
    numbered_list(
        root, f"{anno}/list_attr_items.txt", "item_id attribute_labels", [*signs, signs[0], "id_00000002 1 1 0 1"], count=8
    )
    colours = [f"{name}   {('Navy/cream', 'Red')[n % 2]}" for n, (name, _, _) in enumerate(rows)]
    numbered_list(root, "Anno/list_color_cloth.txt", "image_name clothes_color", colours)
    numbered_list(
        root, "Anno/list_bbox_inshop.txt", "image_name clothes_type pose_type x_1 y_1 x_2 y_2",
        [f"{name}  1 1 064 000  192 256" for name, _, _ in rows],
    )  # fmt: skip
    for name, _, _ in rows:
        save(root, f"Img/{name}", size=(64, 64))
    return root


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("inshop") / "In-shop Clothes Retrieval Benchmark")


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "copy"))


def test_the_protocol_and_its_remarks(whole: Path, tmp_path: Path) -> None:
    dataset = made(tmp_path / "d", *read_inshop(str(whole), LOOSE)[:2])
    assert per_split(dataset) == {"train": 13, "query": 8, "gallery": 8}
    told = images(dataset)
    query, gallery = ({r["product_id"] for r in told.values() if r["split"] == s} for s in ("query", "gallery"))
    assert query == gallery == {f"id_{i:08d}" for i in range(5, 9)}
    assert dataset.verticals("train") == ["MEN-Denim", "WOMEN-Denim", "WOMEN-Graphic_Tees"]
    row = told["WOMEN-Graphic_Tees-id_00000007-02_4_full"]
    assert (row["vertical"], row["view"], row["domain"], row["split"]) == ("WOMEN-Graphic_Tees", "full", "shop", "query")
    sevens = {r["vertical"]: r["label"] for r in told.values() if r["product_id"] == "id_00000007"}
    assert set(sevens) == {"WOMEN-Denim", "WOMEN-Graphic_Tees"}
    assert len(set(sevens.values())) == 1  # a right answer in both
    assert dataset.manifest["products"] == 8
    protocol = dataset.manifest["protocol"]
    assert protocol["found"]["train"] == {"images": 13, "products": 4}
    assert protocol["as_published"] is False
    assert {k: protocol[k] for k in ("queries_without_answer", "queries_without_own_colourway", "train_products_with_one_image",
                                     "products_in_two_verticals", "items_with_contradicting_attributes")} == {
        "queries_without_answer": 0, "queries_without_own_colourway": 0, "train_products_with_one_image": 1,
        "products_in_two_verticals": 2, "items_with_contradicting_attributes": 1,
    }  # fmt: skip
    assert dropped(dataset) == {}


def test_attributes_are_those_of_the_item(whole: Path, tmp_path: Path) -> None:
    dataset = made(tmp_path / "d", *read_inshop(str(whole), LOOSE)[:2])
    words = dataset.attributes
    assert {
        "attribute=red",
        "attribute=red 2",
        "attribute=crew neck tee",
        "gender=MEN",
        "category=Graphic_Tees",
        "colour=navy/cream",
    } <= set(words)
    told = images(dataset)
    for image_id, row in told.items():
        found = dict(zip(words, row["attributes"], strict=True))
        number = int(row["product_id"][3:])
        # The rows of item 2 contradict each other in the second attribute.
        assert [found[f"attribute={w}"] for w in ("red", "long-sleeve", "crew neck tee", "red 2")] == [
            1,
            0 if number == 2 else -1,
            0,
            (-1) ** number,
        ]
        assert found["gender=WOMEN"] == (1 if image_id.startswith("WOMEN") else -1)


@pytest.mark.parametrize("kind", ["root", "attributes", "tar"])
def test_other_places_of_the_lists_give_the_same_rows(whole: Path, tmp_path: Path, kind: str) -> None:
    expected, _, _ = read_inshop(str(whole), LOOSE)
    source = tmp_path / "other"
    if kind == "tar":
        source = tmp_path / "inshop.tar"
        with tarfile.open(source, "w") as archive:
            archive.add(whole, f"./{whole.name}")
    else:
        write(
            source,
            lifted=kind == "root",
            items="list_items_inshop.txt",
            anno="Anno/attributes" if kind == "attributes" else "Anno",
        )
    rows, reader, _ = read_inshop(str(source), LOOSE)
    assert rows.drop(["ref"]).equals(expected.drop(["ref"]))
    assert reader.load(rows["ref"][0].as_py()).size == (64, 64)


def test_boxes_are_corners_in_the_256_pixel_image(copy: Path, tmp_path: Path) -> None:
    name = lines_of()[0][0]
    high = np.zeros((200, 100, 3), np.uint8)  # padded to 256: columns 64 to 192
    high[:, :] = (200, 40, 40)
    (copy / "Img" / name).parent.mkdir(exist_ok=True, parents=True)
    for image, _, _ in lines_of():
        file = copy / "Img" / image.replace("img/", "img_highres/", 1)
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(high).save(file, quality=95)
    for settings, size in ((LOOSE, (64, 64)), (LOOSE.model_copy(update={"crop": "yes"}), (32, 64)),
                           (LOOSE.model_copy(update={"crop": "yes", "highres": True}), (100, 200))):  # fmt: skip
        rows, reader, _ = read_inshop(str(copy), settings)
        assert reader.load(rows["ref"][0].as_py()).size == size
    boxes = copy / "Anno/list_bbox_inshop.txt"
    boxes.write_text(
        boxes.read_text().replace("064 000  192 256", "064 000  292 256", 1).replace("064 000  192", "192 000  192", 1)
    )
    dataset = made(tmp_path / "d", *read_inshop(str(copy), LOOSE.model_copy(update={"crop": "yes"}))[:2])
    assert dropped(dataset) == {"box outside the image": 1, "box without area": 1}


def test_missing_and_damaged_images_are_counted_and_bounded(copy: Path, tmp_path: Path) -> None:
    names = [copy / "Img" / name for name, _, _ in lines_of()]
    names[0].unlink()
    names[5].write_bytes(b"")
    names[6].write_bytes(names[6].read_bytes()[:300])
    Image.open(names[7]).convert("L").save(names[7])
    rows, reader, _ = read_inshop(str(copy), LOOSE)
    dataset = made(tmp_path / "d", rows, reader)
    assert dropped(dataset) == {"missing file": 1, "empty file": 1, "damaged image": 1}
    assert dataset.manifest["unreadable"]["count"] == 2
    grey = images(dataset)["-".join(lines_of()[7][0].removesuffix(".jpg").split("/")[1:])]
    assert np.ptp(mean_colour(grey["image"])) < 1
    with pytest.raises(
        UserError, match=r"^3 of 29 images are unreadable, more than ingest\.max_unreadable = 5\.0%; the first is "
    ):
        made(tmp_path / "e", rows, reader, LOOSE.model_copy(update={"max_unreadable": 0.05}))
    assert not (tmp_path / "e" / "manifest.json").exists()


REFUSALS = [
    (PARTITION, "29", "30", "line 1: declares 30 rows, but 29 follow; the list is cut"),
    (PARTITION, "29", "image_name", "line 1: 'image_name' is no count of rows"),
    (PARTITION, "evaluation_status", "status", "line 2: the header is 'image_name item_id status', not 'image_name item_id evaluation_status'."),
    (PARTITION, "      train", "      val", "line 3: the status is 'val'; it must be train, query or gallery."),
    (PARTITION, "      train", "", "has 2 columns, not 3."),
    (PARTITION, "img/WOMEN/Denim/id", "img/Denim/id", "is not img/ and 3 folders and a file."),
    (PARTITION, "img/WOMEN/Denim", "../WOMEN/Denim", "is not img/ and 3 folders and a file."),
    (PARTITION, "01_2_side", "01_1_front", "line 4: the image 'img/WOMEN/Denim/id_00000001/01_1_front.jpg' stands already in line 3."),
    (PARTITION, "      query", "      train", "product 'id_00000005' is in two splits, 'gallery' and 'train'"),
    ("Anno/list_item_inshop.txt", "8", "9", "line 1: declares 9 rows, but 8 follow"),
    ("Anno/list_item_inshop.txt", "id_00000003", "id_00000033", "the item 'id_00000003' is not in the list of items."),
    ("Anno/list_attr_items.txt", "  1   -1 0", "  1   -2 0", "line 3: item 'id_00000001' has the attribute value -2, not 1, -1 or 0."),
    ("Anno/list_attr_items.txt", "  1   -1 0", "  1   -1", "line 3: item 'id_00000001' has 3 attributes, list_attr_cloth.txt 4."),
]  # fmt: skip


@pytest.mark.parametrize(("name", "old", "new", "message"), REFUSALS)
def test_what_the_lists_must_not_hold(copy: Path, tmp_path: Path, name: str, old: str, new: str, message: str) -> None:
    file = copy / name
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        made(tmp_path / "d", *read_inshop(str(copy), LOOSE)[:2])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_source_without_the_benchmark_is_refused(copy: Path) -> None:
    shutil.rmtree(copy / "Img")
    with pytest.raises(UserError, match=r"can be used \(missing file 29, first img/.*\); unpack the image archives"):
        read_inshop(str(copy), LOOSE)
    (copy / PARTITION).unlink()
    with pytest.raises(UserError, match=r"holds no list_eval_partition\.txt: give --source the folder"):
        read_inshop(str(copy), LOOSE)
