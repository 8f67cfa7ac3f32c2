"""Hostile requests at what changes the catalogue: without its token, and with it."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from functools import partial

from jobs.benchmarks.hostile_cases import BY_SERVER, Hostile, one, request, unit
from jobs.benchmarks.hostile_images import IMAGES


def token_cases(dim: int) -> Iterator[Hostile]:
    refused = ((401, "token_needed"), (403, "changes_off"))
    deletes = b'{"deletes": ["new-x"]}'
    for name, value in {
        "missing": "", "empty": "Authorization: \r\n", "no value": "Authorization: Bearer\r\n", "wrong": "Authorization: Bearer wrong-wrong-wrong\r\n",
        "of 60 kB": f"Authorization: Bearer {'a' * 60_000}\r\n", "of another scheme": "Authorization: Basic YTpi\r\n",
        "not ASCII": "Authorization: Bearer \xe9\xff\r\n", "twice": "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n",
    }.items():  # fmt: skip
        yield one(
            f"token {name}",
            request(deletes, path="/v1/items:batch", headers=value),
            *refused,
            *(BY_SERVER if "60" in name else ()),
        )
    item = json.dumps({"product_id": "n", "vertical": "hats", "vector": unit(dim)}).encode()
    yield one(
        "token in the query", request(item, method="PUT", path="/v1/items/new-x?token=a&access_token=a"), *refused, method="PUT"
    )
    yield one("token missing, body of 13 MB", request(b"", path="/v1/items:batch", length=13 << 20), *refused)


def change_cases(token: str, dim: int) -> Iterator[Hostile]:
    good = {"product_id": "n", "vertical": "hats", "vector": unit(dim)}

    def sent(method: str, path: str, body: object) -> Iterator[bytes]:
        made = json.dumps(body() if callable(body) else body).encode()
        yield request(made, method=method, path=path, headers=f"Authorization: Bearer {token}\r\n")

    def put(name: str, fields: object, *codes: str, item: str = "new-x") -> Hostile:
        parts = partial(sent, "PUT", f"/v1/items/{item}", fields)
        return Hostile(f"change: {name}", parts, tuple((422, code) for code in codes), "PUT")

    def batch(name: str, body: object, *codes: str) -> Hostile:
        return Hostile(f"change: {name}", partial(sent, "POST", "/v1/items:batch", body), tuple((422, code) for code in codes))

    for image in IMAGES:
        if image.code and image.name.startswith(("png of 49", "jpeg of 1,000", "webp of 16,000", "GIF")):
            yield put(image.name, good | {"image_base64": base64.b64encode(image.make()).decode()}, image.code)
    yield put("product of 10 MB", good | {"product_id": "a" * 10_000_000}, "bad_change")
    yield put("product with NUL", good | {"product_id": "a\0"}, "bad_change")
    yield put("vertical with a path", good | {"vertical": "../../x"}, "bad_change")
    yield put("vertical of 10 MB", good | {"vertical": "a" * 10_000_000}, "bad_change")
    yield put("attribute of 10 MB", good | {"attributes": {"a" * 10_000_000: "b"}}, "bad_change")
    yield put("5,000 attributes", good | {"attributes": {f"a{i}": "b" for i in range(5000)}}, "bad_change")
    yield put("vector of text", good | {"vector": ["a"] * 4000}, "bad_vector")
    yield put("vector of 1e400", good | {"vector": [float("inf")] * dim}, "bad_vector")
    yield put("id with a path", good, "bad_item_id", "not_found", item="..%5Cx")
    yield batch("1,001 deletes", {"deletes": [f"new-{i}" for i in range(1001)]}, "bad_field")
    yield batch("500,000 deletes", lambda: {"deletes": ["a"] * 500_000}, "bad_field")
    yield batch(
        "1,000 items of text vectors",
        lambda: {"upserts": [good | {"item_id": f"new-{i}", "vector": ["a"] * 900} for i in range(1000)]},
        "bad_field",
    )
    yield batch("2,000,000 empty items", lambda: {"upserts": [{}] * 2_000_000}, "too_many_values")
    yield batch("40,000 unknown fields", lambda: {f"a{i}": 1 for i in range(40_000)}, "bad_body")
    yield batch(
        "one bad item among 500",
        lambda: {"upserts": [good | {"item_id": f"new-{i}"} for i in range(499)] + [good | {"item_id": "../x"}]},
        "bad_item_id",
    )
