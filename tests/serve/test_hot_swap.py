"""Another index version, and another model, go live under load: no request fails, no answer mixes two, and back again."""

from __future__ import annotations

import base64
import itertools
import os
import shutil
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import ray
from ray import serve
from ray.serve.schema import ServeDeploySchema
from ray.util import list_named_actors
from serve_helpers import Photo, until
from service_fixtures import small_model

from fashion_dml.index.manifest import IndexManifest, activate, index_root, load, model_dir
from fashion_dml.inference.encode import Encoder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location
from jobs.build_index import BuildIndexSettings, build
from serve.app import build as application
from serve.shards import actor_name

pytestmark = pytest.mark.serve
TOKEN = {"authorization": f"Bearer {os.environ['FASHION_DML_TOKEN']}"}
SWAPS, MODEL_SWAPS = 12, 3  # in `make test-all` 50 and 5


@dataclass
class Swapped:
    """A service of its own over four versions: two of each of two models, one shard or two."""

    client: httpx.Client
    index: Location
    versions: list[IndexManifest]
    workspace: str

    def activate(self, version: str) -> None:
        reply = until(
            lambda: (
                (r := self.client.post("/v1/index:activate", json={"version": version}, headers=TOKEN)).status_code != 202 and r
            )
        )
        assert reply.status_code == 200, reply.text


@pytest.fixture(scope="module")
def swapped(address: str, settings: BuildIndexSettings, photos: list[Photo], tmp_path_factory) -> Iterator[Swapped]:
    home = str(tmp_path_factory.mktemp("swapped"))
    for name in ("dataset", "unified", "embeddings"):
        shutil.copytree(f"{settings.workspace}/{name}", f"{home}/{name}")
    root, made = index_root(Location.of(home)), []
    for seed, shards in ((3, 2), (3, 1), (4, 2), (4, 3)):
        if len(made) == 2:
            save_model(Location.of(home) / "unified" / "model", small_model(photos, seed=seed))
        index = settings.index.model_copy(update={"shards": shards, "keep_versions": 9})
        made.append(load(root, build(settings.model_copy(update={"workspace": home, "index": index}))["version"]))
    app = application({"workspace": home, "shard_replicas": 1, "ingress_replicas": 2, "index_poll_s": 0.2, "ingress_cpus": 0.1,
                       "encoder": "deployment", "encoder_cpus": 0.1, "shard_cpus": 0.05})  # fmt: skip
    serve.run(app, name="swapped", route_prefix="/swapped")
    with httpx.Client(base_url=f"{address}/swapped", timeout=60) as client:
        until(lambda: client.get("/readyz").status_code == 200)
        yield Swapped(client, root, made, home)
    serve.delete("swapped")


def expected(swapped: Swapped, photo: Photo, k: int) -> dict[str, list[tuple[str, float]]]:
    """version -> what a search for this photo must find there: computed by the version's own model over all photos."""
    found = {}
    for manifest in swapped.versions:
        encoder = Encoder(model_dir(swapped.index, manifest.model))
        dataset = stored(swapped)
        scores = encoder.encode([p.data for p in dataset]) @ encoder.encode([photo.data])[0]
        order = np.argsort(-scores, kind="stable")[:k]
        found[manifest.version] = [(dataset[i].item_id, float(scores[i])) for i in order]
    return found


def stored(swapped: Swapped) -> list[Photo]:
    from service_fixtures import stored_photos

    return stored_photos(swapped.workspace)


def shard_process(application: str) -> int:
    """The process of the application's first shard actor; 0 while it is away."""
    for entry in list_named_actors(all_namespaces=True):
        if application in entry["name"] and entry["name"].endswith(f"::{actor_name(0, 0)}"):
            with suppress(ray.exceptions.RayActorError, ValueError):
                actor = ray.get_actor(entry["name"], namespace=entry["namespace"])
                return ray.get(actor.process.remote(), timeout=30)["pid"]
    return 0


class Load:
    """Searches without a pause while versions change; every reply is looked at."""

    def __init__(self, swapped: Swapped, photo: Photo) -> None:
        self._swapped, self._photo = swapped, photo
        self._expected = expected(swapped, photo, 5)
        self._models = {m.version: m.model[:12] for m in swapped.versions}
        self.seen: list[str] = []
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(n,)) for n in range(3)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        bodies = itertools.cycle(
            [{"item_id": self._photo.item_id}, {"image_base64": base64.b64encode(self._photo.data).decode()}]
        )
        with httpx.Client(base_url=self._swapped.client.base_url, timeout=60) as client:
            while not self._stop.is_set():
                reply = client.post("/v1/search", json={"k": 5, "min_coverage": 1.0} | next(bodies))
                if problem := self._problem(reply):
                    self.wrong.append(problem)

    def _problem(self, reply: httpx.Response) -> str:
        if reply.status_code != 200:
            return f"{reply.status_code} {reply.text}"
        body = reply.json()
        version = body["index"]
        self.seen.append(version)
        if body["model"] != self._models[version]:
            return f"model {body['model']} with index {version}"
        known = self._expected[version]
        scores = [r["score"] for r in body["results"]]
        if not np.allclose(scores, [s for _, s in known], atol=2e-5):
            return f"scores {scores} of {version}, not {known}"
        return ""


def changed_under_load(swapped: Swapped, photo: Photo, versions: list[str]) -> None:
    with Load(swapped, photo) as load:
        for version in versions:
            swapped.activate(version)
            before = len(load.seen)
            until(lambda before=before: len(load.seen) > before + 3)  # that began after the change, in part
            replies = {swapped.client.get("/v1/index").json()["version"] for _ in range(6)}
            assert replies == {version}  # every replica serves it
    assert not load.wrong, load.wrong[:3]
    assert set(versions) <= set(load.seen)


def test_versions_of_one_model_change_under_load(swapped: Swapped, photos: list[Photo]):
    names = [m.version for m in swapped.versions[:2]]
    changed_under_load(swapped, photos[0], [names[(n + 1) % 2] for n in range(SWAPS)])


def test_models_change_under_load(swapped: Swapped, photos: list[Photo]):
    names = [m.version for m in swapped.versions]
    changed_under_load(swapped, photos[1], [names[2 + n % 2] if n % 2 == 0 else names[0] for n in range(MODEL_SWAPS)])


@pytest.mark.slow
def test_fifty_versions_and_five_models(swapped: Swapped, photos: list[Photo]):
    names = [m.version for m in swapped.versions]
    changed_under_load(swapped, photos[2], [names[(n + 1) % 2] for n in range(50)])
    changed_under_load(swapped, photos[2], [names[(2, 0, 3, 1, 2)[n]] for n in range(5)])


def test_whoever_writes_current_changes_the_live_version(swapped: Swapped):
    """As `jobs.build_index --activate true` does, and a rollback by `--live`."""
    for manifest in (swapped.versions[1], swapped.versions[2], swapped.versions[0]):
        activate(swapped.index, manifest.version)
        until(lambda v=manifest.version: {swapped.client.get("/v1/index").json()["version"] for _ in range(4)} == {v})
    assert not (
        Path(swapped.index.path) / "used"
    ).exists()  # a service that follows CURRENT keeps no version from being deleted


def test_changes_go_with_the_catalogue_from_model_to_model(swapped: Swapped, photos: list[Photo]):
    """An item that came over HTTP is found after another model has gone live, by that model; and after the way back."""
    swapped.activate(swapped.versions[0].version)
    picture = base64.b64encode(photos[4].data).decode()
    item = {"product_id": "new", "vertical": photos[4].vertical, "image_base64": picture}
    put = swapped.client.put("/v1/items/brought", json=item, headers=TOKEN)
    assert put.status_code == 200, put.text
    for manifest in (swapped.versions[2], swapped.versions[1]):
        swapped.activate(manifest.version)
        reply = swapped.client.post(
            "/v1/search", json={"image_base64": picture, "k": 3, "catalog_at_least": put.json()["catalog"]}
        )
        assert reply.status_code == 200, reply.text
        best = {r["item_id"]: r["score"] for r in reply.json()["results"]}
        assert best["brought"] > 0.9, best  # its thumbnail is smaller than the photo, so it isn't 1
        assert reply.json()["model"] == manifest.model[:12]
    second = swapped.client.put("/v1/items/brought-too", json=item, headers=TOKEN)
    swapped.activate(swapped.versions[3].version)
    gone = swapped.client.delete("/v1/items/brought", headers=TOKEN)
    assert gone.status_code == second.status_code == 200
    found = swapped.client.post(
        "/v1/search", json={"image_base64": picture, "k": 3, "catalog_at_least": gone.json()["catalog"]}
    )
    ids = [r["item_id"] for r in found.json()["results"]]
    assert "brought-too" in ids
    assert "brought" not in ids
    assert swapped.client.delete("/v1/items/brought-too", headers=TOKEN).status_code == 200


@pytest.mark.slow
def test_a_config_pins_a_version_and_changes_it_in_place(swapped: Swapped, address: str, photos: list[Photo]):
    """By the file for `serve deploy`: the same replicas, another version, no failed request."""
    first, second = swapped.versions[0].version, swapped.versions[2].version
    activate(swapped.index, second)
    args = {"workspace": swapped.workspace, "shard_replicas": 1, "ingress_cpus": 0.1, "encoder_cpus": 0.1, "shard_cpus": 0.05}

    def deploy(version: str) -> None:
        search = {"name": "search", "user_config": {"index": version}}
        app = {
            "name": "pinned",
            "route_prefix": "/pinned",
            "import_path": "serve.app:build",
            "args": args,
            "deployments": [search],
        }
        serve.context._get_global_client().deploy_apps(ServeDeploySchema.model_validate({"applications": [app]}))

    def replicas() -> set[str]:
        named = list_named_actors(all_namespaces=True)
        return {entry["name"] for entry in named if entry["name"].startswith("SERVE_REPLICA::pinned#")}

    deploy(first)
    try:
        with httpx.Client(base_url=f"{address}/pinned", timeout=60) as client:
            until(lambda: client.get("/readyz").status_code == 200, 120)
            there = replicas()
            pinned = Swapped(client, swapped.index, swapped.versions, swapped.workspace)
            assert client.get("/v1/index").json()["version"] == first
            refused = client.post("/v1/index:activate", json={"version": second}, headers=TOKEN)
            assert (refused.status_code, refused.json()["error"]["code"]) == (409, "index_pinned")
            with Load(pinned, photos[0]) as load:
                deploy(second)
                until(lambda: client.get("/v1/index").json()["version"] == second)
                deploy(first)
                until(lambda: client.get("/v1/index").json()["version"] == first)
                deploy("")
                until(lambda: client.get("/v1/index").json()["version"] == second)
            assert not load.wrong, load.wrong[:3]
            assert replicas() == there
    finally:
        serve.delete("pinned")


def test_a_version_that_cannot_be_opened_changes_nothing(swapped: Swapped):
    """A copy of a version, one bit of it turned: nobody may have it open, as they may others that were live before."""
    live, broken = swapped.versions[0].version, "20990101T000000Z-broken00"
    swapped.activate(live)
    home = Path(swapped.index.path) / "versions"
    shutil.copytree(home / swapped.versions[1].version, home / broken)
    try:
        file = home / broken / "shard-00000" / "items.arrow"
        whole = file.read_bytes()
        file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
        reply = swapped.client.post("/v1/index:activate", json={"version": broken}, headers=TOKEN)
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "version_unusable"), reply.text
        assert str(swapped.index) not in reply.text
        assert swapped.client.get("/v1/index").json()["version"] == live
        activate(swapped.index, broken)  # CURRENT names it all the same
        until(lambda: "index_problem" in swapped.client.get("/readyz").json())
        until(lambda: (Path(swapped.index.path) / "used" / live).exists())
        vector = {"vector": [1.0] * 32}
        assert swapped.client.post("/v1/search", json=vector).json()["index"] == live
        victim = shard_process("swapped")
        os.kill(victim, signal.SIGKILL)  # its next life begins with the version that CURRENT names
        until(lambda: shard_process("swapped") not in (0, victim))
        reply = until(lambda: (r := swapped.client.post("/v1/search", json=vector).json()).get("coverage") == 1.0 and r)
        assert reply["index"] == live
        file.write_bytes(whole)  # restored from a backup
        until(lambda: swapped.client.get("/v1/index").json()["version"] == broken)
    finally:
        swapped.activate(live)
        shutil.rmtree(home / broken)


def test_a_version_that_cannot_follow_the_catalogue_changes_nothing(swapped: Swapped, photos: list[Photo]):
    """The live version has read the log before a file of it was damaged; another one would have to read it."""
    swapped.activate(swapped.versions[0].version)
    item = {"product_id": "new", "vertical": photos[4].vertical, "vector": [1.0] + [0.0] * 31}
    put = swapped.client.put("/v1/items/late", json=item, headers=TOKEN)
    seen = {"vector": item["vector"], "k": 1, "catalog_at_least": put.json()["catalog"]}
    assert swapped.client.post("/v1/search", json=seen).json()["results"][0]["item_id"] == "late"
    damaged = {f: f.read_bytes() for f in (Path(swapped.workspace) / "catalog").glob("changes-*.parquet")}
    try:
        for file, whole in damaged.items():
            file.write_bytes(whole[:100])
        body = {"version": swapped.versions[1].version}
        reply = until(
            lambda: (r := swapped.client.post("/v1/index:activate", json=body, headers=TOKEN)).status_code != 202 and r
        )
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "version_unusable"), reply.text
        found = swapped.client.post("/v1/search", json=seen).json()
        assert (found["index"], found["results"][0]["item_id"]) == (swapped.versions[0].version, "late")
    finally:
        for file, whole in damaged.items():
            file.write_bytes(whole)
    assert swapped.client.delete("/v1/items/late", headers=TOKEN).status_code == 200


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({"version": "20200101T000000Z-00000000"}, 404, "unknown_version"),
        ({"version": "../../etc"}, 404, "unknown_version"),
        ({"version": 3}, 422, "bad_field"),
        ({}, 422, "bad_field"),
        ({"version": "x", "now": True}, 422, "unknown_field"),
    ],
)
def test_bad_activations_are_refused(swapped: Swapped, body: dict, status: int, code: str):
    reply = swapped.client.post("/v1/index:activate", json=body, headers=TOKEN)
    assert (reply.status_code, reply.json()["error"]["code"]) == (status, code), reply.text


def test_only_who_may_change_the_catalogue_activates(swapped: Swapped):
    body = {"version": swapped.versions[0].version}
    assert swapped.client.post("/v1/index:activate", json=body).status_code == 401
