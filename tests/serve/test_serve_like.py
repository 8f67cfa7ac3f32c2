"""More like these, less like those: the arithmetic, over HTTP, against one's own on the stored vectors."""

from __future__ import annotations

import base64

import httpx
import numpy as np
import pytest
from test_serve_refusals import UNIT, refused
from test_serve_search import encoder, expected, ids, vectors  # noqa: F401  (fixtures)

from serve import rocchio
from serve.errors import Refusal
from serve.limits import LIKE_MOST

pytestmark = pytest.mark.serve


def query(positive: np.ndarray, negative: np.ndarray, weight: float) -> np.ndarray:
    """float32 [D], by the formula."""
    unit = lambda v: v.astype(np.float64) / np.linalg.norm(v.astype(np.float64), axis=1, keepdims=True)  # noqa: E731
    found = unit(positive).mean(0) - (weight * unit(negative).mean(0) if len(negative) else 0)
    return (found / np.linalg.norm(found)).astype(np.float32)


def stored(client: httpx.Client, photos) -> np.ndarray:
    """The index's vectors, float32 [N, D], in the photos' order."""
    asked = {"queries": [{"item_id": p.item_id} for p in photos], "k": 1, "with_vector": True}
    return np.array([a["vector"] for a in client.post("/v1/search:batch", json=asked).json()["answers"]], np.float32)


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("weight", [None, 0.0, 0.25, 1.0])
def test_equals_own_arithmetic(client, photos, grouped, weight):
    known = stored(client, photos)
    like, unlike = [1, 14, 30], [5, 22]
    asked = {"like": [photos[i].item_id for i in like], "unlike": [photos[i].item_id for i in unlike], "k": 200}
    asked |= ({} if weight is None else {"unlike_weight": weight}) | ({"group_by": "product"} if grouped else {})
    own = query(known[like], known[unlike], 0.5 if weight is None else weight)
    gone = {photos[i].product_id if grouped else photos[i].item_id for i in like + unlike}
    kept = [i for i, p in enumerate(photos) if (p.product_id if grouped else p.item_id) not in gone]
    found = client.post("/v1/search", json=asked)
    assert ids(found) == expected([photos[i] for i in kept], known[kept], own, 200, grouped=grouped)
    scores = {p.item_id: float(vector @ own) for p, vector in zip(photos, known, strict=True)}
    assert all(abs(r["score"] - scores[r["item_id"]]) < 2e-6 for r in found.json()["results"])


def test_beside_a_photo_a_vector_and_an_item(client, photos, vectors):  # noqa: F811
    known = stored(client, photos)
    like, unlike = photos[8].item_id, photos[20].item_id
    sides = {"like": [like, like], "unlike": [unlike], "k": 200}
    for source, beside, gone in (
        ({"vector": UNIT}, np.array(UNIT, np.float32), {8, 20}),
        ({"image_base64": base64.b64encode(photos[3].data).decode()}, vectors[3], {8, 20}),
        ({"item_id": photos[3].item_id}, known[3], {3, 8, 20}),
    ):
        own = query(np.stack([known[8], beside]), known[[20]], 0.5)
        kept = [i for i in range(len(photos)) if i not in gone]
        found = ids(client.post("/v1/search", json=source | sides))
        assert set(found) == {photos[i].item_id for i in kept}
        assert found[:5] == expected([photos[i] for i in kept], known[kept], own, 5)
    params = [("like", like), ("unlike", unlike), ("k", "200")]
    by_form = ids(client.post("/v1/search", params=params, files={"image": photos[3].data}))
    own = query(np.stack([known[8], vectors[3]]), known[[20]], 0.5)
    kept = [i for i in range(len(photos)) if i not in (8, 20)]
    assert by_form[:5] == expected([photos[i] for i in kept], known[kept], own, 5)
    assert (
        ids(client.post("/v1/search", json={"item_id": photos[3].item_id, "unlike": [unlike], "k": 200}))[0]
        != photos[3].item_id
    )


def test_the_item_searched_for_may_be_left_out(client, photos):
    one = photos[6]
    whole = ids(client.post("/v1/search", json={"item_id": one.item_id, "k": 200}))
    assert whole[0] == one.item_id
    assert ids(client.post("/v1/search", json={"item_id": one.item_id, "k": 200, "exclude_self": True})) == whole[1:]
    assert ids(client.post("/v1/search", json={"item_id": one.item_id, "k": 3, "exclude_self": True})) == whole[1:4]
    grouped = {"item_id": one.item_id, "k": 200, "group_by": "product"}
    products = [r["product_id"] for r in client.post("/v1/search", json=grouped).json()["results"]]
    others = client.post("/v1/search", json=grouped | {"exclude_self": True}).json()["results"]
    assert [r["product_id"] for r in others] == [p for p in products if p != one.product_id]


def test_refusals(client, photos):
    first, second = photos[0].item_id, photos[1].item_id
    bad = {
        "unknown": ({"like": [first, "nobody"]}, 404, "unknown_item"),
        "unknown on the other side": ({"like": [first], "unlike": ["nobody"]}, 404, "unknown_item"),
        "both sides": ({"like": [first, second], "unlike": [second]}, 422, "like_and_unlike"),
        "the item itself": ({"item_id": first, "unlike": [first]}, 422, "like_and_unlike"),
        "nothing liked": ({"unlike": [first]}, 422, "one_query_needed"),
        "bad id": ({"like": ["../x"]}, 422, "bad_item_id"),
        "weight": ({"like": [first], "unlike_weight": 1.5}, 422, "bad_field"),
        "two queries": ({"like": [first], "vector": UNIT, "item_id": second}, 422, "one_query_needed"),
    }
    for body, status, code in bad.values():
        refused(client.post("/v1/search", json=body), status, code)
    for side in ("like", "unlike"):
        many = {"vector": UNIT, side: [f"x{i}" for i in range(LIKE_MOST + 1)]}
        assert refused(client.post("/v1/search", json=many), 422, "bad_field")["limit"] == LIKE_MOST
    vector = np.array(client.post("/v1/search", json={"item_id": second, "with_vector": True}).json()["vector"])
    opposite = {"vector": (-vector).tolist(), "like": [second]}
    assert "cancel" in refused(client.post("/v1/search", json=opposite), 422, "no_direction")["message"]


def test_rocchio():
    rng = np.random.default_rng(0)
    positive, negative = rng.standard_normal((3, 8)).astype(np.float32), rng.standard_normal((2, 8)).astype(np.float32)
    for weight in (0.0, 0.5, 1.0):
        found = rocchio.query(positive, negative, weight)
        assert found.dtype == np.float32
        assert np.abs(found - query(positive, negative, weight)).max() < 1e-7
        assert np.abs(rocchio.query(positive * 100, negative / 9, weight) - found).max() < 1e-6  # lengths don't count
    assert np.abs(rocchio.query(positive[:1], negative[:0], 0.5) - positive[0] / np.linalg.norm(positive[0])).max() < 1e-7
    with pytest.raises(Refusal, match="cancel"):
        rocchio.query(positive[:1], positive[:1], 1.0)
