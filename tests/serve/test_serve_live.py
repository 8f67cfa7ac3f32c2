"""Changes over HTTP: durable when they are answered, seen by the next search, whole, and refused by name."""

from __future__ import annotations

import base64
import io
import os
import re
import signal
import threading

import httpx
import numpy as np
import pytest
from PIL import Image
from serve_helpers import until
from test_serve_failover import describe

from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import upserts
from fashion_dml.storage import Location, UserError
from serve.auth import READ_TOKEN, WRITE_TOKEN, Tokens
from serve.errors import Refusal

pytestmark = pytest.mark.serve
UNIT = [1.0] + [0.0] * 31


@pytest.fixture
def writer(address: str):
    with httpx.Client(base_url=address, timeout=30, headers={"Authorization": f"Bearer {os.environ[WRITE_TOKEN]}"}) as client:
        yield client


@pytest.fixture(autouse=True)
def as_before(writer: httpx.Client):
    """The other tests know the index's items only."""
    yield
    found = ids(writer.post("/v1/search", json={"vector": UNIT, "k": 200}))
    if new := [i for i in found if i.startswith("new-")]:
        writer.post("/v1/items:batch", json={"deletes": new}).raise_for_status()


def ids(reply: httpx.Response) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [r["item_id"] for r in reply.json()["results"]]


def code(reply: httpx.Response) -> tuple[int, str]:
    return reply.status_code, reply.json()["error"]["code"]


def photo(colour: tuple[int, int, int]) -> bytes:
    pixels = np.random.default_rng(sum(colour)).integers(0, 60, (96, 64, 3)) + np.array(colour)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def test_an_item_appears_changes_and_goes(writer: httpx.Client, client: httpx.Client):
    data = photo((200, 30, 30))
    text = base64.b64encode(data).decode()
    put = writer.put("/v1/items/new-1", json={"product_id": "np1", "vertical": "hats", "image_base64": text})
    assert put.status_code == 200, put.text
    assert (put.json()["upserted"], put.json()["deleted"]) == (1, 0)
    found = client.post("/v1/search", json={"image_base64": text, "k": 3}).json()
    assert (found["results"][0]["item_id"], found["results"][0]["vertical"]) == ("new-1", "hats")
    assert found["results"][0]["score"] > 0.9999
    assert found["catalog"] == put.json()["catalog"] == client.get("/v1/index").json()["catalog"]
    assert ids(client.post("/v1/search", json={"vector": UNIT, "verticals": ["hats"]})) == ["new-1"]
    image = client.get("/v1/items/new-1/image")
    assert (image.headers["content-type"], image.content[:2]) == ("image/jpeg", b"\xff\xd8")
    assert max(Image.open(io.BytesIO(image.content)).size) <= 48

    address = client.get("/v1/items/new-1").json()["image_url"]  # for good: whatever replaces the item has another address
    assert found["results"][0]["image_url"] == address
    assert "immutable" in client.get(address).headers["cache-control"]
    again = base64.b64encode(photo((30, 200, 30))).decode()
    writer.put("/v1/items/new-1", json={"product_id": "np1", "vertical": "hats", "image_base64": again}).raise_for_status()
    replaced = client.get("/v1/items/new-1").json()["image_url"]
    assert replaced != address
    assert client.get(replaced).content == client.get(address).content != image.content
    assert (client.get(address).headers["cache-control"], client.get(replaced).headers["cache-control"]) == (
        "public, no-cache", "public, max-age=31536000, immutable",
    )  # fmt: skip

    writer.put("/v1/items/new-1", json={"product_id": "np2", "vertical": "hats", "vector": UNIT}).raise_for_status()
    assert client.get("/v1/items/new-1").json()["product_id"] == "np2"
    assert ids(client.post("/v1/search", json={"vector": UNIT, "k": 1})) == ["new-1"]
    assert code(client.get("/v1/items/new-1/image")) == (404, "no_picture")

    for _ in range(2):  # the second changes nothing, and is no error
        assert writer.delete("/v1/items/new-1").json()["deleted"] == 1
        assert code(client.get("/v1/items/new-1")) == (404, "unknown_item")
    assert "new-1" not in ids(client.post("/v1/search", json={"vector": UNIT, "k": 200}))


def test_a_batch_is_one_commit_and_attributes_filter(writer: httpx.Client, client: httpx.Client):
    vocabulary = client.get("/v1/index").json()["attributes"]
    column, value, other = next((c, v[0], v[1]) for c, v in vocabulary.items() if len(v) > 1)
    vectors = np.random.default_rng(0).standard_normal((40, 32))
    upserted = [
        {"item_id": f"new-{i}", "product_id": f"n{i // 2}", "vertical": "hats", "vector": v.tolist(),
         "attributes": {column: value if i % 4 else other}}
        for i, v in enumerate(vectors)
    ]  # fmt: skip
    before = client.get("/v1/index").json()["catalog"]
    reply = writer.post("/v1/items:batch", json={"upserts": upserted, "deletes": ["never-was"]}).json()
    assert reply == {"catalog": before + 1, "upserted": 40, "deleted": 1}
    told = client.get("/metrics").text
    counts = {
        kind: re.search(rf'fashion_dml_changes_total\{{kind="{kind}",replica="\w+"\}} (\S+)', told)
        for kind in ("upsert", "delete")
    }
    assert all(found is not None for found in counts.values()), told
    assert float(counts["upsert"][1]) >= 40
    asked = {"vector": vectors[0].tolist(), "k": 200, "verticals": ["hats"]}
    scores = vectors @ vectors[0] / np.linalg.norm(vectors, axis=1)
    order = [f"new-{i}" for i in np.argsort(-scores, kind="stable")]
    assert ids(client.post("/v1/search", json=asked)) == order
    some = ids(client.post("/v1/search", json=asked | {"attributes": {column: [value]}}))
    assert some == [i for i in order if int(i[4:]) % 4]
    assert len(ids(client.post("/v1/search", json=asked | {"group_by": "product"}))) == 20
    picture = {"image": ("a.png", photo((1, 2, 3)), "image/png")}
    lent = client.post("/v1/search", params={"vertical": "hats", "attribute": f"{column}={value}", "k": 200}, files=picture)
    assert sorted(ids(lent)) == sorted(some)


def test_many_clients_at_once_lose_nothing(writer: httpx.Client, client: httpx.Client):
    """Changes that come together share commits; each is answered when it is durable."""
    replies: dict[int, httpx.Response] = {}

    def put(i: int) -> None:
        vector = np.random.default_rng(i).standard_normal(32).tolist()
        replies[i] = writer.put(f"/v1/items/new-{i}", json={"product_id": "n", "vertical": "hats", "vector": vector})

    threads = [threading.Thread(target=put, args=(i,)) for i in range(24)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [replies[i].status_code for i in range(24)] == [200] * 24
    assert set(ids(client.post("/v1/search", json={"vector": UNIT, "verticals": ["hats"], "k": 200}))) == {
        f"new-{i}" for i in range(24)
    }


def test_a_shard_that_died_has_the_changes_again(writer: httpx.Client, client: httpx.Client):
    for i in range(6):  # both shards get some
        writer.put(f"/v1/items/new-{i}", json={"product_id": "n", "vertical": "hats", "vector": UNIT}).raise_for_status()
    asked = {"vector": UNIT, "verticals": ["hats"], "k": 200, "min_coverage": 1.0}
    whole = ids(client.post("/v1/search", json=asked))
    assert len(whole) == 6
    victims = [describe(shard, replica)["pid"] for shard in range(2) for replica in range(2)]
    for victim in victims:
        os.kill(victim, signal.SIGKILL)
    reply = until(lambda: (r := client.post("/v1/search", json=asked)).status_code == 200 and r)
    assert ids(reply) == whole


def test_changes_of_other_processes_are_seen(settings, built, writer: httpx.Client, client: httpx.Client):
    writer.put("/v1/items/new-0", json={"product_id": "n", "vertical": "hats", "vector": UNIT}).raise_for_status()
    catalog = Catalog.open(Location.of(settings.workspace) / "catalog")
    at = catalog.append(upserts(
        catalog.schema, ["new-9"], product_ids=["n"], verticals=["hats"], vectors=np.eye(32, dtype=np.float32)[:1],
        attributes=np.zeros((1, len(catalog.attributes)), np.int8), thumbnails=[b""], model=built["model"],
    ))  # fmt: skip
    seen = client.post("/v1/search", json={"vector": UNIT, "k": 2, "catalog_at_least": at})
    assert (ids(seen), seen.json()["catalog"]) == (["new-0", "new-9"], at)
    assert code(client.post("/v1/search", json={"vector": UNIT, "catalog_at_least": at + 1})) == (409, "catalog_behind")
    state = client.get("/readyz").json()
    assert (state["ready"], state["catalog"]) == (True, at)


GOOD = {"product_id": "n", "vertical": "hats", "vector": UNIT}
BAD = {
    "neither image nor vector": ({"product_id": "n", "vertical": "hats"}, "bad_body"),
    "dimension": (GOOD | {"vector": [1.0] * 31}, "bad_vector"),
    "zero": (GOOD | {"vector": [0.0] * 32}, "bad_vector"),
    "vertical": (GOOD | {"vertical": "../hats"}, "bad_change"),
    "product": (GOOD | {"product_id": "a b"}, "bad_change"),
    "attribute": (GOOD | {"attributes": {"smell": "roses"}}, "bad_change"),
    "image": ({"product_id": "n", "vertical": "hats", "image_base64": "aGFsbG8="}, "bad_image"),
    "base64": ({"product_id": "n", "vertical": "hats", "image_base64": "%%%"}, "bad_base64"),
    "field": (GOOD | {"price": 3}, "unknown_field"),
    "type": (GOOD | {"product_id": 7}, "bad_field"),
}


@pytest.mark.parametrize(("body", "expected"), BAD.values(), ids=BAD)
def test_a_bad_change_is_refused_and_nothing_of_it_is_seen(writer: httpx.Client, client: httpx.Client, body, expected):
    before = client.get("/v1/index").json()["catalog"]
    reply = writer.put("/v1/items/new-1", json=body)
    assert code(reply) == (422, expected), reply.text
    batch = {"upserts": [GOOD | {"item_id": "new-2"}, body | {"item_id": "new-1"}]}
    in_batch = writer.post("/v1/items:batch", json=batch)
    assert in_batch.status_code == 422
    wrong_id = body.get("vertical") == "../hats" or body.get("product_id") == "a b"  # these are looked at all together
    assert wrong_id or "upserts.1" in in_batch.json()["error"]["message"], in_batch.text
    assert client.get("/v1/index").json()["catalog"] == before
    assert code(client.get("/v1/items/new-2")) == (404, "unknown_item")


def test_bad_batches_ids_and_filters(writer: httpx.Client, client: httpx.Client):
    twice = {"deletes": ["new-1"], "upserts": [GOOD | {"item_id": "new-1"}]}
    assert "given twice" in writer.post("/v1/items:batch", json=twice).json()["error"]["message"]
    assert writer.post("/v1/items:batch", json={}).status_code == 422
    assert writer.post("/v1/items:batch", json={"deletes": ["x"] * 1001}).status_code == 422
    assert code(writer.delete("/v1/items/a%20b")) == (422, "bad_item_id")
    assert writer.put("/v1/items/..%2Fpasswd", json=GOOD).status_code in (404, 405, 422)
    assert code(writer.put("/v1/items/new-1", content=b"{")) == (415, "bad_content_type")
    asked = {"vector": UNIT, "attributes": {"smell": ["roses"]}}
    assert code(client.post("/v1/search", json=asked)) == (422, "unknown_attribute")
    assert code(client.post("/v1/search", json={"vector": UNIT, "verticals": ["nowhere"]})) == (422, "unknown_vertical")
    many = {f"c{i}": [f"v{j}" for j in range(32)] for i in range(9)}
    refused = client.post("/v1/search", json={"vector": UNIT, "attributes": many})
    assert (code(refused), refused.json()["error"]["limit"]) == ((422, "bad_field"), 256)


@pytest.mark.parametrize(
    "header", [{}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic abc"}, {"Authorization": "é"}]
)
def test_changes_need_the_token(address: str, header: dict[str, str]):
    raw = {name: value.encode("latin-1") for name, value in header.items()}
    with httpx.Client(base_url=address, timeout=30, headers=raw) as stranger:
        for reply in (
            stranger.put("/v1/items/new-1", json=GOOD), stranger.delete("/v1/items/new-1"),
            stranger.post("/v1/items:batch", json={"deletes": ["new-1"]}),
        ):  # fmt: skip
            assert code(reply) == (401, "token_needed")
            assert reply.headers["www-authenticate"] == "Bearer"
        assert stranger.get("/v1/index").status_code == 200


class Asked:
    """What Tokens looks at of a request."""

    def __init__(self, token: str = "") -> None:
        self.headers = {"authorization": f"Bearer {token}"} if token else {}


async def refused(check, token: str = "") -> str:
    try:
        await check(Asked(token))
    except Refusal as refusal:
        return f"{refusal.status} {refusal.code}"
    return ""


def test_tokens():
    import asyncio

    write, read = "w" * 20, "r" * 20
    none, both = Tokens({}), Tokens({WRITE_TOKEN: write, READ_TOKEN: read})
    assert (none.public, both.public) == (True, False)
    assert asyncio.run(refused(none.may_read)) == ""
    assert asyncio.run(refused(none.may_change)) == asyncio.run(refused(none.may_change, write)) == "403 changes_off"
    assert asyncio.run(refused(both.may_read)) == asyncio.run(refused(both.may_read, "x" * 20)) == "401 token_needed"
    assert asyncio.run(refused(both.may_read, read)) == asyncio.run(refused(both.may_read, write)) == ""
    assert asyncio.run(refused(both.may_change, read)) == "401 token_needed"
    assert asyncio.run(refused(both.may_change, write)) == ""
    with pytest.raises(UserError, match="at least 16"):
        Tokens({WRITE_TOKEN: "short"})
