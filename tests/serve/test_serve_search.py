"""Searches over HTTP find what the library finds."""

from __future__ import annotations

import base64
import io
import json

import httpx
import numpy as np
import pytest
from PIL import Image
from test_serve_live import as_before, writer  # noqa: F401  (fixtures)

from fashion_dml.inference.encode import Encoder

pytestmark = pytest.mark.serve


@pytest.fixture(scope="module")
def encoder(settings) -> Encoder:
    return Encoder(f"{settings.workspace}/unified/model", threads=1)


@pytest.fixture(scope="module")
def vectors(encoder: Encoder, photos) -> np.ndarray:
    return np.concatenate([encoder.encode([p.data]) for p in photos])


def expected(photos, vectors, query, k, verticals=None, grouped=False) -> list[str]:
    scores = (vectors.astype(np.float64) * query.astype(np.float64)).sum(1).astype(np.float32)
    rows = sorted(range(len(photos)), key=lambda i: (-scores[i], photos[i].item_id))
    rows = [i for i in rows if verticals is None or photos[i].vertical in verticals]
    if grouped:
        first: dict[str, int] = {}
        for i in rows:
            first.setdefault(photos[i].product_id, i)
        rows = list(first.values())
    return [photos[i].item_id for i in rows[:k]]


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [r["item_id"] for r in reply.json()["results"]]


def test_a_photo_finds_itself(client, photos, built):
    for photo in photos[::5]:
        reply = client.post("/v1/search", params={"k": 5}, files={"image": ("photo.jpg", photo.data, "image/jpeg")})
        body = reply.json()
        first = body["results"][0]
        assert (first["item_id"], first["product_id"], first["vertical"]) == (photo.item_id, photo.product_id, photo.vertical)
        assert first["score"] > 0.9999
        assert len(body["results"]) == body["k"] == 5
        assert (body["coverage"], body["index"], body["model"]) == (1.0, built["version"], built["model"][:12])
        assert set(body["milliseconds"]) == {"decode", "encode", "search", "total"}
        assert all(v > 0 for v in body["milliseconds"].values())


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("some", [False, True])
def test_every_option_equals_brute_force(client, photos, vectors, grouped, some):
    names = sorted({p.vertical for p in photos})
    verticals = names[:2] if some else None
    for i in (0, 7, 20):
        asked = (
            {"vector": vectors[i].tolist(), "k": 12}
            | ({"verticals": verticals} if some else {})
            | ({"group_by": "product"} if grouped else {})
        )
        assert ids(client.post("/v1/search", json=asked)) == expected(photos, vectors, vectors[i], 12, verticals, grouped)
        query = [("k", "12"), *(("vertical", v) for v in verticals or []), *([("group_by", "product")] if grouped else [])]
        by_photo = ids(client.post("/v1/search", params=query, files={"image": photos[i].data}))
        assert by_photo == expected(photos, vectors, vectors[i], 12, verticals, grouped)


def test_base64_item_and_vector_agree(client, photos, vectors):
    photo = photos[3]
    by_item = client.post("/v1/search", json={"item_id": photo.item_id, "k": 200})
    by_image = client.post("/v1/search", json={"image_base64": base64.b64encode(photo.data).decode(), "k": 200})
    by_vector = client.post("/v1/search", json={"vector": (vectors[3] * 1e30).tolist(), "k": 200})
    assert ids(by_item)[0] == photo.item_id
    assert set(ids(by_item)) == set(ids(by_image)) == set(ids(by_vector)) == {p.item_id for p in photos}


def test_the_service_embeds_as_the_library_does(client, photos, vectors):
    """The score of an image against an item is the library's inner product: same letterbox, same model."""
    query = 11
    reply = client.post("/v1/search", params={"k": 200}, files={"image": photos[query].data}).json()
    scores = {r["item_id"]: r["score"] for r in reply["results"]}
    for photo, vector in zip(photos, vectors, strict=True):
        assert abs(scores[photo.item_id] - float(vector @ vectors[query])) < 1e-5


def test_crop_is_of_the_upright_image(client, photos, encoder):
    image = Image.open(io.BytesIO(photos[5].data)).convert("RGB")
    frame = Image.new("RGB", (image.width * 2, image.height * 2), (20, 200, 40))
    frame.paste(image, (image.width, 0))
    turned, exif = frame.transpose(Image.Transpose.ROTATE_90), Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise
    buffer = io.BytesIO()
    turned.save(buffer, "PNG", exif=exif)
    params = {"k": 1, "crop": "0.5,0,1,0.5"}
    first = client.post("/v1/search", params=params, files={"image": buffer.getvalue()}).json()["results"][0]
    assert first["item_id"] == photos[5].item_id
    assert first["score"] > 0.9999
    whole = client.post("/v1/search", params={"k": 200}, files={"image": buffer.getvalue()}).json()["results"]
    assert next(r["score"] for r in whole if r["item_id"] == photos[5].item_id) < 0.9999


def test_items_and_thumbnails(client, photos):
    for photo in photos[::9]:
        item = client.get(f"/v1/items/{photo.item_id}").json()
        assert (item["item_id"], item["product_id"], item["vertical"]) == (photo.item_id, photo.product_id, photo.vertical)
        assert item["attributes"]
        assert "score" not in item
        reply = client.get(item["image_url"])
        assert reply.headers["content-type"] == "image/jpeg"
        assert reply.headers["cache-control"] == "public, max-age=31536000, immutable"
        bare = client.get(f"/v1/items/{photo.item_id}/image")
        assert (bare.content, bare.headers["cache-control"]) == (reply.content, "public, no-cache")
        assert max(Image.open(io.BytesIO(reply.content)).size) == 48
        again = client.get(item["image_url"], headers={"If-None-Match": reply.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
        for tags in (f'"other", W/{reply.headers["etag"]}', "*"):
            assert client.get(item["image_url"], headers={"If-None-Match": tags}).status_code == 304
        assert client.get(item["image_url"], headers={"If-None-Match": '"other"'}).status_code == 200


def test_index_describes_the_catalogue(client, photos, built):
    index = client.get("/v1/index").json()
    assert (index["version"], index["dim"], index["kind"], index["shards"]) == (built["version"], 32, "flat", 2)
    assert (index["items"], index["products"]) == (len(photos), len({p.product_id for p in photos}))
    for vertical in index["verticals"]:
        own = [p for p in photos if p.vertical == vertical["name"]]
        assert (vertical["items"], vertical["products"]) == (len(own), len({p.product_id for p in own}))


def test_page_and_health(client, page_files):
    page = client.get("/")
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    for name in page_files:
        assert client.get(f"/page/{name}").status_code == 200
    for missing in ("nothing.js", "..%2Fapp.py", "%2e%2e/app.py", "app.py"):
        assert client.get(f"/page/{missing}").status_code == 404
    assert client.get("/healthz").json() == {"status": "ok"}
    assert client.get("/readyz").json()["ready"] is True
    assert client.get("/docs").status_code == 200
    paths = client.get("/openapi.json").json()["paths"]
    for path in ("/v1/search", "/v1/search:batch"):
        assert set(paths[path]["post"]["requestBody"]["content"]) == {"application/json", "multipart/form-data"}


def test_every_example_of_the_document_is_taken(client, writer, photos):  # noqa: F811
    """Those with a photo or vectors to fill in, and items of another catalogue, have ours instead."""
    ours = {
        "gen-shoes-000004-0": photos[0].item_id,
        "gen-shoes-000007-0": photos[1].item_id,
        "gen-shoes-000001-0": photos[2].item_id,
    }
    fill = {
        "vectors_base64": base64.b64encode(np.eye(32, dtype="<f4")[:2].tobytes()),
        "image_base64": base64.b64encode(photos[0].data),
    }
    column, values = next(iter(client.get("/v1/index").json()["attributes"].items()))
    tried = 0
    for path, methods in client.get("/openapi.json").json()["paths"].items():
        for method, route in methods.items():
            for example in (
                route.get("requestBody", {}).get("content", {}).get("application/json", {}).get("examples", {}).values()
            ):
                text = json.dumps(example["value"])
                for name, value in ours.items():
                    text = text.replace(name, value)
                for name, value in fill.items():
                    text = text.replace(f'"{name}": "..."', f'"{name}": "{value.decode()}"')
                text = text.replace('"shoes"', f'"{photos[0].vertical}"').replace('["Black", "Red"]', json.dumps(values))
                text = text.replace('"colour"', f'"{column}"').replace('"Red"', f'"{values[0]}"').replace("sku-7", "new-7")
                sent = {"content": text, "headers": {"content-type": "application/json"}}
                reply = writer.request(method, path.replace("{item_id}", "new-8"), **sent)
                assert reply.status_code == 200, (path, text[:300], reply.text)
                tried += 1
    assert tried >= 8
