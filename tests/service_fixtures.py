"""One real service a session: generated photos, a small model, an index of two shards, two replicas of each."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from ray import serve
from serve_helpers import Photo, until

from fashion_dml.config import Embed, Generated, Index, Ingest, Model
from fashion_dml.data.decode import decode
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location
from jobs.build_index import BuildIndexSettings, build
from jobs.ingest import IngestSettings, ingest


def stored_photos(workspace: str) -> list[Photo]:
    dataset = Dataset.open(f"{workspace}/dataset")
    columns = ["image_id", "product_id", "vertical", "image"]
    rows = [
        row for part in dataset.parts() for row in pq.read_table(dataset.images_file(part).path, columns=columns).to_pylist()
    ]
    return [Photo(r["image_id"], r["product_id"], r["vertical"], r["image"]) for r in rows]


def small_model(photos: list[Photo], seed: int = 3) -> Embedder:
    """Random weights whose statistics fit these photos, so that it tells them apart."""
    torch.manual_seed(seed)
    module = Embedder(Model(trunk="test_efficientnet", weights="none", dim=32, batch_norm="live"), 64, 48).train()
    images = torch.from_numpy(np.stack([decode(p.data, 64, 48) for p in photos])).permute(0, 3, 1, 2)
    with torch.no_grad():
        for _ in range(30):
            module(images)
        module.eval()
        assert isinstance(module.head, torch.nn.Linear)
        module.head.bias.copy_(-(module.features(images) @ module.head.weight.T).mean(0))
    return module


@pytest.fixture(scope="session")
def settings(ray_local: str, tmp_path_factory: pytest.TempPathFactory) -> BuildIndexSettings:
    """A workspace with dataset and model; what to build its index with."""
    workspace = str(tmp_path_factory.mktemp("workspace"))
    drawn = Generated(products_per_vertical=8, verticals=3, max_variants=3, image_height=96, image_width=64)
    ingest(IngestSettings(workspace=workspace, ingest=Ingest(generated=drawn, short_side=64, shards=3)))
    save_model(Location.of(workspace) / "unified" / "model", small_model(stored_photos(workspace)))
    return BuildIndexSettings(workspace=workspace, index=Index(shards=2, thumbnail_side=48), embed=Embed(actors=1))


@pytest.fixture(scope="session")
def built(settings: BuildIndexSettings) -> dict[str, Any]:
    return build(settings)


@pytest.fixture(scope="session")
def photos(settings: BuildIndexSettings) -> list[Photo]:
    return stored_photos(settings.workspace)


@pytest.fixture(scope="session")
def address(settings: BuildIndexSettings, built: dict[str, Any]) -> Iterator[str]:
    from serve.app import start

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    url = start({"workspace": settings.workspace, "port": port, "hedge_s": 2})
    until(lambda: httpx.get(f"{url}/readyz", timeout=30).status_code == 200)
    yield url
    serve.shutdown()


@pytest.fixture
def client(address: str) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=address, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def page_files() -> set[str]:
    return {p.name for p in (Path(__file__).parents[1] / "serve" / "page").iterdir()}


@dataclass(frozen=True)
class Service:
    """A running service and photos of its catalogue; `item_ids` in the order of `photo_paths`."""

    url: str
    photo_paths: list[Path]
    item_ids: list[str]


@pytest.fixture(scope="session")
def service(address: str, photos: list[Photo], tmp_path_factory: pytest.TempPathFactory) -> Service:
    home = tmp_path_factory.mktemp("photos")
    chosen = photos[:: max(1, len(photos) // 6)]
    for photo in chosen:
        (home / f"{photo.item_id}.jpg").write_bytes(photo.data)
    return Service(address, [home / f"{p.item_id}.jpg" for p in chosen], [p.item_id for p in chosen])
