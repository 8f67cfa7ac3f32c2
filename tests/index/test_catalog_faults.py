"""Damaged files, full disks, failing calls: refused by name, nothing acknowledged is lost, nothing half is visible."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pytest
from catalog_drill import batch, some_upserts
from catalog_helpers import (
    History,
    acknowledged,
    batch_file,
    commit_file,
    drill,
    filled,
    made,
    names,
    opened,
    same,
)
from deltalake import write_deltalake
from serve_helpers import until

from fashion_dml.index import catalog as catalog_module
from fashion_dml.index.catalog import Catalog
from fashion_dml.storage import UserError


def test_a_batch_is_on_the_disk_before_it_is_visible(catalog: Catalog, monkeypatch: pytest.MonkeyPatch):
    filled(catalog, 1)
    events: list[str] = []
    fsync, link = os.fsync, os.link

    def name_of(handle: int) -> str:
        return os.path.basename(os.readlink(f"/proc/self/fd/{handle}")) if Path("/proc/self/fd").is_dir() else "?"

    monkeypatch.setattr(os, "fsync", lambda handle: (events.append(name_of(handle)), fsync(handle)))
    monkeypatch.setattr(os, "link", lambda a, b: (events.append("LINK"), link(a, b)))
    catalog.append(batch(catalog.schema, "w", 1))
    if "?" in events:
        pytest.skip("no /proc: which file was synced can't be seen")
    place = events.index("LINK")
    assert [e.split("-")[0].split("_")[0] for e in events[:place]] == ["changes", "", "catalog", f"{1:020d}.json"]
    assert events[place + 1 :] == ["_delta_log"]


@pytest.mark.parametrize("failing", ["link", "fsync"])
def test_a_failed_append_leaves_nothing(catalog: Catalog, failing: str, monkeypatch: pytest.MonkeyPatch):
    history = filled(catalog, 2)
    before = names(catalog)

    def fails(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, failing, fails)
        with pytest.raises(UserError, match=f"no space left for the catalogue in {catalog.location} .*: free some and send"):
            filled(catalog, 1, "lost")
    assert names(catalog) == before
    assert catalog.append(history[0][1]) == 3
    same([*opened(catalog.location.path).since(0)], [*history, (3, history[0][1])])


def test_without_room_for_a_checkpoint_appends_go_on(catalog: Catalog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalog_module, "CHECKPOINT_EVERY", 2)
    filled(catalog, 2)
    assert f"{2:020d}.checkpoint.parquet" in names(catalog)[1]
    pointer = commit_file(catalog, 0).with_name("_last_checkpoint")
    pointer.unlink()
    pointer.mkdir()
    filled(catalog, 2)
    assert [v for v, _ in catalog.since(0)] == [1, 2, 3, 4]


@contextmanager
def small_disk(place: Path, size: str) -> Iterator[Path]:
    """A file system of its own; skips where none may be mounted."""
    place.mkdir()
    argv = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
    if shutil.which("mount") is None or subprocess.run(argv, capture_output=True).returncode:
        pytest.skip("a full disk can't be made here: mounting a tmpfs is not permitted")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk(tmp_path: Path):
    with small_disk(tmp_path / "disk", "400k") as disk:
        catalog, history = made(disk / "catalog"), History()
        ballast = disk / "ballast"
        ballast.write_bytes(b"x" * 100_000)

        def full() -> bool:
            refused = True
            with suppress(UserError):
                history.extend(filled(catalog, 1, f"w{len(history)}"))
                refused = False
            return refused

        until(full)
        assert history
        with pytest.raises(UserError, match="There is no space left for the catalogue"):
            catalog.append(some_upserts(catalog.schema, [f"i{i}" for i in range(200)], "big"))
        same([*opened(disk / "catalog").since(0)], history)
        ballast.unlink()
        history += filled(catalog, 1, "after")
        same([*opened(disk / "catalog").since(0)], history)


def test_a_file_that_may_not_grow(tmp_path: Path):
    place = str(tmp_path / "catalog")
    catalog = made(place)
    history = filled(catalog, 2)
    with drill(place, "w", 2, 50, limit=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (12_000, 12_000))) as process:
        said, error = process.communicate()
    assert process.returncode == 1
    assert "UserError: There is no space left for the catalogue" in error
    history += [(v, batch(catalog.schema, "w", n)) for v, n in acknowledged(said).items()]
    same([*opened(place).since(0)], history)


def test_a_place_that_may_not_be_written_to(tmp_path: Path):
    with small_disk(tmp_path / "disk", "1m") as disk:
        history = filled(made(disk / "catalog"), 2)
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        catalog = opened(disk / "catalog")
        with pytest.raises(UserError, match=r"can't be written to \(.*[Rr]ead-only.*is yours"):
            catalog.append(history[0][1])
        with pytest.raises(UserError, match="can't be"):
            made(disk / "other")
        same([*catalog.since(0)], history)


def shortened(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def emptied(file: Path) -> None:
    file.write_bytes(b"")


def without_its_last_line(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def flipped(file: Path) -> None:
    """One bit in the middle of the vectors or thumbnails."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("harm", [shortened, emptied, without_its_last_line, Path.unlink])
@pytest.mark.parametrize("version", [2, 3])
def test_a_damaged_commit_is_named(catalog: Catalog, harm: Callable[[Path], None], version: int):
    history = filled(catalog, 4)
    harm(commit_file(catalog, version))
    for reader in (catalog, lambda: opened(catalog.location.path)):
        with pytest.raises(UserError) as refusal:
            [*(reader if isinstance(reader, Catalog) else reader()).since(0)]
        assert str(refusal.value).startswith(f"{commit_file(catalog, version)} is damaged (")
        assert str(refusal.value).endswith(
            "restore it from a copy; without it the catalogue's changes from there on can't be read."
        )
    same([*catalog.since(version)], history[version:])


def test_a_damaged_last_commit_stops_readers_and_writers_alike(catalog: Catalog):
    filled(catalog, 2)
    whole = commit_file(catalog, 2).read_bytes()
    shortened(commit_file(catalog, 2))
    for doing in (lambda: opened(catalog.location.path), catalog.state):
        with pytest.raises(UserError, match=rf"^{commit_file(catalog, 2)} is damaged"):
            doing()
    commit_file(catalog, 2).write_bytes(whole)
    assert [v for v, _ in opened(catalog.location.path).since(0)] == [1, 2]


@pytest.mark.parametrize("harm", [shortened, emptied, flipped, Path.unlink])
def test_a_damaged_batch_is_named(catalog: Catalog, harm: Callable[[Path], None]):
    history = filled(catalog, 4)
    harm(batch_file(catalog, 3))
    reading = opened(catalog.location.path).since(0)
    same([next(reading), next(reading)], history[:2])
    with pytest.raises(UserError, match=rf"^{batch_file(catalog, 3)} is damaged \("):
        next(reading)


@pytest.mark.parametrize("harm", [shortened, Path.unlink])
def test_a_damaged_checkpoint(catalog: Catalog, harm: Callable[[Path], None], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(catalog_module, "CHECKPOINT_EVERY", 3)
    history = filled(catalog, 4)
    log = commit_file(catalog, 3).parent
    harm(log / f"{3:020d}.checkpoint.parquet")
    with pytest.raises(UserError, match=r"checkpoint"):
        opened(catalog.location.path)
    (log / f"{3:020d}.checkpoint.parquet").unlink(missing_ok=True)
    for pointer in ('{"version":3,', ""):  # a torn pointer is none
        (log / "_last_checkpoint").write_text(pointer)
        same([*opened(catalog.location.path).since(0)], history)


def test_rows_of_other_software_are_refused(catalog: Catalog):
    filled(catalog, 2)
    rows = batch(catalog.schema, "x", 0)
    write_deltalake(catalog.location.path, rows.cast(pa.schema([(f.name, _plain(f.type)) for f in rows.schema])), mode="append")
    with pytest.raises(UserError, match=rf"^{commit_file(catalog, 3)} brings rows that fashion-dml did not write"):
        [*catalog.since(0)]


def _plain(kind: pa.DataType) -> pa.DataType:
    return pa.list_(kind.value_type) if pa.types.is_fixed_size_list(kind) else kind
