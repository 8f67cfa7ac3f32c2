"""Lists of one's own: CSV and Parquet, with paths, addresses in an object store, or bytes; and what damage is counted."""

from __future__ import annotations

import io
import pickle
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from benchmark_files import LOOSE, dropped, images, made, mean_colour, per_split
from drawn import encoded, photo, shop_rows, write_shop
from PIL import Image

from fashion_dml.config import Columns
from fashion_dml.data.decode import UnreadableImage
from fashion_dml.data.sources import own_images
from fashion_dml.data.sources.folder import read_folder
from fashion_dml.storage import Location, UserError


def with_bytes(**more: Any) -> pa.Table:
    """The rows of a shop with their photos, and no paths."""
    rows = [{k: v for k, v in r.items() if k != "path"} for r in shop_rows()]
    return pa.Table.from_pylist(
        [{**r, "image": encoded(photo(n)), **{k: v(n) for k, v in more.items()}} for n, r in enumerate(rows)]
    )


def same_photos(told: dict[str, dict[str, Any]], other: dict[str, dict[str, Any]]) -> bool:
    def by_product(rows: dict[str, dict[str, Any]]) -> list[tuple[str, str, bytes]]:
        return sorted((r["product_id"], r["split"], r["image"]) for r in rows.values())

    return by_product(told) == by_product(other)


def test_parquet_lists_of_paths_and_of_bytes_give_what_the_csv_gives(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", shop_rows())
    expected = images(made(tmp_path / "csv", *read_folder(str(shop / "catalogue.csv"), LOOSE)[:2]))
    (shop / "catalogue.csv").unlink()
    pq.write_table(pa.Table.from_pylist(shop_rows()), shop / "list.parquet")
    for source in (shop, shop / "list.parquet"):
        told = images(made(tmp_path / "paths", *read_folder(str(source), LOOSE)[:2]))
        assert same_photos(told, expected)
    plain, struct_ = tmp_path / "plain.parquet", tmp_path / "struct.parquet"
    table = with_bytes()
    pq.write_table(table, plain, row_group_size=5)
    nested = pa.StructArray.from_arrays(
        [table["image"].combine_chunks(), pa.nulls(table.num_rows, pa.string())], ["bytes", "path"]
    )
    pq.write_table(table.set_column(table.column_names.index("image"), "image", nested), struct_)
    for file in (plain, struct_):
        rows, reader, inputs = read_folder(str(file), LOOSE)
        assert inputs["csv"] == Location.of(file).sha256()
        told = images(made(tmp_path / file.stem, rows, pickle.loads(pickle.dumps(reader))))
        assert same_photos(told, expected)
        assert "row-0" in told


def test_numbers_are_text_and_an_image_column_may_have_gaps(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", shop_rows())
    (shop / "catalogue.csv").unlink()
    rows = [{**r, "product_id": int(r["product_id"][-1]) + 10 * (n // 12), "colour": None} for n, r in enumerate(shop_rows())]
    rows = [{**r, "sku": n, "photo": encoded(photo(n)) if n % 3 else None} for n, r in enumerate(rows)]
    pq.write_table(pa.Table.from_pylist(rows), shop / "list.parquet")
    settings = LOOSE.model_copy(update={"columns": Columns(image="photo", image_id="sku")})
    table, reader, _ = read_folder(str(shop), settings)
    assert table["ref"].to_pylist()[:3] == ["photos/dresses/0_0.jpg", "row://1", "row://2"]
    dataset = made(tmp_path / "d", table, reader, settings)
    assert {r["product_id"] for r in images(dataset).values()} == {str(p + 10 * v) for p in range(6) for v in range(2)}
    assert set(images(dataset)) == {str(n) for n in range(24)}
    assert dataset.attributes == []  # a dataset without any is read back


def test_row_groups_are_held_within_bounds_and_too_large_ones_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "list.parquet"
    pq.write_table(with_bytes(), file, row_group_size=4)
    own_images._held.clear()
    monkeypatch.setattr(own_images, "HELD_BYTES", 1)
    rows, reader, _ = read_folder(str(file), LOOSE)
    for ref in rows["ref"].to_pylist():
        assert reader.load(ref).size == (30, 40)
        assert len(own_images._held) == 1
    monkeypatch.setattr(own_images, "GROUP_BYTES", 1 << 10)
    with pytest.raises(
        UserError, match=r"list\.parquet: row group 0 holds 0 MiB of images, more than .*; write the list with smaller"
    ):
        read_folder(str(file), LOOSE)


BAD_PARQUET = [
    (lambda t: t.drop(["vertical"]), "has no column 'vertical' (it has product_id, split, colour, image); add it"),
    (lambda t: t.drop(["image"]), "has no column 'path' (it has product_id, vertical, split, colour); add it"),
    (lambda t: t.set_column(4, "image", pa.array(range(24))), "the column 'image' is int64, not encoded images; name another with"),
    (lambda t: t.set_column(0, "product_id", pa.array([[1]] * 24)), "the column 'product_id' is list<"),
    (lambda t: t.append_column("split", t["split"]), "has two columns 'split'; rename or remove one."),
    (lambda t: t.append_column("path", pa.array(["ftp://host/a.jpg"] * 24)).drop(["image"]), ", row 1: the address 'ftp://host/a.jpg' is none of"),
    (lambda t: t.append_column("path", pa.array(["s3://b/a.jpg"] * 23 + ["../a"])).drop(["image"]), ", row 24: the path '../a' leaves the source"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_PARQUET)
def test_a_bad_parquet_list_is_refused(tmp_path: Path, change: Any, message: str) -> None:
    file = tmp_path / "list.parquet"
    pq.write_table(change(with_bytes()), file)
    with pytest.raises(UserError) as caught:
        read_folder(str(file), LOOSE)
    assert str(caught.value).startswith(str(file))
    assert message in str(caught.value)


def test_what_is_no_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(UserError, match=r"list\.parquet can't be read as Parquet \(.*\); write it again\."):
        read_folder(str(tmp_path), LOOSE)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a real S3 API on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b",
        "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    import urllib.request

    urllib.request.urlopen(urllib.request.Request(f"http://{host}:{port}/photos", method="PUT"))
    own_images._bucket.cache_clear()
    yield "s3://photos"
    own_images._bucket.cache_clear()
    server.stop()


def test_addresses_in_an_object_store_are_read_there(bucket: str, tmp_path: Path) -> None:
    rows = shop_rows(products=3, verticals=("shoes",))
    for n, row in enumerate(rows):
        row["path"] = f"{bucket}/a b%20/{n}.jpg" if n else "beside.jpg"
        if n not in (0, 3):
            own_images.stored(row["path"]).write_bytes(encoded(photo(n)))
    (tmp_path / "beside.jpg").write_bytes(encoded(photo(0)))
    lines = [",".join(rows[0]), *(",".join(r.values()) for r in rows)]
    (tmp_path / "list.csv").write_text("\n".join(lines))
    table, reader, _ = read_folder(str(tmp_path / "list.csv"), LOOSE)
    dataset = made(tmp_path / "d", table, pickle.loads(pickle.dumps(reader)))
    assert dropped(dataset) == {"missing file": 1}
    assert dataset.manifest["dropped"]["missing file"]["first"] == [f"{rows[3]['path']}: the object is missing"]
    assert set(images(dataset)) == {"beside", "1", "2", "4", "5"}


def png_header(width: int, height: int) -> bytes:
    """A PNG that says how large it is and holds nothing."""
    body = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + struct.pack(">I", 13)
        + body
        + struct.pack(">I", zlib.crc32(body))
        + struct.pack(">I", 9)
        + b"IDAT"
    )


def odd_images(red: Image.Image) -> dict[str, bytes]:
    turned = Image.Exif()
    turned[0x0112] = 6
    deep = io.BytesIO()
    Image.fromarray(np.full((40, 30), 40_000, np.uint16)).save(deep, "PNG")
    return {
        "photos/dresses/0_0.jpg": encoded(red)[:400], "photos/dresses/1_0.jpg": b"", "photos/dresses/2_0.jpg": png_header(20_000, 10_000),
        "photos/dresses/3_0.jpg": png_header(8_000, 6_000), "photos/shoes/0_0.jpg": encoded(red.convert("CMYK")),
        "photos/shoes/1_0.jpg": deep.getvalue(), "photos/shoes/2_0.jpg": encoded(red, exif=turned.tobytes()),
        "photos/shoes/3_0.jpg": b"GIF89a no",
    }  # fmt: skip


def test_odd_images_are_read_and_damaged_ones_counted_by_reason(tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", shop_rows())
    for name, data in odd_images(Image.new("RGB", (60, 40), (220, 20, 30))).items():
        (shop / name).write_bytes(data)
    dataset = made(tmp_path / "d", *read_folder(str(shop), LOOSE)[:2])
    assert dropped(dataset) == {"damaged image": 1, "empty file": 1, "too many pixels": 2, "not an image": 1}
    assert dataset.manifest["unreadable"]["count"] == 5
    assert per_split(dataset) == {"train": 12, "test": 7}
    told = images(dataset)
    cmyk, deep, turned = (told[f"photos-shoes-{p}_0"] for p in range(3))
    assert np.abs(mean_colour(cmyk["image"]) - (220, 20, 30)).max() < 12
    assert np.abs(mean_colour(deep["image"]) - 40_000 / 257).max() < 3
    assert (turned["width"], turned["height"]) == (32, 48)
    again = made(tmp_path / "d", *read_folder(str(shop), LOOSE)[:2])  # what finished files left out is told again
    assert again.manifest["dropped"] == dataset.manifest["dropped"]


def test_the_reason_of_damage_crosses_processes() -> None:
    error = pickle.loads(pickle.dumps(UnreadableImage("bad", reason="empty file")))
    assert (str(error), error.reason) == ("bad", "empty file")


def test_duplicate_ids_and_roles_are_checked(tmp_path: Path) -> None:
    rows = shop_rows()
    for row in rows:
        row["sku"] = row["path"].replace("/", "-")
    rows[3]["sku"] = rows[2]["sku"]
    settings = LOOSE.model_copy(update={"columns": Columns(image_id="sku")})
    shop = write_shop(tmp_path / "shop", rows)
    with pytest.raises(UserError, match=r"image_id 'photos-dresses-1_0\.jpg' stands 2 times; ids must be unique"):
        made(tmp_path / "d", *read_folder(str(shop), settings)[:2], settings)
    for roles, message in (
        (("query", "gallery"), ""),
        (("query", "query"), "has no image of split 'gallery': queries are searched in the gallery, so give both or neither."),
        (("query", "train"), "is in two splits, 'query' and 'train'"),
        (("gallery", "validation"), "is in two splits, 'gallery' and 'validation'"),
    ):
        rows = [{**r, "split": roles[n % 2] if r["split"] == "test" else "train"} for n, r in enumerate(shop_rows())]
        source = str(write_shop(tmp_path / "roles", rows))
        if message:
            with pytest.raises(UserError) as caught:
                made(tmp_path / "e", *read_folder(source, LOOSE)[:2])
            assert message in str(caught.value)
        else:
            assert per_split(made(tmp_path / "e", *read_folder(source, LOOSE)[:2])) == {"train": 16, "query": 4, "gallery": 4}
