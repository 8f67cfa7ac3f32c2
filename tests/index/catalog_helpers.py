"""Catalogues for tests: filled, looked into, and written to by processes that are killed."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pyarrow as pa
from catalog_drill import DIM, WORDS, applied, batch
from serve_helpers import until

from fashion_dml.index.catalog import Catalog
from fashion_dml.index.commits import Commit
from fashion_dml.storage import Location

DRILL = Path(__file__).with_name("catalog_drill.py")
History = list[tuple[int, pa.Table]]


def made(place: str | Path) -> Catalog:
    return Catalog.create(Location.of(place), dim=DIM, attributes=WORDS)


def opened(place: str | Path) -> Catalog:
    return Catalog.open(Location.of(place))


def filled(catalog: Catalog, batches: int, name: str = "w") -> History:
    return [(catalog.append(b), b) for b in (batch(catalog.schema, name, n) for n in range(batches))]


def same(found: History, expected: History) -> None:
    assert [v for v, _ in found] == [v for v, _ in expected]
    assert all(a.equals(b) for (_, a), (_, b) in zip(found, expected, strict=True))


def commit_file(catalog: Catalog, version: int) -> Path:
    return Path(catalog.location.path) / "_delta_log" / f"{version:020d}.json"


def batch_name(catalog: Catalog, version: int) -> str:
    return str(Commit.read(catalog._commit_file(version), version).file)


def batch_file(catalog: Catalog, version: int) -> Path:
    return Path(catalog.location.path) / batch_name(catalog, version)


def names(catalog: Catalog) -> tuple[set[str], set[str]]:
    """File names of the batches and of the log."""
    place = Path(catalog.location.path)
    return {f.name for f in place.iterdir() if f.is_file()}, {f.name for f in (place / "_delta_log").iterdir()}


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
