"""No reply of the service tells where files lie."""

from __future__ import annotations

import base64
import os
import re
from pathlib import Path

import httpx
import pytest

from jobs.benchmarks.hostile import LEAKS
from serve.auth import WRITE_TOKEN
from serve.static import PAGE

pytestmark = [pytest.mark.serve, pytest.mark.security]
ROOT = Path(__file__).parents[2]
UNIT = [1.0] + [0.0] * 31


def test_paths_are_noticed() -> None:
    for text in (
        'File "/app/x", line 1',
        f"{ROOT}/x",
        "/home/a/b",
        "/tmp/ray/session",
        "site-packages",
        "serve/api.py",
        "ray.exceptions.X",
        "Traceback",
    ):
        assert LEAKS.search(text) or text.startswith(str(ROOT))
    for text in ("/v1/items/a/image", "/docs", "a valid array.", "image/jpeg"):
        assert not LEAKS.search(text)


def test_replies_hold_no_path(client: httpx.Client, photos, settings) -> None:
    token = {"Authorization": f"Bearer {os.environ[WRITE_TOKEN]}"}
    photo, picture = photos[0], {"image": ("/etc/x.jpg", photos[0].data, "image/jpeg")}
    replies = [
        client.post("/v1/search", json={"vector": UNIT, "k": 200}),
        client.post("/v1/search", files=picture),
        client.post("/v1/search", json={"image_base64": base64.b64encode(photo.data[:999]).decode()}),
        client.post("/v1/search", json={"vector": UNIT, "verticals": ["nowhere"]}),
        client.post("/v1/search", json={"vector": UNIT, "attributes": {"nothing": ["x"]}}),
        client.post("/v1/search", json={"vector": UNIT, "catalog_at_least": 10**9}),
        client.put("/v1/items/new-p", headers=token, json={"product_id": "a b", "vertical": "hats", "vector": UNIT}),
        client.put("/v1/items/new-p", json={}),
        *(client.get(f"/v1/{name}") for name in (f"items/{photo.item_id}", "items/nobody", "index", "nothing")),
        *(client.get(path) for path in ("/readyz", "/healthz", "/openapi.json", "/page/nothing.js", "/page/%2e%2e", "/static-offline-docs/nothing.js")),
    ]  # fmt: skip
    for reply in replies:
        told = f"{dict(reply.headers)} {reply.text}"
        assert not LEAKS.search(told), told[:300]
        for place in (settings.workspace, ROOT, PAGE, Path.home()):
            assert not re.search(rf"{re.escape(str(place))}\b", told), told[:300]
