"""The log of changes: what was acknowledged is there, in one order, and nothing else is."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pytest
from catalog_drill import DIM, WORDS, State, applied, batch, some_upserts
from catalog_helpers import (
    DRILL,
    History,
    commit_file,
    filled,
    killed_writers,
    made,
    opened,
    same,
    several_writers,
)
from deltalake import DeltaTable, write_deltalake
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dml.index import catalog as catalog_module
from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import changes_schema
from fashion_dml.storage import Location, UserError


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


def test_several_writers_lose_nothing_and_all_see_one_order(tmp_path: Path):
    several_writers(str(tmp_path / "catalog"), 12)


def test_threads_share_a_catalogue(catalog: Catalog):
    with ThreadPoolExecutor(4) as pool:
        found = dict(pool.map(lambda n: (catalog.append(batch(catalog.schema, "t", n)), n), range(12)))
    assert sorted(found) == [*range(1, 13)]
    same([*catalog.since(0)], [(v, batch(catalog.schema, "t", found[v])) for v in sorted(found)])


def test_killed_writers(tmp_path: Path):
    killed_writers(str(tmp_path / "catalog"), 3)


@pytest.mark.slow
def test_twenty_killed_writers(tmp_path: Path):
    killed_writers(str(tmp_path / "catalog"), 20)


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
