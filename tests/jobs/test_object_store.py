"""The whole loop in an object store: a workspace at s3://, against a real S3 API on loopback, in processes of their own."""

from __future__ import annotations

import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import yaml
from drawn import shop_rows, write_shop
from s3_server import free_port, running, s3_server
from serve_helpers import until

from fashion_dml.storage import Location

pytestmark = [pytest.mark.slow, pytest.mark.cluster]
ROOT = Path(__file__).parents[2]
WORKSPACE = "s3://bucket/run"
TINY: dict[str, Any] = {
    "ingest": {
        "generated": {"products_per_vertical": 8, "verticals": 2, "max_variants": 3, "image_height": 48, "image_width": 32},
        "short_side": 32, "shards": 2, "min_row_groups": 4, "validation_share": 0.3,
    },
    "data": {"height": 32, "width": 32},
    "model": {"trunk": "test_efficientnet", "weights": "none", "dim": 16},
    "specialists": {"epochs": 1, "min_steps": 3, "max_steps": 3, "products_per_batch": 3, "validate_every": 2, "checkpoint_every": 2},
    "distill": {"steps": 3, "images_per_batch": 4, "validate_every": 2, "checkpoint_every": 2},
    "embed": {"batch_images": 16},
    "evaluate": {"bootstrap": 20, "sheets": 1},
    "index": {"shards": 2, "thumbnail_side": 32},
    "cluster": {"workers": 2, "cpus_per_worker": 0.25},
    "serve": {"shard_replicas": 1, "shard_cpus": 0.1, "encoder_cpus": 0.1, "ingress_cpus": 0.1},
}  # fmt: skip
MANIFESTS = (
    "dataset", "specialists/initial", "specialists/joint/model", "specialists/joint/last", "teachers", "unified/model", "unified/last",
)  # fmt: skip


@dataclass(frozen=True)
class Store:
    """A running S3 server with an empty bucket; `env` leads every process there."""

    env: dict[str, str]
    filesystem: pafs.S3FileSystem
    home: Path

    @property
    def workspace(self) -> Location:
        return Location(self.filesystem, "bucket/run", "s3")

    def files(self) -> dict[str, int]:
        """Path -> time of change below the workspace; of the reports only the evaluation, for each job reports that it ran."""
        found = self.filesystem.get_file_info(pafs.FileSelector("bucket/run", recursive=True))
        told = {i.path.removeprefix("bucket/run/"): i.mtime_ns for i in found if i.type == pafs.FileType.File}
        return {name: t for name, t in told.items() if not name.startswith("reports/") or "evaluation" in name}

    def argv(self, job: str, *args: str) -> list[str]:
        """The command line of a job with the settings of TINY."""
        config = self.home / "tiny.yaml"
        config.write_text(yaml.safe_dump(TINY))
        return [sys.executable, "-m", f"jobs.{job}", *args, "--config", str(config)]

    def job(self, name: str, *args: str, seconds: float = 420) -> tuple[int, str]:
        """(exit code, all it said) of a job that ends by itself."""
        log = self.home / f"{name}-{time.monotonic_ns()}.log"
        with running(self.argv(name, *args), self.env, log) as process:
            try:
                return process.wait(seconds), log.read_text()
            except subprocess.TimeoutExpired:
                pytest.fail(f"jobs.{name} still runs after {seconds} s:\n{log.read_text()}")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    home = tmp_path_factory.mktemp("store")
    with s3_server(home) as (env, filesystem):
        yield Store(env, filesystem, home)


@pytest.fixture(scope="module")
def made(store: Store) -> dict[str, int]:
    """The files of a workspace that the pipeline has made."""
    code, said = store.job("pipeline", "--workspace", WORKSPACE)
    assert code == 0, said
    assert "all stages complete" in said
    return store.files()


def test_every_result_is_complete(store: Store, made: dict[str, int]) -> None:
    specialists = {c.name for c in (store.workspace / "specialists").children()}
    assert len(specialists) == 4
    assert {"initial", "joint"} < specialists
    for name in (*MANIFESTS, *(f"specialists/{s}/model" for s in specialists - {"initial"})):
        assert f"{name}/manifest.json" in made, sorted(made)
    version = (store.workspace / "index" / "CURRENT").read_bytes().decode().strip()
    assert f"index/versions/{version}/manifest.json" in made
    assert {"reports/evaluation.json", "reports/evaluation.html"} < set(made)
    report = (store.workspace / "reports" / "evaluation.json").read_json()
    assert set(report["models"]) == {"specialists", "joint", "unified"}
    for name in (*specialists - {"initial"}, ""):
        logs = f"specialists/{name}/logs/" if name else "unified/logs/"
        assert any(f.startswith(f"{logs}events.") for f in made), sorted(made)
    expected = {"dataset", "embeddings", "index", "reports", "specialists", "teachers", "unified"}
    assert {f.split("/")[0] for f in made} == expected  # no scratch of Ray Train or of half-written files
    assert not [f for f in made if "partial" in f]


def test_the_dataset_verifies(store: Store, made: dict[str, int]) -> None:
    code, said = store.job("ingest", "verify", f"{WORKSPACE}/dataset")
    assert code == 0, said
    assert f"{WORKSPACE}/dataset is in order: " in said


def test_a_second_run_has_nothing_to_do(store: Store, made: dict[str, int]) -> None:
    code, said = store.job("pipeline", "--workspace", WORKSPACE)
    assert code == 0, said
    assert said.count("is complete and unchanged") >= 3, said
    assert store.files() == made


def test_the_service_answers_from_the_store_and_stops_on_sigint(store: Store, made: dict[str, int]) -> None:
    port, log = free_port(), store.home / "serve.log"
    argv = store.argv("serve", "--workspace", WORKSPACE, "--serve.port", str(port))
    item = _item(store)
    with running(argv, store.env, log) as process, httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=30) as client:

        def ready() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return client.get("/readyz").status_code == 200
            except httpx.TransportError:
                return False

        until(ready, 240)
        reply = client.post("/v1/search", json={"item_id": item, "k": 3})
        assert reply.status_code == 200, reply.text
        found = reply.json()
        assert found["coverage"] == 1
        assert found["results"][0]["item_id"] == item
        assert len(found["results"]) == 3
        process.send_signal(signal.SIGINT)
        assert process.wait(120) == 0, log.read_text()


def _item(store: Store) -> str:
    """The id of an indexed image."""
    file = next(f for f in (store.workspace / "dataset" / "images").walk() if f.name.startswith("part-"))
    with file.open_input() as stream:
        return str(pq.read_table(stream, columns=["image_id"])["image_id"][0].as_py())


@pytest.mark.parametrize("form", ["folder", "tar"])
def test_photos_come_from_the_store(store: Store, form: str, tmp_path: Path) -> None:
    shop = write_shop(tmp_path / "shop", shop_rows())
    photos = Location(store.filesystem, f"bucket/{form}-photos", "s3")
    if form == "tar":
        with (photos / "photos.tar").writing() as stream, tarfile.open(fileobj=stream, mode="w") as archive:
            archive.add(shop, arcname=".")
    else:
        pafs.copy_files(str(shop), photos.path, destination_filesystem=store.filesystem)
    source = f"{photos}/photos.tar" if form == "tar" else str(photos)
    code, said = store.job("ingest", "folder", "--source", source, "--workspace", f"s3://bucket/{form}")
    assert code == 0, said
    manifest = (Location(store.filesystem, f"bucket/{form}/dataset", "s3") / "manifest.json").read_json()
    assert (manifest["images"], manifest["unreadable"]["count"]) == (len(shop_rows()), 0)


def test_a_bucket_that_is_not_there_is_named(store: Store) -> None:
    code, said = store.job("ingest", "generated", "--workspace", "s3://nowhere/run", seconds=120)
    assert code == 2, said
    (line,) = said.splitlines()
    assert line.startswith("error: s3://nowhere/run/dataset can't be written to (Bucket 'nowhere' not found.")
    assert line.endswith("; choose a place that is there and is yours.")
