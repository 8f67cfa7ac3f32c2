"""A service under load for drills: a small workspace, searches without a pause, and every reply looked at."""

from __future__ import annotations

import base64
import itertools
import json
import os
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.client import HTTPException
from typing import Any

import psutil
import pyarrow.parquet as pq
import torch

from fashion_dml.config import Embed, Generated, Index, Ingest, Model
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location
from jobs.build_index import BuildIndexSettings, build
from jobs.ingest import IngestSettings, ingest

K = 200  # all items of the small catalogue, so that what a shard holds can be told from what is there


def small_workspace(root: str, shards: int) -> list[bytes]:
    """Dataset of drawn photos, an untrained model and an index under `root`; the first photos, encoded. Needs Ray."""
    drawn = Generated(products_per_vertical=10, verticals=3, max_variants=3, image_height=96, image_width=64)
    ingest(IngestSettings(workspace=root, ingest=Ingest(generated=drawn, short_side=64, shards=4)))
    torch.manual_seed(0)
    model = Embedder(Model(trunk="test_efficientnet", weights="none", dim=32), 64, 48).eval()
    save_model(Location.of(root) / "unified" / "model", model)
    build(BuildIndexSettings(workspace=root, index=Index(shards=shards), embed=Embed(actors=1)))
    dataset = Dataset.open(f"{root}/dataset")
    return pq.read_table(dataset.images_file(dataset.parts()[0]).path, columns=["image"])["image"].to_pylist()[:4]


@dataclass(frozen=True)
class Reply:
    """One search: when it began (of time.monotonic()), how long it took, its status (0: no HTTP answer), share of the index."""

    began: float
    seconds: float
    status: int
    coverage: float
    wrong: str = ""


def post(url: str, body: dict[str, Any], timeout_s: float) -> tuple[int, dict[str, Any]]:
    """(status, content) of a POST; status 0 where no answer came."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, {}
    except (OSError, HTTPException, ValueError):
        return 0, {}


def ready(url: str) -> bool:
    """Whether encoder and all shards answer."""
    try:
        with urllib.request.urlopen(f"{url}/readyz", timeout=10) as reply:
            return bool(reply.status == 200)
    except (OSError, HTTPException):
        return False


@dataclass
class Load:
    """Threads that search by photo and compare each reply with the answers of the undisturbed service."""

    url: str
    photos: list[bytes]
    rows: tuple[int, ...]  # of each shard
    timeout_s: float
    threads: int = 2
    replies: list[Reply] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._bodies = [{"image_base64": base64.b64encode(p).decode(), "k": K} for p in self.photos]
        self._known = [post(f"{self.url}/v1/search", body, 60)[1]["results"] for body in self._bodies]
        self._stop = threading.Event()
        self._running = [threading.Thread(target=self._run, args=(n,)) for n in range(self.threads)]

    def __enter__(self) -> Load:
        for thread in self._running:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._running:
            thread.join()

    def _run(self, first: int) -> None:
        for turn in itertools.count(first):
            if self._stop.is_set():
                return
            n, began = turn % len(self._bodies), time.monotonic()
            status, body = post(f"{self.url}/v1/search", self._bodies[n], self.timeout_s)
            coverage = float(body.get("coverage", 0))
            wrong = self._wrong(n, body) if status == 200 else ""
            self.replies.append(Reply(began, time.monotonic() - began, status, coverage, wrong))
            if status == 0:
                self._stop.wait(0.05)  # nobody listens just now

    def _wrong(self, n: int, body: dict[str, Any]) -> str:
        """What is wrong with an answer: other items, scores or order than undisturbed, or a coverage that isn't its own."""
        found = [(r["item_id"], r["score"]) for r in body["results"]]
        there = {i for i, _ in found}
        expected = [(r["item_id"], r["score"]) for r in self._known[n] if r["item_id"] in there]
        if [i for i, _ in found] != [i for i, _ in expected]:
            return f"order {[i for i, _ in found][:5]}, not {[i for i, _ in expected][:5]}"
        if any(abs(a - b) > 2e-6 for (_, a), (_, b) in zip(found, expected, strict=True)):
            return f"scores {found[:3]}, not {expected[:3]}"
        total = sum(self.rows)
        if abs(body["coverage"] - len(found) / total) > 1e-9:
            return f"coverage {body['coverage']} with {len(found)} of {total} items"
        return ""


def processes(roots: list[int], title: str) -> list[psutil.Process]:
    """Processes below these pids whose title begins so, or whose program has this name."""
    found = []
    for process in _below(roots):
        try:
            name = "".join(process.cmdline()[:1])
            if name.startswith(title) or os.path.basename(name) == title:
                found.append(process)
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
    return found


def _below(roots: list[int]) -> Iterator[psutil.Process]:
    for pid in roots:
        if psutil.pid_exists(pid):
            yield from psutil.Process(pid).children(recursive=True)
