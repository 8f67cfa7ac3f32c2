"""Fabric folders with a split of one's own: what is recorded about it, and every refusal."""

from __future__ import annotations

from pathlib import Path

import pytest
from benchmark_files import LOOSE, dropped, images, made, per_split, save

from fashion_dml.data.sources.fabric import read_fabric
from fashion_dml.storage import UserError


def write(root: Path, extra: str = "") -> Path:
    lines = ["path,fabric_id,split"]
    for fabric in range(6):
        for n in range(1 if fabric == 2 else 3):
            name = f"f{fabric}/img {n}.jpg" if fabric == 0 else f"f{fabric}/{n}.jpg"
            save(root, name)
            lines.append(f" {name} ,f{fabric},{'test' if fabric > 3 else 'train'}")
    (root / "split.csv").write_bytes(b"\xef\xbb\xbf" + "\r\n".join([*lines, extra, ""]).encode())
    return root


def test_the_split_and_what_is_said_about_it(tmp_path: Path) -> None:
    source = write(tmp_path / "FIRD", "f5/gone.jpg,f5,test")
    save(source, "f5/unlisted.PNG", form="PNG")
    (source / "f5" / "Thumbs.db").write_bytes(b"x")
    dataset = made(tmp_path / "d", *read_fabric(str(source), LOOSE)[:2])
    assert per_split(dataset) == {"train": 10, "test": 6}
    assert dataset.verticals() == ["fabric"]
    told = images(dataset)
    assert (told["f2-0.jpg"]["product_id"], told["f0-img_1.jpg"]["product_id"]) == ("f2", "f0")
    assert dropped(dataset) == {"missing file": 1, "not in split.csv": 1}
    assert dataset.manifest["protocol"]["split"] == "this source's own split.csv; the split of FIRD's authors is unknown"


REFUSALS = [
    ("path,fabric_id,split", "path,fabric,split", "line 1: the header is 'path,fabric,split', not 'path,fabric_id,split'."),
    ("f1/0.jpg ,f1,", "f1/0.jpg ,f2,", "line 5: the fabric is 'f2', but the image lies in the folder 'f1'."),
    ("f1/0.jpg ,f1,train", "f1/0.jpg ,f1,dev", "line 5: split is 'dev'; it must be one of train,"),
    ("f1/0.jpg ,f1,train", "f1/0.jpg ,f1", "line 5: 'f1/0.jpg,f1' has 2 columns, not 3."),
    ("f1/0.jpg", "../f1/0.jpg", "line 5: the path '../f1/0.jpg' is not <fabric_id>/<image>."),
    ("f1/0.jpg", "/f1/0.jpg", "line 5: the path '/f1/0.jpg' is not"),
    ("f1/0.jpg", "f1/1.jpg", "line 6: the image 'f1/1.jpg' stands already in line 5."),
]  # fmt: skip


@pytest.mark.parametrize(("old", "new", "message"), REFUSALS)
def test_what_the_split_must_not_hold(tmp_path: Path, old: str, new: str, message: str) -> None:
    source = write(tmp_path / "FIRD")
    text = (source / "split.csv").read_text("utf-8-sig")
    assert old in text
    (source / "split.csv").write_text(text.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        read_fabric(str(source), LOOSE)
    assert message in str(caught.value)


def test_a_fabric_is_in_one_split_and_a_split_there_must_be(tmp_path: Path) -> None:
    source = write(tmp_path / "FIRD", "f1/9.jpg,f1,test")
    save(source, "f1/9.jpg")
    with pytest.raises(UserError, match="product 'f1' is in two splits, 'test' and 'train'"):
        made(tmp_path / "d", *read_fabric(str(source), LOOSE)[:2])
    (source / "split.csv").unlink()
    with pytest.raises(
        UserError, match=r"holds no split\.csv: write one with the columns path, fabric_id, split; all images of"
    ):
        read_fabric(str(source), LOOSE)
