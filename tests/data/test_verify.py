"""Every damage to a dataset is found and named, and nothing else is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from drawn import encoded, photo, shop_rows, write_dataset, write_shop

from fashion_dml.config import Ingest
from fashion_dml.data.schema import Dataset, Part
from fashion_dml.data.sources.folder import read_folder
from fashion_dml.data.verify import MOST, Verified, verify
from fashion_dml.storage import Location
from jobs.ingest import entry

Change = Callable[[list[pa.Table]], list[pa.Table]]


@pytest.fixture
def copy(small: Dataset, tmp_path: Path) -> Path:
    shutil.copytree(small.location.path, tmp_path / "dataset")
    return tmp_path / "dataset"


def part(root: Path, split: str = "train", number: int = 0) -> Part:
    return Dataset.open(str(root)).parts(split)[number]


def images(root: Path, of: Part) -> Path:
    return root / "images" / of.relative


def groups(file: Path) -> list[pa.Table]:
    reader = pq.ParquetFile(file)
    return [reader.read_row_group(g) for g in range(reader.num_row_groups)]


def seal(root: Path, **more: object) -> None:
    """Write the digests of all files anew, so that only the contents are wrong."""
    manifest = json.loads((root / "manifest.json").read_text())
    manifest["files"] = {str(f.relative_to(root)): Location.of(f).sha256() for f in root.rglob("*.parquet")}
    (root / "manifest.json").write_text(json.dumps(manifest | more))


def rewrite(root: Path, of: Part, change: Change) -> None:
    file = images(root, of)
    tables = change(groups(file))
    with pq.ParquetWriter(file, tables[0].schema, compression="none") as writer:
        for table in tables:
            writer.write_table(table, row_group_size=max(1, len(table)))
    seal(root)


def put(table: pa.Table, column: str, row: int, value: object) -> pa.Table:
    cells = table[column].to_pylist()
    cells[row] = value
    return table.set_column(
        table.column_names.index(column), table.schema.field(column), pa.array(cells, table.schema.field(column).type)
    )


def put_product(root: Path, row: int, **values: object) -> None:
    table = pq.read_table(root / "products.parquet")
    for column, value in values.items():
        table = put(table, column, row, value)
    pq.write_table(table, root / "products.parquet")
    seal(root)


def told(root: Path, message: str) -> Verified:
    """What verify finds, with the message in it."""
    result = verify(str(root))
    assert any(message in finding for finding in result.findings), "\n".join(result.findings) or "nothing was found"
    assert result.found == len(result.findings)
    return result


def only(root: Path, *messages: str) -> None:
    """Verify finds these, in any order, and no more."""
    found = sorted(verify(str(root)).findings)
    assert len(found) == len(messages), "\n".join(found)
    for message in messages:
        assert any(message in finding for finding in found), "\n".join(found)


def test_a_clean_dataset_passes(small: Dataset) -> None:
    result = verify(small.location)
    assert result.findings == []
    assert (result.files, result.images) == (len(small.parts()), small.manifest["images"])
    assert result.decoded == sum(min(4, len(pq.read_table(small.images_file(p).path))) for p in small.parts())
    assert verify(small.location, sample=10**6).decoded == small.manifest["images"]
    assert verify(small.location, sample=0).decoded == 0


def test_the_manifest_holds_the_digest_of_every_file(small: Dataset) -> None:
    files = {f.path.removeprefix(small.location.path).lstrip("/"): f.sha256() for f in small.location.walk()}
    assert small.manifest["files"] == {n: d for n, d in files.items() if n != "manifest.json"}


def test_a_flipped_byte(copy: Path) -> None:
    file = images(copy, part(copy))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    told(copy, f"{file}: altered after ingest, its sha256 is {Location.of(file).sha256()[:12]}..., manifest.json says ")


def test_a_truncated_file(copy: Path) -> None:
    file = images(copy, part(copy))
    file.write_bytes(file.read_bytes()[:-100])
    only(copy, f"{file}: altered after ingest", f"{file}: can't be read (Parquet magic bytes not found")


def test_a_missing_and_a_stray_file(copy: Path) -> None:
    gone, stray = images(copy, part(copy)), copy / "images" / "split=train" / "part-00000.parquet.0a1b2c3d.partial"
    gone.unlink()
    stray.write_bytes(b"half")
    only(copy, f"{gone}: the file is missing.", f"{stray}: the file is a stray")


def test_swapped_rows(copy: Path) -> None:
    def swap(tables: list[pa.Table]) -> list[pa.Table]:
        order = list(range(len(tables[0])))
        order[0], order[-1] = order[-1], order[0]
        return [tables[0].take(order), *tables[1:]]

    of = part(copy)
    first = groups(images(copy, of))[0]["product_id"].to_pylist()
    assert first[0] != first[-1]
    rewrite(copy, of, swap)
    for name in (first[0], first[-1]):
        told(copy, f"{images(copy, of)}, row group 0: product_id {name!r} is not adjacent, it comes again in row ")
        result = told(copy, f"{images(copy, of)}, row group 0: product_id {name!r} has ")
    assert all(str(images(copy, of)) in finding for finding in result.findings)


def test_a_product_split_over_row_groups(copy: Path) -> None:
    of = part(copy)
    first = groups(images(copy, of))[0]
    name, n = first["product_id"][-1].as_py(), len(first)
    assert first["product_id"][-2].as_py() == name
    rewrite(copy, of, lambda t: [t[0].slice(0, n - 1), pa.concat_tables([t[0].slice(n - 1), t[1]]), *t[2:]])
    told(copy, f"{images(copy, of)}, row group 1: product_id {name!r} is split, it stands in row group 0 too.")


def test_a_row_group_that_is_too_large(copy: Path) -> None:
    of = part(copy)

    def swell(tables: list[pa.Table]) -> list[pa.Table]:
        return [put(tables[0], "image", 0, tables[0]["image"][0].as_py() + bytes(8 << 20)), *tables[1:]]

    rewrite(copy, of, swell)
    only(copy, f"{images(copy, of)}, row group 0: ")
    told(copy, "more than 256 images and 8,388,608 bytes.")


def test_a_large_product_may_stand_alone(tmp_path: Path) -> None:
    rows = shop_rows(verticals=("shoes",))
    rows += [{**rows[0], "path": f"photos/many/{i}.jpg", "product_id": "many", "colour": "red"} for i in range(300)]
    source = write_shop(tmp_path / "shop", rows)
    settings = Ingest(shards=1, short_side=32)
    read, reader, _ = read_folder(str(source), settings)
    dataset = write_dataset(tmp_path / "dataset", read, reader, settings)
    assert max(dataset.products["rows"].to_pylist()) == 300
    assert verify(dataset.location).findings == []


def test_a_broken_image(copy: Path) -> None:
    of = part(copy)
    rewrite(copy, of, lambda t: [put(t[0], "image", 0, b"no image"), *t[1:]])
    only(copy, f"{images(copy, of)}, row group 0, row 0: the image can't be decoded (the bytes are not a readable JPEG")
    rewrite(copy, of, lambda t: [put(t[0], "image", 0, encoded(photo(7, 33, 44))), *t[1:]])
    only(copy, f"{images(copy, of)}, row group 0, row 0: the image is 44 x 33 pixels, the row says")


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("label", 4711, "has the label 4711, products.parquet says"),
        ("vertical", "hats", "vertical is 'hats', it must be "),
        ("domain", "moon", "domain is 'moon', it must be shop or consumer or street."),
        ("width", None, "width is null in 1 rows."),
    ],
)
def test_a_wrong_cell(copy: Path, column: str, value: object, message: str) -> None:
    of = part(copy)
    rewrite(copy, of, lambda t: [put(t[0], column, 0, value), *t[1:]])
    result = told(copy, message)
    assert [str(images(copy, of)) in finding for finding in result.findings] == [True]


def test_an_image_id_that_stands_twice(copy: Path) -> None:
    first, other = part(copy), part(copy, "test")
    name = groups(images(copy, first))[0]["image_id"][0].as_py()
    rewrite(copy, other, lambda t: [put(t[0], "image_id", 1, name), *t[1:]])
    only(copy, f"image_id {name!r} stands in ")


def test_a_leaked_product(copy: Path) -> None:
    """A test product under the id of a training product, in the files as well as in products.parquet."""
    products = pq.read_table(copy / "products.parquet")
    trained = products.filter(pc.field("split") == "train").to_pylist()[0]["product_id"]
    place = next(i for i, r in enumerate(products.to_pylist()) if r["split"] == "test")
    row = products.slice(place, 1).to_pylist()[0]

    def rename(tables: list[pa.Table]) -> list[pa.Table]:
        table = tables[row["row_group"]]
        for i in range(row["first_row"], row["first_row"] + row["rows"]):
            table = put(table, "product_id", i, trained)
        return [*tables[: row["row_group"]], table, *tables[row["row_group"] + 1 :]]

    rewrite(copy, Part(row["split"], row["vertical"], row["shard"]), rename)
    put_product(copy, place, product_id=trained)
    told(copy, f"{copy / 'products.parquet'}: product_id {trained!r} leaks, it is in the splits test and train.")
    told(copy, f"product_id {trained!r} has several labels")


def test_leaked_bytes(copy: Path) -> None:
    trained, measured = part(copy), part(copy, "test")
    source = groups(images(copy, trained))[0]
    stolen, name = source.slice(0, 1).to_pylist()[0], groups(images(copy, measured))[0]["image_id"][1].as_py()

    def steal(tables: list[pa.Table]) -> list[pa.Table]:
        table = tables[0]
        for column in ("image", "width", "height"):
            table = put(table, column, 1, stolen[column])
        return [table, *tables[1:]]

    rewrite(copy, measured, steal)
    only(
        copy,
        f"{images(copy, measured)}: image_id {name!r} leaks, it has the same bytes as {stolen['image_id']!r} of {trained.relative}.",
    )


def test_queries_share_products_with_the_gallery_and_distractors_share_images_with_train(tmp_path: Path) -> None:
    rows = [r | {"split": "train"} for r in shop_rows(products=4, images=3)]
    rows += [
        r | {"path": f"m/{i}.jpg", "product_id": "asked-" + r["vertical"], "split": s}
        for i, (r, s) in enumerate((r, s) for r in (rows[0], rows[-1]) for s in ("query", "gallery"))
    ]
    source = write_shop(tmp_path / "shop", rows)

    def dataset(name: str, gallery: str) -> Path:
        extra = [*rows, rows[0] | {"path": "m/again.jpg", "product_id": gallery, "split": "gallery"}]
        write_shop(tmp_path / "shop", extra)
        (source / "m" / "again.jpg").write_bytes((source / rows[0]["path"]).read_bytes())
        settings = Ingest(shards=2, short_side=32, validation_share=0, min_row_groups=2)
        read, reader, _ = read_folder(str(source), settings)
        write_dataset(tmp_path / name, read, reader, settings)
        return tmp_path / name

    assert verify(str(dataset("fine", rows[0]["product_id"] + ".gallery"))).findings == []
    only(dataset("leaks", "another"), "image_id 'm-again' leaks, it has the same bytes as 'photos-dresses-0_0'")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"label": 1}, "label 1 has several products"),
        ({"shard": 1 << 20}, "part-1048576.parquet: the file is missing."),
        ({"split": "exam"}, "a product has the split 'exam'; known are train, validation"),
        ({"first_row": 77}, "products.parquet says "),
        ({"row_group": 99}, "products.parquet points at row group 99, the file has "),
        ({"rows": 12}, "images is "),
    ],
)
def test_a_wrong_row_of_the_products(copy: Path, values: dict[str, object], message: str) -> None:
    put_product(copy, 0, **values)
    told(copy, message)


def test_a_manifest_that_is_wrong(copy: Path) -> None:
    count = json.loads((copy / "manifest.json").read_text())["images"]
    seal(copy, images=count + 1)
    only(copy, f"{copy / 'manifest.json'}: images is {count + 1}, products.parquet has {count}.")
    seal(copy, images="many")
    only(copy, f"{copy / 'manifest.json'}: images is many, not a int.")
    seal(copy, images=count, files=None)
    only(copy, f"{copy / 'manifest.json'}: no sha256 of the files is recorded")
    seal(copy, kind="model")
    only(copy, f"{copy / 'manifest.json'}: kind is 'model', not 'dataset'.")
    (copy / "manifest.json").write_text("{")
    only(copy, f"{copy / 'manifest.json'} is not JSON")
    (copy / "manifest.json").unlink()
    only(copy, f"There is no complete result in {copy}: run `python -m jobs.ingest` first.")


def test_products_that_cannot_be_read(copy: Path) -> None:
    (copy / "products.parquet").write_bytes(b"PAR1")
    only(copy, f"{copy / 'products.parquet'}: can't be read (")
    pq.write_table(pa.table({"product_id": ["a"]}), copy / "products.parquet")
    only(copy, f"{copy / 'products.parquet'}: the columns are product_id string; they must be product_id, label,")


def test_the_findings_that_are_kept_are_bounded() -> None:
    result = Verified()
    for i in range(MOST + 5):
        result.add(str(i))
    assert (result.found, len(result.findings)) == (MOST + 5, MOST)


def test_the_command_line(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert entry(["verify", str(copy)]) == 0
    assert f"{copy} is in order: " in capsys.readouterr().out
    assert entry(["verify", "--workspace", str(copy.parent)]) == 0
    report = json.loads((copy.parent / "reports" / "verify.json").read_text())
    assert report["findings"] == []
    (copy / "stray").write_bytes(b"")
    capsys.readouterr()
    assert entry(["verify", str(copy)]) == 2
    out, err = capsys.readouterr()
    assert out == f"{copy / 'stray'}: the file is a stray, no product of products.parquet lies in it.\n"
    assert (
        err == f"error: {copy} breaks the contract of its layout in 1 places: restore it, or delete it and ingest it again.\n"
    )
