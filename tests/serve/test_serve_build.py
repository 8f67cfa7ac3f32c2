"""jobs.build_index and what the service refuses to start with."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from service_fixtures import small_model

from fashion_dml.data.schema import Dataset
from fashion_dml.data.thumbnail import thumbnail
from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import deletes, upserts
from fashion_dml.index.manifest import activate, current, index_root, load, model_dir, prune, versions
from fashion_dml.index.shard import Shard
from fashion_dml.inference.encode import Encoder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, UserError
from jobs.build_index import BuildIndexSettings, build, entry
from jobs.build_index import _tasks as index_tasks
from jobs.index_tasks import _rows, _sample, changes_of
from serve.app import build as app
from serve.app import read_settings

pytestmark = pytest.mark.serve


@pytest.fixture
def index(settings, built) -> Location:
    return index_root(Location.of(settings.workspace))


def test_the_index_holds_the_dataset(settings, built, index, photos):
    manifest = load(index, built["version"])
    assert (built["items"], manifest.items, built["built"]) == (len(photos), len(photos), True)
    held = [shard for n in range(2) if (shard := Shard.open(index, built["version"], n))]
    for photo in photos:
        assert sum(shard.row_of(photo.item_id) >= 0 for shard in held) == 1
    report = json.loads((Path(settings.workspace) / "reports" / "build_index.json").read_text())
    assert report["version"] == built["version"]
    assert not (Path(index.path) / "versions" / built["version"] / "receipts").exists()


def test_an_unchanged_index_is_kept(aside):
    first, index = build(aside), index_root(Location.of(aside.workspace))
    before = sorted(f.path for f in index.walk())
    again = build(aside)
    assert (again["built"], again["version"]) == (False, first["version"])
    assert sorted(f.path for f in index.walk()) == before


def test_an_interrupted_build_goes_on(settings, built, index):
    """Losing the manifest, as a kill before publishing does, costs the missing shard only."""
    directory = Path(index.path) / "versions" / built["version"]
    manifest = json.loads((directory / "manifest.json").read_text())
    try:
        other = settings.model_copy(update={"index": settings.index.model_copy(update={"store": "fp16"})})
        half = build(other)
        place = Path(index.path) / "versions" / half["version"]
        listed = json.loads((place / "manifest.json").read_text())
        kept = (place / "shard-00000" / "vectors.bin").stat().st_ino
        receipt = {
            "files": {k: v for k, v in listed["files"].items() if k.startswith("shard-00000")},
            "items": listed["shards"][0], "products": 9,
            "verticals": {v: {"items": 0, "products": 0} for v in listed["verticals"]},
        }  # fmt: skip
        (place / "manifest.json").unlink()
        (place / "receipts").mkdir()
        (place / "receipts" / "shard-00000.json").write_text(json.dumps(receipt))
        again = build(other)
        assert (again["version"], again["built"]) == (half["version"], True)
        assert (place / "shard-00000" / "vectors.bin").stat().st_ino == kept
        assert load(index, half["version"]).files == listed["files"]
        assert {built["version"], half["version"]} <= set(versions(index))
    finally:
        activate(index, built["version"])
    assert json.loads((directory / "manifest.json").read_text()) == manifest
    assert current(index) == built["version"]


@pytest.fixture
def aside(settings, built, tmp_path) -> BuildIndexSettings:
    """The same dataset and model in a workspace of its own."""
    for name in ("dataset", "unified", "embeddings"):
        shutil.copytree(Path(settings.workspace) / name, tmp_path / name)
    return settings.model_copy(update={"workspace": str(tmp_path)})


def test_only_the_first_version_goes_live_unasked(aside):
    index = index_root(Location.of(aside.workspace))
    first = build(aside)
    assert (first["live"], current(index)) == (True, first["version"])
    other = aside.model_copy(update={"index": aside.index.model_copy(update={"store": "int8"})})
    second = build(other)
    assert (second["live"], second["built"], current(index)) == (False, True, first["version"])
    asked = build(other.model_copy(update={"activate": True}))
    assert (asked["live"], asked["built"], asked["version"]) == (True, False, second["version"])
    assert current(index) == second["version"]


def test_an_approximate_kind_is_trained_once_and_tuned(aside, photos):
    kinds = aside.index.model_copy(update={"kind": "ivf", "store": "fp16", "recall": 0.9})
    made = build(aside.model_copy(update={"index": kinds}))
    index = index_root(Location.of(aside.workspace))
    manifest = load(index, made["version"])
    raw = json.loads((Path(index.path) / "versions" / made["version"] / "manifest.json").read_text())
    assert (manifest.kind, manifest.store, raw["recall"] >= 0.9) == ("ivf", "fp16", True)
    assert manifest.effort.probes > 0
    assert {"trained/candidates.faiss", "shard-00000/candidates.faiss", "shard-00001/candidates.faiss"} <= set(manifest.files)
    shard = Shard.open(index, made["version"], 0)
    assert shard.find(shard.vector(3)[None], 1)[0].item_ids == [shard.item_id(3)]


def test_changes_of_the_catalogue_are_folded_in(aside, photos):
    workspace = Location.of(aside.workspace)
    before = load(index_root(workspace), build(aside)["version"])
    gone, changed = photos[0], photos[1]
    catalog = Catalog.create(workspace / "catalog", dim=before.dim, attributes=before.attributes)
    rows = {
        "product_ids": [changed.product_id, "new"], "verticals": ["hats", changed.vertical], "thumbnails": [b"a", b"b"],
        "vectors": np.eye(2, before.dim, dtype=np.float32), "attributes": np.zeros((2, len(before.attributes)), np.int8),
    }  # fmt: skip
    catalog.append(upserts(catalog.schema, [changed.item_id, "new-item"], **rows, model=before.model))
    upto = catalog.append(deletes(catalog.schema, [gone.item_id, "never-there"]))
    made = build(aside)
    after = load(index_root(workspace), made["version"])
    assert rows_and_sample(aside, before.model, upto) == (list(after.shards), after.items)
    assert (made["built"], made["live"], after.catalog, after.items) == (True, False, upto, len(photos))
    shards = [Shard.open(index_root(workspace), made["version"], s) for s in range(2)]
    found = {i: [(n, s.row_of(i)) for n, s in enumerate(shards) if s.row_of(i) >= 0] for i in ("new-item", changed.item_id)}
    for n, places in enumerate(found.values()):
        ((shard, row),) = places
        assert shards[shard].vector(row).tolist() == np.eye(2, before.dim)[1 - n].tolist()
    assert not any(s.row_of(i) >= 0 for s in shards for i in (gone.item_id, "never-there"))
    assert after.verticals["hats"] == {"items": 1, "products": 1}
    assert build(aside)["built"] is False


def rows_and_sample(settings: BuildIndexSettings, model: str, upto: int) -> tuple[list[int], int]:
    """(items of each shard, items of a sample that takes all) as the kind is chosen by."""
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(workspace / "dataset")
    ((embeddings,),) = [[d for d in (workspace / "embeddings").children() if d.is_dir()]]
    dim = load_model(workspace / "unified" / "model").dim
    tasks = index_tasks(
        settings.index, dataset, str(embeddings), "v", {"sha256": model, "dim": dim}, dataset.parts(), str(workspace / "catalog"), upto
    )  # fmt: skip
    gone, new = changes_of(tasks[0])
    vectors, products = _sample(tasks, 10**6, gone, new)
    assert vectors.shape == (len(products), dim)
    assert np.eye(2, dim)[1].tolist() in vectors.tolist()
    return [_rows(task, gone, new) for task in tasks], len(vectors)


def test_too_many_shards(settings, built, capsys):
    shards = ["--workspace", settings.workspace, "--index.shards", "9"]
    assert entry(shards) == 2
    assert "index.shards = 9" in capsys.readouterr().err


def test_missing_dataset(tmp_path, capsys):
    assert entry(["--workspace", str(tmp_path)]) == 2
    assert "jobs.ingest" in capsys.readouterr().err


def test_thumbnails_are_not_encoded_twice(photos):
    assert thumbnail(photos[0].data, 64, 96, 96) is photos[0].data
    assert len(thumbnail(photos[0].data, 64, 96, 48)) < len(photos[0].data)


def test_a_version_without_its_model_is_refused(settings, built, index):
    file = Path(index.path) / "versions" / built["version"] / "manifest.json"
    good = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(good) | {"model": "f" * 64}))
        with pytest.raises(UserError, match=r"models/f{16}: run .*build_index"):
            app({"workspace": settings.workspace})
    finally:
        file.write_text(good)


def test_a_version_keeps_its_model(aside, photos):
    """Another model, another version: both can be served; what no version is of goes with the last of them."""
    index, model = index_root(Location.of(aside.workspace)), Location.of(aside.workspace) / "unified" / "model"
    first = load(index, build(aside)["version"])
    save_model(model, small_model(photos, seed=4))
    second = load(index, build(aside.model_copy(update={"activate": True}))["version"])
    assert first.model != second.model
    for manifest in (first, second):
        assert load_model(model_dir(index, manifest.model)).sha256 == manifest.model
    model_dir(index, second.model).delete()
    assert build(aside)["built"] is False
    assert load_model(model_dir(index, second.model)).sha256 == second.model  # put back
    assert prune(index, 0) == [first.version]
    assert [d.name for d in (index / "models").children()] == [second.model[:16]]


def test_an_older_version_goes_live_again(aside, capsys):
    index = index_root(Location.of(aside.workspace))
    first = build(aside)["version"]
    second = build(aside.model_copy(update={"activate": True, "index": aside.index.model_copy(update={"store": "int8"})}))
    assert current(index) == second["version"]
    assert entry(["--workspace", aside.workspace, "--live", first]) == 0
    assert current(index) == first
    assert entry(["--workspace", aside.workspace, "--live", "nothing"]) == 2
    assert f"no index version 'nothing'; known are {first}" in capsys.readouterr().err
    assert current(index) == first


def test_changed_items_are_embedded_again_by_a_new_model(aside, photos):
    workspace = Location.of(aside.workspace)
    first = load(index_root(workspace), build(aside)["version"])
    catalog = Catalog.create(workspace / "catalog", dim=first.dim, attributes=first.attributes)
    ids = ["with-picture", "vector-only", "damaged"]
    pictures = [thumbnail(photos[3].data, 64, 96, 48), b"", b"\xff\xd8\xff no picture"]
    rows = {"product_ids": ids, "verticals": ["hats"] * 3, "attributes": np.zeros((3, len(first.attributes)), np.int8)}
    catalog.append(upserts(
        catalog.schema, ids, **rows, vectors=np.eye(3, first.dim, dtype=np.float32), thumbnails=pictures, model=first.model
    ))  # fmt: skip
    save_model(workspace / "unified" / "model", small_model(photos, seed=4))
    with pytest.raises(UserError, match=r"2 changed items, as 'damaged', came as vectors of another model without a picture"):
        build(aside)
    left = aside.model_copy(update={"index": aside.index.model_copy(update={"leave_out_vectors": True})})
    second = load(index_root(workspace), build(left)["version"])
    shards = [Shard.open(index_root(workspace), second.version, s) for s in range(2)]
    (found,) = [s.vector(s.row_of("with-picture")) for s in shards if s.row_of("with-picture") >= 0]
    expected = Encoder(model_dir(index_root(workspace), second.model)).encode([pictures[0]])[0]
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert not any(s.row_of(gone) >= 0 for s in shards for gone in ids[1:])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ({}, "needs workspace"),
        ({"workspace": "w", "replicas": "2"}, "no setting 'serve.replicas'"),
        ({"workspace": "w", "port": "99999"}, "serve.port"),
        ({"workspace": "w", "config": "/nowhere.yaml"}, "can't be read"),
    ],
)
def test_bad_arguments_are_refused(args, says):
    with pytest.raises(UserError, match=says):
        read_settings(args)
