"""Versions: only listed, unaltered files are opened; CURRENT changes whole or not at all; old versions go."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest
from index_catalogue import Catalogue

from fashion_dml.index.manifest import (
    USED_S,
    activate,
    current,
    load,
    mark_used,
    prune,
    require_current,
    verified_file,
    version_dir,
    versions,
)
from fashion_dml.index.segment import write_segment
from fashion_dml.index.shard import Shard
from fashion_dml.storage import Location, UserError


@pytest.fixture
def index(tmp_path: Path) -> Location:
    Catalogue.random(60, 8, 1).write(Location.of(tmp_path), "v1", shards=2)
    return Location.of(tmp_path)


def test_counts(index: Location):
    manifest = require_current(index)
    assert (manifest.version, manifest.dim, manifest.items, len(manifest.shards)) == ("v1", 8, 60, 2)
    assert sum(v["items"] for v in manifest.verticals.values()) == 60
    assert manifest.products == len({*Catalogue.random(60, 8, 1).product_ids})


@pytest.mark.parametrize("name", ["vectors.faiss", "vectors.bin", "items.arrow"])
def test_an_altered_file_is_refused(index: Location, name: str):
    file = Path(index.path) / "versions" / "v1" / "shard-00001" / name
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    Shard.open(index, "v1", 0)
    with pytest.raises(UserError, match="sha256"):
        Shard.open(index, "v1", 1)
    file.write_bytes(data[:-7])
    with pytest.raises(UserError, match="bytes"):
        Shard.open(index, "v1", 1)
    file.unlink()
    with pytest.raises(UserError, match="missing"):
        Shard.open(index, "v1", 1)


def test_a_file_that_is_not_listed_is_refused(index: Location):
    shard = Path(index.path) / "versions" / "v1"
    (shard / "shard-00002").symlink_to(shard / "shard-00001")
    with pytest.raises(UserError, match="not in the manifest"):
        Shard.open(index, "v1", 2)
    with pytest.raises(UserError, match="not in the manifest"):
        verified_file(index, load(index, "v1"), "../../../etc/passwd")


def test_newer_or_garbled_manifests_are_refused(index: Location):
    file = Path(version_dir(index, "v1").path) / "manifest.json"
    good = json.loads(file.read_text())
    for change, says in (
        ({"schema": 99}, "reads up to"),
        ({"kind": "model"}, "not an index"),
        ({"dim": None}, "--force"),
        ({"shards": 3}, "--force"),
        (
            {"files": {f: v for f, v in good["files"].items() if not f.endswith("vectors.bin")}},
            "older fashion-dml.*--force true",
        ),
    ):
        file.write_text(json.dumps(good | change))
        with pytest.raises(UserError, match=says):
            load(index, "v1")
    file.write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        load(index, "v1")


@pytest.mark.parametrize("name", ["", "..", "a/b", ".hidden", "x" * 65])
def test_version_names_can_lead_nowhere_else(index: Location, name: str):
    with pytest.raises(UserError, match="no name"):
        activate(index, name)


def test_only_complete_versions_become_current(index: Location):
    (Path(index.path) / "versions" / "v2").mkdir()
    with pytest.raises(UserError, match="no index version 'v2'; known are v1"):
        activate(index, "v2")
    assert current(index) == "v1"


def test_current_is_never_seen_torn(index: Location):
    other = "v2" * 30
    Catalogue.random(5, 8, 2).write(index, other)
    seen, stop = set(), threading.Event()

    def read() -> None:
        while not stop.is_set():
            seen.add(current(index))

    reader = threading.Thread(target=read)
    reader.start()
    for i in range(300):
        activate(index, ("v1", other)[i % 2])
    stop.set()
    reader.join()
    assert seen <= {"v1", other}


def test_prune_keeps_the_live_one_and_the_newest(index: Location):
    for name in ("v2", "v3", "v4"):
        Catalogue.random(5, 8, 2).write(index, name)
    (Path(index.path) / "versions" / "v0-leftover").mkdir()
    activate(index, "v2")
    assert prune(index, 1) == ["v0-leftover", "v1", "v3"]
    assert versions(index) == ["v2", "v4"]
    assert prune(index, 0) == ["v4"]
    assert current(index) == "v2"


def test_a_version_that_a_service_serves_is_kept_for_a_time(index: Location):
    for name in ("v2", "v3"):
        Catalogue.random(5, 8, 2).write(index, name)
    activate(index, "v3")
    mark_used(index, "v1")
    assert prune(index, 0) == ["v2"]
    mark = Path(index.path) / "used" / "v1"
    os.utime(mark, (time.time() - 1.1 * USED_S,) * 2)
    assert prune(index, 0) == ["v1"]
    assert not mark.exists()


def test_a_version_whose_manifest_cannot_be_read_hinders_no_other(index: Location, caplog):
    for name, manifest in (("v2", ""), ("v3", '{"schema": 99}')):
        Catalogue.random(5, 8, 2).write(index, name)
        (Path(index.path) / "versions" / name / "manifest.json").write_text(manifest)
    (Path(index.path) / "models" / ("b" * 16)).mkdir(parents=True)
    assert versions(index) == ["v1"]
    assert "v2/manifest.json is not JSON" in caplog.text
    assert "v3/manifest.json has schema 99" in caplog.text
    activate(index, "v1")
    assert prune(index, 0) == []  # it may be a newer software's, with a model of its own
    assert (Path(index.path) / "models" / ("b" * 16)).exists()
    with pytest.raises(UserError, match="no index version 'v2'; known are v1"):
        activate(index, "v2")


def test_bad_segments_are_refused(tmp_path: Path):
    good = Catalogue.random(4, 8, 3)

    def write(**change) -> None:
        values = {
            "vectors": good.vectors, "item_ids": good.item_ids, "product_ids": good.product_ids, "verticals": good.verticals,
            "attributes": good.attributes, "thumbnails": [b""] * 4,
        }  # fmt: skip
        write_segment(tmp_path, **(values | change))

    for change, says in (
        ({"vectors": good.vectors * 2}, "length 1"),
        ({"vectors": np.full((4, 8), np.nan, np.float32)}, "length 1"),
        ({"vectors": good.vectors.astype(np.float64)}, "float32"),
        ({"item_ids": ["a", "b", "c", "a"]}, "'a' is given twice"),
        ({"item_ids": ["a", "b", "c", "../d"]}, "can't be used"),
        ({"item_ids": ["a", "b", "c", "d" * 129]}, "can't be used"),
    ):
        with pytest.raises(UserError, match=says):
            write(**change)
