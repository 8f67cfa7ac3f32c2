"""Bad requests: the right status, a code, one sentence; no stack trace, no path, and the service goes on."""

from __future__ import annotations

import base64
import io
import json
import struct
import zlib

import httpx
import numpy as np
import pytest
from PIL import Image

from serve.limits import BODY_BYTES

pytestmark = pytest.mark.serve


def png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds nothing."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def tiff() -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8)).save(buffer, "TIFF")
    return buffer.getvalue()


UNIT = [1.0] + [0.0] * 31
JSON = {
    "k 0": ({"vector": UNIT, "k": 0}, "k_out_of_range"),
    "k 201": ({"vector": UNIT, "k": 201}, "k_out_of_range"),
    "k 1e9": ({"vector": UNIT, "k": 10**9}, "k_out_of_range"),
    "k text": ({"vector": UNIT, "k": "10"}, "k_out_of_range"),
    "nothing": ({}, "one_query_needed"),
    "two": ({"vector": UNIT, "item_id": "a"}, "one_query_needed"),
    "dimension": ({"vector": [1.0, 2.0]}, "bad_vector"),
    "zero": ({"vector": [0.0] * 32}, "bad_vector"),
    "text in vector": ({"vector": ["1"] * 32}, "bad_vector"),
    "huge vector": ({"vector": [1.0] * 5000}, "bad_vector"),
    "id path": ({"item_id": "../../etc/passwd"}, "bad_item_id"),
    "id long": ({"item_id": "a" * 129}, "bad_item_id"),
    "id nul": ({"item_id": "a\0b"}, "bad_item_id"),
    "vertical": ({"vector": UNIT, "verticals": ["nowhere"]}, "unknown_vertical"),
    "many verticals": ({"vector": UNIT, "verticals": ["hats"] * 10_000}, "bad_field"),
    "group": ({"vector": UNIT, "group_by": "colour"}, "bad_field"),
    "extra": ({"vector": UNIT, "image_url": "http://169.254.169.254/"}, "unknown_field"),
    "base64": ({"image_base64": "@@@"}, "bad_base64"),
    "not an image": ({"image_base64": base64.b64encode(b"hello").decode()}, "bad_image"),
    "empty image": ({"image_base64": ""}, "bad_image"),
    "crop order": ({"image_base64": "aaaa", "crop": [0.5, 0, 0.2, 1]}, "bad_crop"),
    "crop outside": ({"image_base64": "aaaa", "crop": [0, 0, 1, 2]}, "bad_crop"),
    "crop of three": ({"image_base64": "aaaa", "crop": [0, 0, 1]}, "bad_crop"),
    "crop of a vector": ({"vector": UNIT, "crop": [0, 0, 1, 1]}, "bad_crop"),
    "coverage": ({"vector": UNIT, "min_coverage": 1.5}, "bad_field"),
    "a list": ([1, 2], "bad_body"),
}
RAW = {
    "not json": (b"{", "bad_json"),
    "nan": (json.dumps({"vector": [float("nan")] * 32}).encode(), "bad_vector"),
    "infinity": (b'{"vector": [' + b", ".join([b"1e999"] * 32) + b"]}", "bad_vector"),
    "deep": (b'{"vector": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "bad_json"),
    "deeper": (b'{"vector": ' + b"[" * 50_000 + b"]" * 50_000 + b"}", "too_many_values"),
    "not utf-8": (b'{"item_id": "\xff"}', "bad_json"),
}
IMAGES = {
    "empty": (b"", "bad_image"),
    "text": (b"hello", "bad_image"),
    "bomb": (png_header(100_000, 100_000), "image_too_large"),
    "64 megapixels": (png_header(8000, 8000), "image_too_large"),
    "torn png": (png_header(64, 64), "bad_image"),
    "tiff": (tiff(), "bad_image"),
    "svg": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "bad_image"),
}
QUERIES = {
    "k": ({"k": "x"}, "k_out_of_range"),
    "crop": ({"crop": "0,0,1"}, "bad_crop"),
    "crop nan": ({"crop": "nan,0,1,1"}, "bad_crop"),
    "unknown": ({"verticls": "bags"}, "unknown_field"),
    "twice": ([("k", "1"), ("k", "2")], "bad_field"),
}


def refused(reply: httpx.Response, status: int, code: str) -> dict:
    assert reply.status_code == status, reply.text
    error = reply.json()["error"]
    assert error["code"] == code, error
    assert error["message"].endswith(".")
    assert len(error["message"]) < 400
    assert not any(word in reply.text for word in ("Traceback", "/work", ".py", "site-packages", "ray.exceptions"))
    return error


@pytest.mark.parametrize("case", JSON)
def test_json(client, case):
    body, code = JSON[case]
    error = refused(client.post("/v1/search", json=body), 422, code)
    if code == "k_out_of_range":
        assert error["limit"] == 200
    if code == "unknown_vertical":
        assert "known are" in error["message"]


@pytest.mark.parametrize("case", RAW)
def test_raw_json(client, case):
    body, code = RAW[case]
    refused(client.post("/v1/search", content=body, headers={"Content-Type": "application/json"}), 422, code)


@pytest.mark.parametrize("case", IMAGES)
def test_images(client, case):
    data, code = IMAGES[case]
    refused(client.post("/v1/search", files={"image": ("x.jpg", data, "image/jpeg")}), 422, code)


@pytest.mark.parametrize("case", QUERIES)
def test_query_string(client, photos, case):
    params, code = QUERIES[case]
    refused(client.post("/v1/search", params=params, files={"image": photos[0].data}), 422, code)


def test_truncated_photo(client, photos):
    refused(client.post("/v1/search", files={"image": photos[0].data[: len(photos[0].data) // 2]}), 422, "bad_image")


def test_forms(client, photos):
    refused(client.post("/v1/search", files={"picture": photos[0].data}), 422, "no_image")
    option = client.post("/v1/search", files={"image": photos[0].data}, data={"k": "5"})
    assert "'k'" in refused(option, 422, "unknown_field")["message"]
    second = client.post("/v1/search:batch", files={"image": photos[0].data, "second": photos[1].data})
    assert "'second'" in refused(second, 422, "unknown_field")["message"]
    refused(client.post("/v1/search", files=[("image", photos[0].data), ("image", photos[1].data)]), 422, "bad_form")
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    refused(client.post("/v1/search", content=b"--y\r\nnothing", headers=broken), 422, "bad_form")
    refused(client.post("/v1/search", content=b"x", headers={"Content-Type": "multipart/form-data"}), 422, "bad_form")
    refused(client.post("/v1/search", content=b"k=1", headers={"Content-Type": "text/plain"}), 415, "bad_content_type")


def test_unknown_items_and_routes(client):
    for path in ("/v1/items/nobody", "/v1/items/nobody/image"):
        refused(client.get(path), 404, "unknown_item")
    refused(client.post("/v1/search", json={"item_id": "nobody"}), 404, "unknown_item")
    refused(client.get("/v1/items/..%00"), 422, "bad_item_id")
    refused(client.get("/nowhere"), 404, "not_found")
    refused(client.get("/v1/search"), 405, "method_not_allowed")


def test_large_bodies(client):
    json_type = {"Content-Type": "application/json"}
    refused(client.post("/v1/search", content=b" " * (BODY_BYTES + 1), headers=json_type), 413, "body_too_large")
    sent = 0

    def endless():  # chunked: no length is declared
        nonlocal sent
        while sent < 4 * BODY_BYTES:
            sent += 1 << 16
            yield b" " * (1 << 16)

    try:
        refused(client.post("/v1/search", content=endless(), headers=json_type), 413, "body_too_large")
    except (httpx.WriteError, httpx.RemoteProtocolError):
        assert sent < 4 * BODY_BYTES  # the connection was closed on us before all was sent
    assert client.post("/v1/search", json={"vector": UNIT}).status_code == 200


def test_many_at_once(client, address, photos):
    """Hostile requests between good ones change nothing for the good ones."""
    good = client.post("/v1/search", json={"vector": UNIT}).json()["results"]
    for _ in range(5):
        client.post("/v1/search", files={"image": IMAGES["bomb"][0]})
        assert client.post("/v1/search", json={"vector": UNIT}).json()["results"] == good
    assert np.isfinite([r["score"] for r in good]).all()
