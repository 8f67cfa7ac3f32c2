"""Atomic files, complete results, and what is refused; on the local disk and on an object store's rules."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from fashion_dml.storage import (
    MANIFEST,
    SCHEMA_VERSION,
    Location,
    UserError,
    manifest_sha256,
    publish,
    read_manifest,
    recover,
    require_manifest,
    sha256_json,
    write_manifest,
)


@pytest.fixture(params=["local", "store"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    """A directory, and the same as an object store sees it: files appear when their upload ends, renames don't exist."""
    if request.param == "local":
        return Location.of(tmp_path)
    return Location(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "bucket", "s3")


class Stop(Exception):
    """What goes wrong in a block."""


def files(root: Location) -> dict[str, bytes]:
    return {f.path.removeprefix(root.path).lstrip("/"): f.read_bytes() for f in root.walk()}


def done(directory: Location, **more: object) -> None:
    write_manifest(directory, kind="test", config={"a": 1}, inputs={}, seconds=1.23456, **more)


def test_a_file_appears_whole_or_not_at_all(root: Location) -> None:
    file = root / "deep" / "name"
    with file.writing() as stream:
        stream.write(b"new")
        assert not file.exists()
    assert file.read_bytes() == b"new"

    def fail() -> None:
        with file.writing() as stream:
            stream.write(b"half")
            raise Stop

    with pytest.raises(Stop):
        fail()
    assert files(root) == {"deep/name": b"new"}
    file.delete()
    with pytest.raises(Stop):
        fail()
    assert files(root) == {}


def test_locations_go_down_up_and_list(root: Location) -> None:
    (root / "b").write_bytes(b"22")
    (root / "a" / "x").write_json({"é": [1, None]})
    assert [c.name for c in root.children()] == ["a", "b"]
    assert (root / "nowhere").children() == (root / "nowhere").walk() == []
    assert (root / "a" / "x").parent == root / "a"
    assert root.sizes() == {"a/x": (root / "a" / "x").size(), "b": 2}
    assert ((root / "b").size(), (root / "b").is_file(), (root / "a").is_dir(), (root / "c").exists()) == (2, True, True, False)
    assert (root / "a" / "x").read_json() == {"é": [1, None]}
    with pytest.raises(ValueError, match="JSON"):
        (root / "c").write_json(float("nan"))
    assert not (root / "c").exists()
    assert (root / "b").local_file().read_bytes() == b"22"
    for gone in (root / "a", root / "b", root / "b"):
        gone.delete()
    assert files(root) == {}


def test_addresses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert str(Location.of("work")) == f"{tmp_path}/work" == str(Location.of(f"file://{tmp_path}/work"))
    assert Location.of(Location.of("work")) == Location.of("work")
    with pytest.raises(UserError, match=r"^The address 'ftp://host/x' can't be opened \(.*\); use a path, s3://bucket/\.\.\."):
        Location.of("ftp://host/x")


def test_a_place_that_cannot_be_written_to_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    for write in (
        Location.of(tmp_path / "file" / "below").make_dir,
        lambda: (Location.of(tmp_path / "file") / "x").write_bytes(b""),
    ):
        with pytest.raises(UserError, match=rf"^{tmp_path}/file.* can't be written to \(.*\); choose a place"):
            write()


def test_a_local_copy_follows_its_file(tmp_path: Path) -> None:
    store = Location(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "bucket", f"s3-{tmp_path.name}")
    (store / "model").write_bytes(b"first")
    kept = (store / "model").local_file()
    assert (store / "model").local_file() == kept
    (store / "other").write_bytes(b"other")
    beside = (store / "other").local_file()
    with kept.open("rb") as opened:
        (store / "model").write_bytes(b"second!")
        second = (store / "model").local_file()
        assert second.read_bytes() == b"second!"
        assert opened.read() == b"first"
    assert not kept.parent.exists()
    (store / "model").delete()
    (store / "third").write_bytes(b"third")
    third = (store / "third").local_file()
    assert [f.exists() for f in (second, beside, third)] == [False, True, True]


def test_a_result_is_complete_with_its_manifest_only(root: Location) -> None:
    assert read_manifest(root) is None
    with pytest.raises(UserError, match=r"There is no complete result in .*: run `python -m jobs\.ingest` first\."):
        require_manifest(root, made_by="python -m jobs.ingest")
    done(root, images=3)
    manifest = require_manifest(root, made_by="x")
    assert manifest == {
        "schema": SCHEMA_VERSION,
        "kind": "test",
        "code": manifest["code"],
        "config": {"a": 1},
        "inputs": {},
        "seconds": 1.235,
        "images": 3,
    }
    digest = manifest_sha256(root)
    write_manifest(root, kind="test", config={"a": 1}, inputs={}, seconds=77, images=3)
    assert manifest_sha256(root) == digest  # how long it took doesn't count
    done(root, images=4)
    assert manifest_sha256(root) != digest


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"schema": SCHEMA_VERSION + 1},
            r"has schema 2, this version \(0.*\) reads up to 1: update fashion-dml or choose another workspace\.",
        ),
        ({"kind": "dataset"}, r"has schema None, this version"),
        ([1], r"holds no manifest; delete .* and run its job again\."),
    ],
)
def test_a_manifest_of_another_kind_of_version_is_refused(root: Location, content: object, message: str) -> None:
    (root / MANIFEST).write_json(content)
    with pytest.raises(UserError, match=message):
        read_manifest(root)


def test_a_damaged_manifest_is_named(root: Location) -> None:
    (root / MANIFEST).write_bytes(b'{"schema": 1, "ki')
    with pytest.raises(UserError, match=r"manifest\.json is not JSON \(.*\); delete .* and run its job again\."):
        read_manifest(root)


def test_publish_replaces_the_whole_result(root: Location) -> None:
    target = root / "unified"
    for n in (1, 2):
        with publish(target) as draft:
            (draft / f"file-{n}").write_bytes(b"x")
            done(draft, n=n)
        assert read_manifest(target)["n"] == n  # type: ignore[index]
    if root.is_local:
        assert set(files(root)) == {"unified/file-2", f"unified/{MANIFEST}"}
        assert [c.name for c in root.children()] == ["unified"]


def fail_to_publish(target: Location) -> None:
    with publish(target) as draft:
        (draft / "half").write_bytes(b"x")
        raise Stop


def test_publish_leaves_nothing_behind_when_the_block_fails(tmp_path: Path) -> None:
    target = Location.of(tmp_path / "workspace" / "unified")
    with pytest.raises(Stop):
        fail_to_publish(target)
    assert list((tmp_path / "workspace").iterdir()) == []
    with publish(target) as draft:
        done(draft)
    before = files(target)
    with pytest.raises(Stop):
        fail_to_publish(target)
    assert files(target) == before
    assert [p.name for p in (tmp_path / "workspace").iterdir()] == ["unified"]


def left_behind(target: Path, kind: str, *, complete: bool, age: float) -> Path:
    """What a killed process leaves beside a directory, last touched `age` seconds ago."""
    directory = target.parent / f".{target.name}.0123abcd.{kind}"
    (directory / "deep").mkdir(parents=True)
    if complete:
        done(Location.of(directory), n=age)
    os.utime(directory, (time.time() - age,) * 2)
    return directory


def test_publish_removes_what_killed_processes_left(tmp_path: Path) -> None:
    """Not the draft of a process that may be at work, nor what belongs to other directories."""
    target = tmp_path / "unified"
    others = [left_behind(tmp_path / name, "partial", complete=True, age=1e6) for name in ("unified.x", "other")]
    gone = left_behind(target, "old", complete=True, age=5)
    dead, alive = (left_behind(target, "partial", complete=False, age=1e6), target.parent / ".unified.4567cdef.partial")
    alive.mkdir()
    with publish(Location.of(target)) as draft:
        done(draft)
    assert not gone.exists()
    assert not dead.exists()
    assert {p.name for p in tmp_path.iterdir()} == {"unified", alive.name, *(p.name for p in others)}
    recover(Location.of(target))  # where nobody publishes it now
    assert {p.name for p in tmp_path.iterdir()} == {"unified", *(p.name for p in others)}


def test_what_was_moved_aside_comes_back_only_if_it_is_complete_and_nothing_took_its_place(tmp_path: Path) -> None:
    target = tmp_path / "last"
    recover(Location.of(target / "deep" / "nowhere"))
    left_behind(target, "old", complete=False, age=5)
    recover(Location.of(target))
    assert list(tmp_path.iterdir()) == []
    left_behind(target, "old", complete=True, age=5)
    with pytest.raises(Stop):
        fail_to_publish(Location.of(target))
    assert [p.name for p in tmp_path.iterdir()] == ["last"]
    assert read_manifest(Location.of(target))["n"] == 5  # type: ignore[index]
    left_behind(target, "old", complete=True, age=6)
    recover(Location.of(target))
    assert [p.name for p in tmp_path.iterdir()] == ["last"]
    assert read_manifest(Location.of(target))["n"] == 5  # type: ignore[index]


def test_publish_to_a_store_is_incomplete_until_its_manifest(tmp_path: Path) -> None:
    target = Location(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "bucket/unified", "s3")
    done(target)
    with pytest.raises(Stop):
        fail_to_publish(target)
    assert read_manifest(target) is None


def test_digests_of_settings_do_not_hang_on_their_order() -> None:
    assert sha256_json({"a": 1, "b": [1, 2]}) == sha256_json(json.loads('{"b": [1, 2], "a": 1}'))
    assert sha256_json({"a": 1}) != sha256_json({"a": 2})
