"""The log of changes: what was acknowledged is there after whatever happens, in one order, and nothing else is."""

from __future__ import annotations

import errno
import os
import random
import resource
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pyarrow as pa
import pytest
from catalog_drill import DIM, WORDS, State, applied, batch, some_upserts
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st
from serve_helpers import until

from fashion_dml.index import catalog as catalog_module
from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import changes_schema
from fashion_dml.storage import Location, UserError

DRILL = Path(__file__).with_name("catalog_drill.py")
History = list[tuple[int, pa.Table]]


def made(place: str | Path) -> Catalog:
    return Catalog.create(Location.of(place), dim=DIM, attributes=WORDS)


def opened(place: str | Path) -> Catalog:
    return Catalog.open(Location.of(place))


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return made(tmp_path / "catalog")


def filled(catalog: Catalog, batches: int, name: str = "w") -> History:
    return [(catalog.append(b), b) for b in (batch(catalog.schema, name, n) for n in range(batches))]


def same(found: History, expected: History) -> None:
    assert [v for v, _ in found] == [v for v, _ in expected]
    assert all(a.equals(b) for (_, a), (_, b) in zip(found, expected, strict=True))


def commit_file(catalog: Catalog, version: int) -> Path:
    return Path(catalog.location.path) / "_delta_log" / f"{version:020d}.json"


def batch_name(catalog: Catalog, version: int) -> str:
    return str(catalog_module.Commit.read(catalog._commit_file(version), version).file)


def batch_file(catalog: Catalog, version: int) -> Path:
    return Path(catalog.location.path) / batch_name(catalog, version)


def names(catalog: Catalog) -> tuple[set[str], set[str]]:
    """File names of the batches and of the log."""
    place = Path(catalog.location.path)
    return {f.name for f in place.iterdir() if f.is_file()}, {f.name for f in (place / "_delta_log").iterdir()}


def test_changes_come_back_as_they_went_in(catalog: Catalog):
    assert (catalog.latest(), [*catalog.since(0)]) == (0, [])
    assert catalog.state().equals(catalog.schema.empty_table())
    history = filled(catalog, 5)
    assert [v for v, _ in history] == [1, 2, 3, 4, 5]
    for reader in (catalog, opened(catalog.location.path)):
        same([*reader.since(0)], history)
        same([*reader.since(2, upto=4)], history[2:4])
        assert [*reader.since(5)] == []
        assert applied([reader.state(upto=3)]) == applied(b for _, b in history[:3])
    assert opened(catalog.location.path).id == catalog.id != made(f"{catalog.location.path}-2").id


def test_other_software_reads_the_table(catalog: Catalog):
    history = filled(catalog, 3)
    table = DeltaTable(catalog.location.path)
    rows = pa.table(table.scan().read_all())
    assert sorted(rows["item_id"].to_pylist()) == sorted(i for _, b in history for i in b["item_id"].to_pylist())
    assert table.count() == rows.num_rows


@settings(deadline=None, max_examples=25)
@given(st.lists(st.none() | st.integers(0, 99), max_size=14))
def test_against_a_dictionary(tmp_path_factory: pytest.TempPathFactory, steps: list[int | None]):
    """steps: the number of a batch to append, None: the catalogue is opened anew."""
    catalog = made(tmp_path_factory.mktemp("model") / "catalog")
    place = catalog.location.path
    states: list[State] = [{}]  # after each commit
    history: History = []
    for number in steps:
        if number is None:
            catalog = opened(place)
            continue
        changes = batch(catalog.schema, "w", number)
        history.append((catalog.append(changes), changes))
        states.append(applied([changes], states[-1]))
    for version, state in enumerate(states):
        same([*catalog.since(version)], history[version:])
        assert applied((b for _, b in catalog.since(version)), state) == states[-1]
        assert applied([catalog.state(version or None)]) == (state if version else states[-1])
    assert catalog.state()["row"].to_pylist() == [*range(catalog.state().num_rows)]


def test_a_long_state_is_summed_up_on_the_way(catalog: Catalog, monkeypatch: pytest.MonkeyPatch):
    history = filled(catalog, 12)
    whole = catalog.state()
    monkeypatch.setattr(catalog_module, "MOST_CHANGES", 5)
    assert catalog.state().equals(whole)
    assert applied([whole]) == applied(b for _, b in history)


@contextmanager
def drill(
    *args: object, env: dict[str, str] | None = None, limit: Callable[[], None] | None = None
) -> Iterator[subprocess.Popen]:
    argv = [sys.executable, str(DRILL), *map(str, args)]
    env = {**os.environ, **(env or {}), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env, preexec_fn=limit)
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def acknowledged(out: str) -> dict[int, int]:
    """version -> number of the batch, of the whole lines that a drill has printed."""
    whole = [line.split() for line in out.splitlines(keepends=True) if line.endswith("\n")]
    return {int(version): int(number) for number, version in whole}


def several_writers(place: str, batches: int, *, env: dict[str, str] | None = None) -> None:
    """Three writers begin where no catalogue is, a reader follows. All of it is checked."""
    seen: History = []
    with ExitStack() as stack:
        running = [stack.enter_context(drill(place, f"w{n}", 0, batches, env=env)) for n in range(3)]
        reader = Catalog.open_or_create(Location.of(place), dim=DIM, attributes=WORDS)

        def followed() -> bool:
            done = all(p.poll() is not None for p in running)
            seen.extend(reader.since(seen[-1][0] if seen else 0))
            return done

        until(followed, 600)
        acks: dict[int, tuple[str, int]] = {}
        for n, process in enumerate(running):
            said, error = process.communicate()
            assert process.returncode == 0, error
            acks |= {version: (f"w{n}", number) for version, number in acknowledged(said).items()}
    assert [*sorted(acks)] == [*range(1, 3 * batches + 1)]
    fresh = opened(place)
    written = [(v, batch(fresh.schema, *acks[v])) for v in sorted(acks)]
    same([*fresh.since(0)], written)
    same(seen, written)
    assert applied([fresh.state()]) == applied(b for _, b in written)


def test_several_writers_lose_nothing_and_all_see_one_order(tmp_path: Path):
    several_writers(str(tmp_path / "catalog"), 12)


def test_threads_share_a_catalogue(catalog: Catalog):
    with ThreadPoolExecutor(4) as pool:
        found = dict(pool.map(lambda n: (catalog.append(batch(catalog.schema, "t", n)), n), range(12)))
    assert sorted(found) == [*range(1, 13)]
    same([*catalog.since(0)], [(v, batch(catalog.schema, "t", found[v])) for v in sorted(found)])


def killed_writers(place: str, kills: int, env: dict[str, str] | None = None) -> None:
    """Writers are killed at random moments, one after another; after each the log is exactly what it must be."""
    rng, history, number = random.Random(kills), dict[int, int](), 0
    Catalog.open_or_create(Location.of(place), dim=DIM, attributes=WORDS)
    for _ in range(kills):
        with drill(place, "w", number, 10_000, env=env) as process:
            assert process.stdout is not None
            said = [process.stdout.readline() for _ in range(rng.randint(1, 12))]
            with suppress(subprocess.TimeoutExpired):
                process.wait(rng.uniform(0, 0.02))  # somewhere within the batch that follows
            process.kill()
            rest, error = process.communicate()
            assert process.returncode == -signal.SIGKILL, error
        new = acknowledged("".join(said) + rest)
        reader = opened(place)
        found = {v: t for v, t in reader.since(0) if v > max(history, default=0)}
        extra = sorted(found.keys() - new.keys())
        assert extra in ([], [max(found, default=0)]), (extra, new)  # at most the one that was under way, after all others
        new |= {v: max(new.values()) + 1 for v in extra}
        history |= new
        number = max(new.values()) + 1
        assert [*new.values()] == [*range(min(new.values()), number)]
        kept = {v: batch(reader.schema, "w", n) for v, n in history.items()}
        same([*reader.since(0)], sorted(kept.items()))
        assert applied([reader.state()]) == applied(kept[v] for v in sorted(kept))


def test_killed_writers(tmp_path: Path):
    killed_writers(str(tmp_path / "catalog"), 3)


@pytest.mark.slow
def test_twenty_killed_writers(tmp_path: Path):
    killed_writers(str(tmp_path / "catalog"), 20)


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


def test_what_may_not_be_asked(catalog: Catalog, tmp_path: Path):
    history = filled(catalog, 2)
    for doing, says in (
        (lambda: catalog.since(3), "ends at commit 2, before 3: it is not the one that was asked for"),
        (lambda: catalog.since(0, upto=7), "ends at commit 2, before 7"),
        (lambda: catalog.append(catalog.schema.empty_table()), "is empty; send 1 to 10,000"),
        (lambda: catalog.append(some_upserts(changes_schema(9, 3), ["a"], "x")), "column vector is .*made for another model"),
        (lambda: catalog.append(batch(catalog.schema, "w", 0).slice(1)), "numbered"),
        (lambda: opened(tmp_path / "none"), f"There is no catalogue in {tmp_path}/none; check the address"),
        (lambda: opened(DRILL), "There is no catalogue in"),
        (lambda: made(catalog.location.path), "already holds a catalogue"),
        (lambda: made(DRILL), "holds something else"),
        (lambda: made(tmp_path), "holds something else"),
        (lambda: made(DRILL / "x"), "can't be written to|can't be created"),
        (lambda: made(tmp_path / "a%20b"), "which Delta tables can't have"),
        (lambda: Catalog.create(Location.of(tmp_path / "new"), dim=0, attributes=[]), "needs dim >= 1"),
        (lambda: Catalog.create(Location.of(tmp_path / "new"), dim=4, attributes=["a=b", "a=b"]), "different attributes"),
        (lambda: Catalog.open(catalog.location, dim=9), "holds vectors of 8 dimensions, not 9: use the model it was made for"),
        (lambda: Catalog.open(catalog.location, attributes=WORDS[1:]), "another vocabulary of 3 attributes, not these 2"),
        (lambda: Catalog.open_or_create(catalog.location, dim=9, attributes=WORDS), "not 9"),
    ):
        with pytest.raises(UserError, match=says):
            doing()
    same([*opened(catalog.location.path).since(0)], history)
    assert Catalog.open(catalog.location, dim=DIM, attributes=list(WORDS)).latest() == 2


def test_a_creation_that_was_killed_is_made_good(tmp_path: Path):
    log = tmp_path / "catalog" / "_delta_log"
    log.mkdir(parents=True)
    (log / f"{0:020d}.json#1").write_bytes(b"{")
    filled(made(tmp_path / "catalog"), 1)
    assert opened(tmp_path / "catalog").latest() == 1


def test_a_catalogue_in_the_place_of_another(catalog: Catalog):
    filled(catalog, 2)
    shutil.rmtree(catalog.location.path)
    filled(made(catalog.location.path), 1)
    for doing in (catalog.latest, lambda: catalog.since(2), lambda: filled(catalog, 1)):
        with pytest.raises(UserError, match="was replaced by another one; open it anew"):
            doing()


def test_tables_that_are_no_catalogue_of_this_version(tmp_path: Path):
    write_deltalake(tmp_path / "other", pa.table({"a": [1]}))
    with pytest.raises(UserError, match="holds a Delta table that is no catalogue"):
        opened(tmp_path / "other")
    newer = made(tmp_path / "newer")
    file = commit_file(newer, 0)
    file.write_text(file.read_text().replace('"fashion-dml.schema":"1"', '"fashion-dml.schema":"99"'))
    with pytest.raises(UserError, match=r"has schema 99, this version .* reads up to 1: update fashion-dml"):
        opened(tmp_path / "newer")


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables that lead to an S3 server with the empty bucket `bucket`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    log = tmp_path_factory.mktemp("store") / "moto.log"
    host, port = endpoint.split(":")
    with log.open("wb") as stream:
        argv = [str(Path(sys.executable).with_name("moto_server")), "-H", host, "-p", port]
        server = subprocess.Popen(argv, stdout=stream, stderr=subprocess.STDOUT)
    try:

        def answers() -> bool:
            assert server.poll() is None, log.read_text()
            with suppress(httpx.TransportError):
                return httpx.put(f"http://{endpoint}/bucket").status_code == 200
            return False

        until(answers)
        yield {
            "AWS_ENDPOINT_URL": f"http://{endpoint}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def store(bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    return bucket


def test_an_object_store(store: dict[str, str]):
    catalog = made("s3://bucket/one/catalog")
    history = filled(catalog, 20)
    behind = opened("s3://bucket/one/catalog")
    same([*behind.since(0)], history)
    history += filled(catalog, 1, "x")
    history.append((behind.append(history[0][1]), history[0][1]))
    assert history[-1][0] == 22
    for reader in (catalog, behind, opened("s3://bucket/one/catalog")):
        same([*reader.since(15)], history[15:])
    (catalog.location / batch_name(catalog, 20)).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"^s3://bucket/one/catalog/changes-\w+\.parquet is damaged"):
        [*catalog.since(15)]
    with pytest.raises(UserError, match=r"s3://nowhere/run.* can't be written to"):
        made("s3://nowhere/run")


@pytest.mark.slow
def test_several_writers_in_an_object_store(store: dict[str, str]):
    several_writers("s3://bucket/two/catalog", 8, env=store)


@pytest.mark.slow
def test_killed_writers_in_an_object_store(store: dict[str, str]):
    killed_writers("s3://bucket/four/catalog", 6, env=store)


def test_an_answer_that_was_lost(store: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """The log decides whether a commit is in, not what was said of it."""
    catalog = made("s3://bucket/five/catalog")
    commit = Catalog._commit

    def loses(self: Catalog, *args: Any) -> None:
        commit(self, *args)
        raise OSError("connection reset")

    monkeypatch.setattr(Catalog, "_commit", loses)
    same(filled(catalog, 2), [*catalog.since(0)])

    def fails(self: Catalog, *args: Any) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(Catalog, "_commit", fails)
    with pytest.raises(UserError, match=r"s3://bucket/five/catalog can't be written to \(connection refused\)"):
        filled(catalog, 1)
    assert catalog.latest() == 2
