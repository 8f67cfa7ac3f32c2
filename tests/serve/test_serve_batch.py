"""Many searches in one request: what each finds alone; refused whole, with the place of what is wrong."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import pytest
from test_serve_refusals import UNIT, refused

from serve import limits
from serve.query import unit_vectors

pytestmark = pytest.mark.serve
BATCH = "/v1/search:batch"
OPTIONS = [
    {"k": 7},
    {"k": 5, "group_by": "product", "offset": 3},
    {"k": 200, "verticals": ["dresses"]},
    {"k": 4, "exclude_self": True, "group_by": "product", "with_vector": True},
]


def packed(vectors: np.ndarray) -> str:
    return base64.b64encode(vectors.astype("<f4").tobytes()).decode()


def vectors(count: int) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((count, 32)).astype(np.float32)


def alone(client: httpx.Client, query: dict, options: dict) -> dict:
    reply = client.post("/v1/search", json=query | options)
    assert reply.status_code == 200, reply.text
    return {name: value for name, value in reply.json().items() if name in ("results", "vector")}


def together(client: httpx.Client, body: dict) -> dict:
    reply = client.post(BATCH, json=body)
    assert reply.status_code == 200, reply.text
    return reply.json()


@pytest.mark.parametrize("options", OPTIONS)
def test_a_batch_is_its_searches(client, photos, built, options):
    names = sorted({p.vertical for p in photos})
    options = options | ({"verticals": names[:1]} if "verticals" in options else {})
    image = {"image_base64": base64.b64encode(photos[4].data).decode(), "crop": [0, 0.1, 0.9, 1]}
    queries = [
        {"item_id": photos[2].item_id},
        *({"vector": v.tolist()} for v in vectors(3)),
        image,
        {"item_id": photos[9].item_id},
    ]
    reply = together(client, {"queries": queries} | options)
    assert reply["answers"] == [alone(client, query, options) for query in queries]
    assert all(answer["results"] for answer in reply["answers"])
    assert (reply["k"], reply["index"], reply["coverage"]) == (options["k"], built["version"], 1)
    assert all(reply["milliseconds"][stage] > 0 for stage in ("decode", "encode", "search", "total"))


def test_packed_vectors_are_those_vectors(client):
    found = vectors(40)
    reply = together(client, {"vectors_base64": packed(found), "k": 6})
    assert reply["answers"] == [alone(client, {"vector": v.tolist()}, {"k": 6}) for v in found]


def test_photos_of_a_form(client, photos):
    chosen = photos[:40]
    reply = client.post(BATCH, params={"k": 3}, files=[("image", (p.item_id, p.data, "image/jpeg")) for p in chosen])
    assert reply.status_code == 200, reply.text
    assert [answer["results"][0]["item_id"] for answer in reply.json()["answers"]] == [p.item_id for p in chosen]
    assert all(answer["results"][0]["score"] > 0.9999 for answer in reply.json()["answers"])


def test_pages_of_a_batch(client):
    asked = {"vectors_base64": packed(vectors(5)), "group_by": "product"}
    whole = together(client, asked | {"k": 200})
    assert whole["next"] is None
    pages: list[list[dict]] = [[] for _ in range(5)]
    following: dict | None = {"k": 7}
    while following:
        reply = together(client, asked | following)
        for page, answer in zip(pages, reply["answers"], strict=True):
            page += answer["results"]
        following = reply["next"]
    assert pages == [answer["results"] for answer in whole["answers"]]


GOOD = {"vector": UNIT}
BAD = {
    "a vector of another dimension": ({"queries": [GOOD, {"vector": [1.0] * 31}]}, 422, "bad_vector", "queries.1:"),
    "a zero vector": ({"queries": [GOOD, GOOD, {"vector": [0.0] * 32}]}, 422, "bad_vector", "queries.2:"),
    "text in a vector": ({"queries": [GOOD, {"vector": ["1"] * 32}]}, 422, "bad_vector", "queries.1.vector"),
    "an unknown item": ({"queries": [GOOD, {"item_id": "nobody"}]}, 404, "unknown_item", "queries.1:"),
    "a bad id": ({"queries": [{"item_id": "../x"}]}, 422, "bad_item_id", "queries.0:"),
    "no image": ({"queries": [GOOD, {"image_base64": "aGFsbG8="}]}, 422, "bad_image", "queries.1:"),
    "no base64": ({"queries": [GOOD, {"image_base64": "@@"}]}, 422, "bad_base64", "queries.1:"),
    "a crop of a vector": ({"queries": [GOOD | {"crop": [0, 0, 1, 1]}]}, 422, "bad_crop", "queries.0:"),
    "a crop upside down": ({"queries": [{"image_base64": "aa", "crop": [0, 1, 1, 0]}]}, 422, "bad_crop", "queries.0.crop"),
    "nothing in a query": ({"queries": [GOOD, {}]}, 422, "one_query_needed", "queries.1:"),
    "two in a query": ({"queries": [GOOD | {"item_id": "a"}]}, 422, "one_query_needed", "queries.0:"),
    "an option in a query": ({"queries": [GOOD | {"k": 3}]}, 422, "unknown_field", "item_id, crop"),
    "no queries": ({"queries": []}, 422, "bad_field", "queries"),
    "nothing": ({"k": 3}, 422, "one_query_needed", "queries and vectors_base64"),
    "both": ({"queries": [GOOD], "vectors_base64": packed(np.eye(32))}, 422, "one_query_needed", "queries and vectors_base64"),
    "an unknown option": ({"queries": [GOOD], "crop": [0, 0, 1, 1]}, 422, "unknown_field", "vectors_base64"),
    "half a vector": ({"vectors_base64": packed(np.ones((1, 33)))}, 422, "bad_vector", "132 bytes"),
    "no vector": ({"vectors_base64": ""}, 422, "bad_vector", "0 bytes"),
    "packed NaN": ({"vectors_base64": packed(np.array([UNIT, [np.nan] * 32]))}, 422, "bad_vector", "vectors_base64.1:"),
    "packed no base64": ({"vectors_base64": "%%%%"}, 422, "bad_base64", "vectors_base64"),
    "k": ({"queries": [GOOD], "k": 0}, 422, "k_out_of_range", "k = 0"),
    "vertical": ({"queries": [GOOD], "verticals": ["nowhere"]}, 422, "unknown_vertical", "nowhere"),
}


@pytest.mark.parametrize(("body", "status", "code", "told"), BAD.values(), ids=BAD)
def test_a_bad_query_refuses_the_batch(client, body, status, code, told):
    assert told in refused(client.post(BATCH, json=body), status, code)["message"]


def test_limits_of_a_batch(client):
    most, images = limits.BATCH_QUERIES, limits.BATCH_IMAGES
    assert refused(client.post(BATCH, json={"queries": [GOOD] * (most + 1)}), 422, "too_many_queries")["limit"] == most
    many = {"vectors_base64": packed(np.ones((most + 1, 32)))}
    assert refused(client.post(BATCH, json=many), 422, "too_many_queries")["limit"] == most
    photos = {"queries": [{"image_base64": ""}] * (images + 1)}
    assert refused(client.post(BATCH, json=photos), 422, "too_many_images")["limit"] == images
    files = [("image", b"x")] * (images + 1)
    assert refused(client.post(BATCH, files=files), 422, "too_many_images")["limit"] == images
    deep = {"vectors_base64": packed(np.ones((most, 32))), "k": 101}
    assert refused(client.post(BATCH, json=deep), 422, "too_many_results")["limit"] == limits.BATCH_RESULTS
    assert len(together(client, deep | {"k": 100})["answers"]) == most
    json_type = {"Content-Type": "application/json"}
    body = b" " * (limits.BATCH_BODY_BYTES + 1)
    refused(client.post(BATCH, content=body, headers=json_type), 413, "body_too_large")
    refused(client.post(BATCH, content=b"[]", headers={"Content-Type": "text/plain"}), 415, "bad_content_type")


def test_forms_of_a_batch(client, photos):
    good = ("image", photos[0].data)
    assert "image.1" in refused(client.post(BATCH, files=[good, ("image", b"text")]), 422, "bad_image")["message"]
    refused(client.post(BATCH, files={"picture": photos[0].data}), 422, "no_image")
    refused(client.post(BATCH, params={"crop": "0,0,1,1"}, files=[good]), 422, "unknown_field")


def test_unit_vectors():
    """A row of length 1 stays as it is, bit for bit; others become so, however long; no row depends on the others."""
    wide = np.random.default_rng(0).standard_normal((50, 32))
    once, wrong = unit_vectors(wide)
    assert not wrong
    assert (unit_vectors(once)[0] == once).all()
    for scale in (1e-300, 1e-30, 7.0, 1e300):
        assert np.abs(unit_vectors(wide * scale)[0] - wide / np.linalg.norm(wide, axis=1, keepdims=True)).max() < 1e-6
    assert all((unit_vectors(wide[i : i + 1])[0][0] == once[i]).all() for i in range(50))
    wide[3], wide[7, 5] = 0, np.inf
    assert [(row, problem.code) for row, problem in unit_vectors(wide)[1].items()] == [(3, "bad_vector"), (7, "bad_vector")]
