"""jobs.ingest as a user runs it: bad input, unreadable images, an interrupted run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from drawn import encoded, photo, shop_rows, write_dataset, write_shop

from fashion_dml.config import Generated, Ingest
from fashion_dml.data.schema import Dataset
from fashion_dml.data.sources.generated.source import read_generated
from fashion_dml.storage import UserError
from jobs.common import user_error
from jobs.ingest import IngestSettings, entry, ingest

ROOT = Path(__file__).parents[2]
SMALL = ["--ingest.shards", "2", "--ingest.short_side", "32"]


def contents(root: Path) -> dict[str, bytes]:
    return {str(f.relative_to(root)): f.read_bytes() for f in root.rglob("*") if f.is_file()}


def comparable(manifest: dict[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in manifest.items() if k != "seconds"}


def refused(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr of a command line that must end with exit code 2."""
    assert entry(argv) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    return line.removeprefix("error: ")


BAD = {
    "no kind": (["folders"], "There is no source 'folders'; known are folder, generated, inshop, consumer_to_shop, sop, street2shop, fabric."),
    "no source": (["folder"], "The kind folder needs --source"),
    "missing source": (["folder", "--source", "/no/where"], "The source '/no/where' does not exist"),
    "setting": (["generated", "--ingest.short_side", "8"], "The setting ingest.short_side = 8 can't be used"),
    "unknown": (["generated", "--ingest.side", "8"], "unrecognized arguments: --ingest.side 8"),
    "few products": (["generated", "--ingest.generated.products_per_vertical", "0"], "The setting ingest.generated.products_per_vertical"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_a_bad_command_line_ends_with_one_sentence(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv, message = BAD[case]
    assert refused([*argv, "--workspace", str(tmp_path / "workspace")], capsys).startswith(message)
    assert list(tmp_path.iterdir()) == []


def _missing(rows: list[dict[str, str]], root: Path) -> None:
    (root / rows[4]["path"]).unlink()


SPOILT = {
    "column": (lambda rows, root: [r.pop("vertical") for r in rows], "has no column 'vertical' (it has path, product_id, split, colour); add"),
    "missing photo": (_missing, "line 6: there is no image 'photos/dresses/2_0.jpg' in the source; add the file or remove the row."),
    "two splits": (lambda rows, root: rows[0].update(split="test"), "product 'dresses-0' is in two splits, 'test' and 'train'"),
    "empty vertical": (lambda rows, root: rows[3].update(vertical=""), "line 5: vertical is empty"),
    "bad split": (lambda rows, root: rows[3].update(split="dev"), "line 5: split is 'dev'; it must be one of train, validation, test"),
    "no training": (lambda rows, root: [r.update(split="test") for r in rows if r["vertical"] == "shoes"], "'shoes' has no training image"),
    "no pairs": (
        lambda rows, root: [r.update(product_id=f"s{i}") for i, r in enumerate(rows) if r["vertical"] == "shoes"],
        "vertical 'shoes' has no training product with two images",
    ),
    "no rows": (lambda rows, root: rows.clear(), "lists no image; add rows."),
}  # fmt: skip


@pytest.mark.parametrize("case", SPOILT)
def test_a_bad_catalogue_is_refused_and_nothing_is_written(
    case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    spoil, message = SPOILT[case]
    rows = shop_rows()
    root = write_shop(tmp_path / "shop", rows)
    spoil(rows, root)
    names = list(rows[0]) if rows else list(shop_rows()[0])
    lines = [",".join(names), *(",".join(r[n] for n in names) for r in rows)]
    (root / "catalogue.csv").write_text("\n".join(lines) + "\n")
    workspace = tmp_path / "workspace"
    told = refused(["folder", "--source", str(root), "--workspace", str(workspace)], capsys)
    assert str(root) in told
    assert message in told
    assert not workspace.exists()


def test_a_workspace_of_a_newer_schema_is_refused_and_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "manifest.json").write_text('{"schema": 2}')
    before = contents(tmp_path)
    told = refused(["generated", "--workspace", str(tmp_path)], capsys)
    assert "has schema 2, this version" in told
    assert told.endswith("reads up to 1: update fashion-dml or choose another workspace.")
    assert contents(tmp_path) == before


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 1.5 MB."""
    place = tmp_path / "disk"
    place.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(place)], capture_output=True, check=False
    ).returncode:
        pytest.skip("needs the right to mount a small disk")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


@pytest.mark.cluster
def test_a_full_disk_is_named_and_leaves_no_dataset_that_looks_whole(
    ray_local: str, tiny_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given more space, the same command goes on with the files that were finished."""
    command = ["generated", "--workspace", str(tiny_disk), "--ingest.generated.products_per_vertical", "100"]
    told = refused(command, capsys)
    assert told.startswith(f"There is no space left to write {tiny_disk}/dataset/images/")
    assert told.endswith("free some, then run the job again; it goes on where it stopped.")
    assert not (tiny_disk / "dataset" / "manifest.json").exists()
    with pytest.raises(UserError, match="no complete result"):
        Dataset.open(str(tiny_disk / "dataset"))
    kept = {f: f.stat().st_mtime_ns for f in tiny_disk.rglob("*.parquet")}
    assert kept
    subprocess.run(["mount", "-o", "remount,size=64m", str(tiny_disk)], check=True)
    assert entry(command) == 0
    assert {f: f.stat().st_mtime_ns for f in kept} == kept
    assert not list(tiny_disk.rglob("*.partial"))
    assert Dataset.open(str(tiny_disk / "dataset")).manifest["products"] == 500


@pytest.fixture
def shop(tmp_path: Path) -> Path:
    """A shop of 60 photos, two of them unreadable."""
    root = write_shop(tmp_path / "shop", shop_rows(products=10, images=3))
    (root / "photos" / "dresses" / "1_0.jpg").write_bytes(b"not an image")
    whole = encoded(photo(0))
    (root / "photos" / "shoes" / "2_1.jpg").write_bytes(whole[: len(whole) // 2])
    return root


@pytest.mark.cluster
def test_unreadable_images_are_counted_named_and_left_out(
    ray_local: str, shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["folder", "--source", str(shop), "--workspace", str(tmp_path / "w"), *SMALL]
    told = refused(argv, capsys)
    assert told.startswith(
        "2 of 60 images are unreadable, more than ingest.max_unreadable = 1.0%; the first is photos/shoes/2_1.jpg: the bytes are not a "
        "readable JPEG, PNG, WEBP image; mend or remove them, or raise the limit."
    )
    with pytest.raises(UserError, match="There is no complete result"):
        Dataset.open(str(tmp_path / "w" / "dataset"))
    assert not (tmp_path / "w" / "reports").exists()

    assert entry([*argv, "--ingest.max_unreadable", "0.05"]) == 0
    assert "2 unreadable images left out, first photos/shoes/2_1.jpg" in capsys.readouterr().out
    dataset = Dataset.open(str(tmp_path / "w" / "dataset"))
    assert dataset.manifest["unreadable"]["count"] == 2
    assert [u.split(":")[0] for u in dataset.manifest["unreadable"]["first"]] == [
        "photos/shoes/2_1.jpg",
        "photos/dresses/1_0.jpg",
    ]
    rows = {r["product_id"]: r["rows"] for r in dataset.products.to_pylist()}
    assert {p for p, n in rows.items() if n == 2} == {"dresses-1", "shoes-2"}
    assert dataset.manifest["images"] == sum(rows.values()) == 58
    report = json.loads((tmp_path / "w" / "reports" / "ingest.json").read_text())
    assert report["manifest"] == dataset.manifest
    assert report["config"]["ingest"]["max_unreadable"] == 0.05


@pytest.mark.cluster
def test_another_ingest_into_the_same_place_leaves_nothing_of_the_first(ray_local: str, tmp_path: Path) -> None:
    def run(**drawn: int) -> dict[str, Any]:
        small = Generated(image_height=40, image_width=32, max_variants=3, **drawn)
        return ingest(IngestSettings(workspace=str(tmp_path), ingest=Ingest(generated=small, shards=2, short_side=32)))

    first = run(products_per_vertical=8, verticals=3)
    second = run(products_per_vertical=8, verticals=2)
    assert set(second["verticals"]) < set(first["verticals"])
    dataset = Dataset.open(str(tmp_path / "dataset"))
    files = {str(f.relative_to(tmp_path / "dataset" / "images")) for f in (tmp_path / "dataset").rglob("part-*")}
    assert files == {p.relative for p in dataset.parts()}
    before = contents(tmp_path)
    assert run(products_per_vertical=8, verticals=2) == second  # complete and unchanged
    assert contents(tmp_path) == before


@pytest.mark.cluster
def test_a_killed_run_leaves_no_manifest_and_the_next_completes_it(ray_local: str, tmp_path: Path) -> None:
    drawn = Generated(products_per_vertical=20, verticals=4, max_variants=4, image_height=128, image_width=96)
    settings = IngestSettings(workspace=str(tmp_path), ingest=Ingest(generated=drawn, shards=6, short_side=64))
    argv = [
        sys.executable, "-m", "jobs.ingest", "generated", "--workspace", str(tmp_path), "--ingest.short_side", "64", "--ingest.shards", "6",
        "--ingest.generated.products_per_vertical", "20", "--ingest.generated.verticals", "4", "--ingest.generated.max_variants", "4",
        "--ingest.generated.image_height", "128", "--ingest.generated.image_width", "96",
    ]  # fmt: skip
    dataset = tmp_path / "dataset"
    run = subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "RAY_ADDRESS": ray_local}, stdout=subprocess.DEVNULL)
    while not list(dataset.rglob("part-*.parquet")):
        try:
            run.wait(0.02)
        except subprocess.TimeoutExpired:
            continue
        pytest.fail(f"the run ended by itself with {run.returncode}")
    run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert not (dataset / "manifest.json").exists()
    finished = {f: f.stat().st_mtime_ns for f in dataset.rglob("part-*.parquet")}

    manifest = ingest(settings)
    alone = write_dataset(tmp_path / "alone", *read_generated(drawn, 0), settings.ingest)  # no cluster, no interruption
    parts = {p.relative for p in alone.parts()}
    assert len(finished) < len(parts)
    assert {f: f.stat().st_mtime_ns for f in finished} == finished  # what was done is kept
    told = contents(dataset)
    undisturbed = contents(tmp_path / "alone")
    assert {n: v for n, v in told.items() if n.endswith(".parquet")} == {
        n: v for n, v in undisturbed.items() if n.endswith(".parquet")
    }
    assert set(told) == set(undisturbed)
    ours, theirs = comparable(manifest), comparable(alone.manifest)
    assert {**ours, "config": None} == {**theirs, "config": None}


@pytest.mark.cluster
def test_a_users_mistake_is_found_behind_rays_wrapping(ray_local: str) -> None:
    import ray

    @ray.remote
    def inner() -> None:
        raise UserError("Mend the photos.")

    @ray.remote
    def outer() -> None:
        ray.get(inner.remote())

    for task in (inner, outer):
        with pytest.raises(ray.exceptions.RayTaskError) as caught:
            ray.get(task.remote())
        found = user_error(caught.value)
        assert type(found) is UserError
        assert str(found) == "Mend the photos."
    assert user_error(ValueError("a bug")) is None


def test_help_names_the_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        entry(["--help"])
    assert caught.value.code == 0
    told = capsys.readouterr().out
    assert "python -m jobs.ingest folder --source photos.tar --workspace workspace" in told
    assert "--ingest.max_unreadable VALUE" in told
