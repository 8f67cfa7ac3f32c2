"""A CSV with images, as folder or tar: the same rows and pixels from both, and each refusal with its sentence."""

from __future__ import annotations

import hashlib
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from drawn import encoded, photo, shop_rows, write_shop

from fashion_dml.config import Columns, Ingest
from fashion_dml.data.sources.folder import read_folder
from fashion_dml.storage import UserError


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    return write_shop(tmp_path / "shop", shop_rows())


def pack(folder: Path, file: Path, prefix: str = "./", mode: str = "w") -> Path:
    with tarfile.open(file, mode) as archive:  # type: ignore[call-overload]
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                archive.add(path, f"{prefix}{path.relative_to(folder)}")
    return file


@pytest.mark.parametrize("prefix", ["", "./", "export/"])
def test_folder_and_tar_give_the_same_rows_and_pixels(shop: Path, tmp_path: Path, prefix: str) -> None:
    rows, reader, inputs = read_folder(str(shop), Ingest())
    packed, other, named = read_folder(str(pack(shop, tmp_path / "shop.tar", prefix)), Ingest())
    assert packed.drop(["ref"]).equals(rows.drop(["ref"]))
    assert inputs["csv"] == named["csv"] == hashlib.sha256((shop / "catalogue.csv").read_bytes()).hexdigest()
    assert (inputs["images"] == named["images"]) == (prefix != "export/")
    moved = pickle.loads(pickle.dumps(other))  # readers go to the tasks
    for ref, there in zip(rows["ref"].to_pylist(), packed["ref"].to_pylist(), strict=True):
        assert np.array_equal(np.asarray(reader.load(ref)), np.asarray(moved.load(there)))
    assert rows["product_id"].to_pylist() == [r["product_id"] for r in shop_rows()]
    assert rows["colour"].to_pylist() == [r["colour"] for r in shop_rows()]


def test_another_photo_of_the_same_name_is_another_input(shop: Path) -> None:
    _, _, before = read_folder(str(shop), Ingest())
    (shop / "photos" / "shoes" / "0_0.jpg").write_bytes(encoded(photo(99, 80, 60)))
    _, _, after = read_folder(str(shop), Ingest())
    assert after["csv"] == before["csv"]
    assert after["images"] != before["images"]


def test_columns_are_mapped_by_config_and_ids_come_from_paths(tmp_path: Path) -> None:
    names = {"path": "file", "product_id": "style", "vertical": "kind", "split": "part", "colour": "shade"}
    rows = [{names[k]: v for k, v in r.items()} | {"path": r["path"]} for r in shop_rows()]
    root = write_shop(tmp_path / "shop", rows)
    columns = Columns(path="file", product_id="style", vertical="kind", split="part", attributes=("shade", "missing"))
    told, _, _ = read_folder(str(root), Ingest(columns=columns))
    assert told.column_names[-1] == "shade"
    assert "missing" not in told.column_names
    assert told["image_id"][0].as_py() == "photos-dresses-0_0"  # stems aren't unique: the path
    only, _, _ = read_folder(str(write_shop(tmp_path / "one", shop_rows(verticals=("bags",)))), Ingest())
    assert only["image_id"][0].as_py() == "0_0"


def test_cells_are_trimmed_and_stay_text(tmp_path: Path) -> None:
    rows = [{**r, "product_id": f" {i // 2:05d} ", "vertical": "shoes "} for i, r in enumerate(shop_rows(verticals=("shoes",)))]
    told, _, _ = read_folder(str(write_shop(tmp_path / "shop", rows)), Ingest())
    assert told["product_id"].to_pylist()[:3] == ["00000", "00000", "00001"]
    assert set(told["vertical"].to_pylist()) == {"shoes"}


def test_a_byte_order_mark_and_windows_lines_are_read(shop: Path) -> None:
    file = shop / "catalogue.csv"
    told, _, _ = read_folder(str(shop), Ingest())
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert read_folder(str(shop), Ingest())[0].equals(told)


def test_the_csv_nearest_to_the_top_or_the_named_one_is_taken(shop: Path) -> None:
    (shop / "photos" / "notes.csv").write_text("a,b\n1,2\n")
    assert read_folder(str(shop), Ingest())[0].num_rows == len(shop_rows())
    (shop / "second.csv").write_text("a,b\n1,2\n")
    with pytest.raises(
        UserError, match=r"holds 2 CSV files \(catalogue\.csv, second\.csv\); it needs one that lists the images"
    ):
        read_folder(str(shop), Ingest())
    assert read_folder(str(shop), Ingest(csv="catalogue.csv"))[0].num_rows == len(shop_rows())
    with pytest.raises(UserError, match=r"There is no 'third\.csv' in '.*'; set ingest\.csv to a file in it\."):
        read_folder(str(shop), Ingest(csv="third.csv"))


@pytest.mark.parametrize("column", ["path", "product_id", "vertical", "split"])
def test_a_missing_column_is_named_with_those_that_are_there(tmp_path: Path, column: str) -> None:
    root = write_shop(tmp_path / "shop", shop_rows())
    file = root / "catalogue.csv"
    file.write_text(file.read_text().replace(column, "other", 1))
    with pytest.raises(UserError) as caught:
        read_folder(str(root), Ingest())
    names = ", ".join("other" if n == column else n for n in ("path", "product_id", "vertical", "split", "colour"))
    assert str(caught.value) == (
        f"{root}:catalogue.csv has no column {column!r} (it has {names}); add it, or name the right one with "
        f"--ingest.columns.{column}."
    )


HEADER = b"path,product_id,vertical,split\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "can't be read as CSV (Empty CSV file); it needs a header line and commas."),
        (HEADER + b"a.jpg,1\n", "can't be read as CSV (CSV parse error: Row #2: Expected 4 columns, got 2: a.jpg,1)"),
        (HEADER + b"\xff.jpg,1,shoes,train\n", "can't be read as CSV (In CSV column #0"),
        (b"path,path,product_id,vertical,split\na.jpg,a.jpg,1,shoes,train\n", "has two columns 'path'; rename or remove one."),
        (b"path;product_id;vertical;split\na.jpg;1;shoes;train\n", "has no column 'path' (it has path;product_id;vertical;split)"),
        (HEADER + b"gone.jpg,1,shoes,train\n", ", line 2: there is no image 'gone.jpg' in the source; add the file or remove the row."),
        (HEADER + b"a.jpg,1,shoes,train\n,1,shoes,train\n", ", line 3: there is no image '' in the source"),
        (HEADER + b"../secret.jpg,1,shoes,train\n", ", line 2: the path '../secret.jpg' leaves the source; paths are relative to the CSV."),
        (HEADER + b"x/../../a.jpg,1,shoes,train\n", ", line 2: the path 'x/../../a.jpg' leaves the source"),
        (HEADER + b"/etc/passwd,1,shoes,train\n", ", line 2: the path '/etc/passwd' leaves the source"),
    ],
)  # fmt: skip
def test_a_bad_csv_is_refused(tmp_path: Path, text: bytes, message: str) -> None:
    (tmp_path / "secret.jpg").write_bytes(encoded(photo(0)))
    root = tmp_path / "shop"
    root.mkdir()
    (root / "a.jpg").write_bytes(encoded(photo(0)))
    (root / "list.csv").write_bytes(text)
    with pytest.raises(UserError) as caught:
        read_folder(str(root), Ingest())
    told = str(caught.value).removeprefix(f"{root}:list.csv").lstrip(" ")
    assert told.startswith(message.lstrip(" "))
    assert "\n" not in told


def test_a_missing_id_column_is_refused(shop: Path) -> None:
    with pytest.raises(UserError, match=r"has no column 'sku' for ingest\.columns\.image_id; it has path, product_id"):
        read_folder(str(shop), Ingest(columns=Columns(image_id="sku")))


def test_a_source_that_is_missing_or_no_tar_is_refused(shop: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"^The source '/no/where' does not exist; give --source a folder or a tar"):
        read_folder("/no/where", Ingest())
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"holds no CSV; it needs one that lists the images"):
        read_folder(str(tmp_path / "empty"), Ingest())
    packed = pack(shop, tmp_path / "shop.tar.gz", mode="w:gz")
    with pytest.raises(UserError, match=r"is not a plain tar file .*; give a folder or an uncompressed \.tar\."):
        read_folder(str(packed), Ingest())
    whole = pack(shop, tmp_path / "shop.tar")
    whole.write_bytes(whole.read_bytes()[:3000])
    with pytest.raises(UserError, match=r"is not a plain tar file"):
        read_folder(str(whole), Ingest())
