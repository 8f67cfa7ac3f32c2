"""Pages of a search are cut out of one ranking, as of one commit, whatever changes between them."""

from __future__ import annotations

import httpx
import pytest
from test_serve_live import UNIT, as_before, code, ids, writer  # noqa: F401  (fixtures)
from test_serve_refusals import refused

from serve.limits import PAGE_DEPTH

pytestmark = pytest.mark.serve


def pages(client: httpx.Client, asked: dict, k: int, between=lambda: None) -> tuple[list[dict], list[dict]]:
    """(all results, the replies)."""
    found, replies, following = [], [], {"k": k}
    while following:
        reply = client.post("/v1/search", json=asked | following)
        assert reply.status_code == 200, reply.text
        replies.append(reply.json())
        found += replies[-1]["results"]
        following = replies[-1]["next"]
        between()
    return found, replies


@pytest.mark.parametrize("k", [1, 7, 50])
@pytest.mark.parametrize(
    "more", [{}, {"group_by": "product"}, {"exclude_self": True}, {"exclude_self": True, "group_by": "product"}]
)
def test_pages_are_one_big_search(client, photos, k, more):
    asked = {"item_id": photos[4].item_id} | more
    whole = client.post("/v1/search", json=asked | {"k": 200}).json()
    assert (whole["next"], whole["offset"]) == (None, 0)
    assert len(whole["results"]) < 200
    found, replies = pages(client, asked, k)
    assert found == whole["results"]
    assert [reply["offset"] for reply in replies] == [i * k for i in range(len(replies))]


def test_pages_of_likes_and_of_equal_scores(client, writer, photos):  # noqa: F811
    same = [{"item_id": f"new-{i:02d}", "product_id": f"n{i}", "vertical": "hats", "vector": UNIT} for i in range(20)]
    writer.post("/v1/items:batch", json={"upserts": same}).raise_for_status()
    assert [r["item_id"] for r in pages(client, {"vector": UNIT, "verticals": ["hats"]}, 3)[0]] == [i["item_id"] for i in same]
    asked = {"like": [photos[1].item_id, "new-03"], "unlike": [photos[8].item_id]}
    assert pages(client, asked, 9)[0] == client.post("/v1/search", json=asked | {"k": 200}).json()["results"]


def test_changes_between_pages_change_nothing(client, writer, photos):  # noqa: F811
    """New items before and behind, an item of a page to come replaced, another gone: the pages are those of the first one's commit."""
    put = [{"item_id": f"new-{i}", "product_id": f"n{i}", "vertical": "hats", "vector": UNIT} for i in range(12)]
    writer.post("/v1/items:batch", json={"upserts": put}).raise_for_status()
    asked = {"vector": UNIT, "verticals": ["hats"]}
    before = client.post("/v1/search", json=asked | {"k": 200}).json()
    count = iter(range(100))

    def change() -> None:
        i = next(count)
        changed = {"item_id": f"new-{11 - i}", "product_id": "other", "vertical": "hats", "vector": [0.0, 1.0] + [0.0] * 30}
        fresh = {"item_id": f"new-a{i}", "product_id": "other", "vertical": "hats", "vector": UNIT}
        gone = f"new-{i + 2}" if f"new-{i + 2}" != changed["item_id"] else "new-0"
        writer.post("/v1/items:batch", json={"upserts": [changed, fresh], "deletes": [gone]}).raise_for_status()

    found, replies = pages(client, asked, 4, change)
    assert found == before["results"]
    assert {reply["catalog"] for reply in replies} == {before["catalog"]}
    assert client.post("/v1/search", json=asked | {"k": 200}).json()["results"] != before["results"]
    old = {"item_id": "new-11", "catalog_at": before["catalog"], "with_vector": True, "verticals": ["hats"], "k": 200}
    then = client.post("/v1/search", json=old).json()  # the item's vector is of that commit too
    assert then["vector"] == UNIT
    assert [r["item_id"] for r in then["results"]] == [r["item_id"] for r in before["results"]]


def test_a_photo_goes_on_by_its_vector(client, photos):
    first = client.post("/v1/search", params={"k": 10, "with_vector": "true"}, files={"image": photos[2].data}).json()
    second = client.post("/v1/search", json={"vector": first["vector"], **first["next"]}).json()
    whole = client.post("/v1/search", params={"k": 20}, files={"image": photos[2].data}).json()
    assert first["results"] + second["results"] == whole["results"]
    by_form = client.post("/v1/search", params=first["next"], files={"image": photos[2].data}).json()
    assert by_form["results"] == second["results"]


def test_refusals(client, built):
    asked = {"vector": UNIT}
    for deep in ({"offset": PAGE_DEPTH}, {"offset": PAGE_DEPTH - 9, "k": 10}, {"offset": -1}):
        assert refused(client.post("/v1/search", json=asked | deep), 422, "too_deep")["limit"] == PAGE_DEPTH
    assert client.post("/v1/search", json=asked | {"offset": PAGE_DEPTH - 10, "k": 10}).json()["results"] == []
    other = refused(client.post("/v1/search", json=asked | {"index": "another"}), 409, "index_changed")
    assert other["limit"] == built["version"]
    at = client.get("/v1/index").json()["catalog"]
    refused(client.post("/v1/search", json=asked | {"catalog_at": at + 1}), 409, "catalog_behind")
    refused(client.post("/v1/search", json=asked | {"catalog_at": at, "catalog_at_least": 1}), 422, "bad_body")
    refused(client.post("/v1/search", json=asked | {"catalog_at": -1}), 422, "bad_field")
