"""Requests that a search service must refuse or survive: each with the status and the code that it must get."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from jobs.benchmarks.hostile_images import IMAGES, HostileImage, encoded, zeros
from jobs.benchmarks.hostile_images import png as png_of

LIMIT = 12 << 20  # bytes of a body
OK = (200, "")


def unit(dim: int) -> list[float]:
    """A vector that a service of so many dimensions takes."""
    return [1.0] + [0.0] * (dim - 1)


@dataclass(frozen=True)
class Hostile:
    """`answers`: the (status, code) that are right; code "": no refusal of the service's shape is looked for.

    `waits`: the service may wait for the rest of the body before it refuses.
    """

    name: str
    parts: Callable[[], Iterator[bytes]]
    answers: tuple[tuple[int, str], ...]
    method: str = "POST"
    waits: bool = False


def request(
    body: bytes = b"", kind: str = "application/json", *, method: str = "POST", path: str = "/v1/search", headers: str = "",
    length: int | None = None, version: str = "1.1", host: str = "Host: a\r\n",
) -> bytes:  # fmt: skip
    """A request's bytes; `headers`: lines that end with CRLF."""
    declared = "" if length == -1 else f"Content-Length: {len(body) if length is None else length}\r\n"
    sort = f"Content-Type: {kind}\r\n" if kind else ""
    return (
        f"{method} {path} HTTP/{version}\r\n{host}{sort}{declared}{headers}Connection: close\r\n\r\n".encode("latin-1") + body
    )


def form(data: bytes, name: str = "image", extra: str = "") -> bytes:
    """One part of a multipart body whose boundary is b."""
    return f'--b\r\nContent-Disposition: form-data; name="{name}"; filename="x.jpg"\r\n{extra}\r\n'.encode() + data + b"\r\n"


def chunked(parts: Iterator[bytes], kind: str = "application/json", ended: bool = True) -> Iterator[bytes]:
    yield request(b"", kind, length=-1, headers="Transfer-Encoding: chunked\r\n")
    for part in parts:
        yield f"{len(part):x}\r\n".encode() + part + b"\r\n"
    if ended:
        yield b"0\r\n\r\n"


BY_SERVER = ((400, ""), (404, ""), (405, ""), (413, ""), (414, ""), (422, ""), (431, ""), (501, ""))
"""What the HTTP server may answer by itself, before the service sees a request."""
MULTIPART = "multipart/form-data; boundary=b"


def image_cases() -> Iterator[Hostile]:
    for image in IMAGES:
        expected = (422, image.code) if image.code else OK
        yield Hostile(f"image: {image.name}", partial(_uploaded, image), (expected,))


def _uploaded(image: HostileImage) -> Iterator[bytes]:
    yield request(form(image.make()) + b"--b--\r\n", MULTIPART)


def json_cases(dim: int) -> Iterator[Hostile]:
    good = unit(dim)

    def case(name: str, body: object, *codes: str, status: int = 422) -> Hostile:
        def parts() -> Iterator[bytes]:
            made = body() if callable(body) else body
            yield request(made if isinstance(made, bytes) else json.dumps(made).encode())

        return Hostile(f"json: {name}", parts, tuple((status, code) for code in codes))

    def vector(text: str) -> bytes:
        return f'{{"vector": [{", ".join([text] * dim)}]}}'.encode()

    bad_k: dict[str, Any] = {
        "1e9": 10**9, "0": 0, "-1": -1, "1.5": 1.5, "ten": "ten", "true": True, "list": [1], "1e400": float("inf"), "null": None,
    }  # fmt: skip
    yield from (case(f"k {name}", {"vector": good, "k": k}, "k_out_of_range") for name, k in bad_k.items())
    for name, text in {"NaN": "NaN", "Infinity": "Infinity", "-1e400": "-1e400", "zero": "0", "text": '"1"', "null": "null",
                       "lists": "[1]", "objects": "{}", "true": "true"}.items():  # fmt: skip
        yield case(f"vector of {name}", vector(text), "bad_vector")
    yield case("vector of 1e308", vector("1e308"), "", status=200)
    yield case("vector of 5e-324", vector("5e-324"), "", status=200)
    yield case("vector of one less", {"vector": good[1:]}, "bad_vector")
    yield case("vector of none", {"vector": []}, "bad_vector")
    yield case("vector of 4,000", {"vector": [1.0] * 4000}, "bad_vector")
    yield case("vector of 2,000,000", lambda: b'{"vector": [' + b"1," * 2_000_000 + b"1]}", "too_many_values")
    yield case("4,000,000 empty lists", lambda: b'{"vector": [' + b"[]," * 4_000_000 + b"1]}", "too_many_values")
    yield case("100,000 brackets", b"[" * 100_000 + b"]" * 100_000, "too_many_values")
    yield case("10,000 brackets", b'{"vector": ' + b"[" * 10_000 + b"]" * 10_000 + b"}", "bad_json")
    yield case("500,000 unknown fields", lambda: json.dumps({f"a{i}": 1 for i in range(500_000)}).encode(), "too_many_values")
    yield case("900 unknown fields", {f"a{i}": 1 for i in range(900)}, "bad_body")
    yield case("field of 10 MB", lambda: {"a" * 10_000_000: 1}, "unknown_field")
    yield case("attribute of 10 MB", lambda: {"vector": good, "attributes": {"a" * 10_000_000: 1}}, "bad_field")
    yield case(
        "unknown attribute of 10 MB", lambda: {"vector": good, "attributes": {"a" * 10_000_000: ["b"]}}, "unknown_attribute"
    )
    yield case("value of 10 MB", lambda: {"vector": good, "attributes": {"color": ["b" * 10_000_000]}}, "unknown_attribute")
    yield case("vertical of 10 MB", lambda: {"vector": good, "verticals": ["a" * 10_000_000]}, "unknown_vertical")
    yield case("vertical with NUL", {"vector": good, "verticals": ["a\0b"]}, "unknown_vertical")
    yield case("10,000 verticals", {"vector": good, "verticals": ["a"] * 10_000}, "bad_field")
    yield case("900 attributes", {"vector": good, "attributes": {f"a{i}": ["b"] for i in range(900)}}, "bad_field")
    yield case("10,000 values", {"vector": good, "attributes": {"color": ["b"] * 10_000}}, "bad_field")
    yield case("number of 100,000 digits", b'{"k": ' + b"9" * 100_000 + b"}", "bad_json")
    yield case("number of 10,000,000 digits", lambda: b'{"k": ' + b"9" * 10_000_000 + b"}", "bad_json")
    yield case("k twice", b'{"item_id": "nobody", "k": 1, "k": 1000}', "k_out_of_range")
    yield case("byte order mark", b"\xef\xbb\xbf{}", "bad_json")
    yield case("invalid UTF-8", b'{"item_id": "\xc3\x28"}', "bad_json")
    yield case("UTF-16", json.dumps({"vector": good}).encode("utf-16"), "bad_json")
    yield case("lone surrogate", b'{"item_id": "\\ud800"}', "bad_json", "bad_item_id")
    yield case("empty body", b"", "bad_json")
    yield case("null", b"null", "bad_body")
    yield case("list", b"[]", "bad_body")
    yield case("comments", b'{"k": 1 /* one */}', "bad_json")
    yield case("two documents", b"{} {}", "bad_json")
    yield case("an address to fetch", {"image_url": "http://127.0.0.1:1/"}, "unknown_field")
    yield case("prototype", b'{"__proto__": {"k": 1}}', "unknown_field")
    for name, item in {"path": "../../etc/passwd", "NUL": "a\0", "unicode": "ä", "right to left": "\u202ea", "long": "a" * 129,
                       "newline": "a\n", "empty": "", "10 MB": "a" * 10_000_000, "format": "%s{0}"}.items():  # fmt: skip
        yield case(f"id: {name}", lambda i=item: {"item_id": i}, "bad_item_id")
    yield case("crop of NaN", b'{"image_base64": "aaaa", "crop": [NaN, 0, 1, 1]}', "bad_crop")
    yield case("coverage 1e400", b'{"item_id": "a", "min_coverage": 1e400}', "bad_field")
    yield case("commit 2**63", {"vector": good, "catalog_at_least": 2**63}, "catalog_behind", status=409)
    picture = base64.b64encode(encoded("JPEG") + bytes(range(256)) * 8).decode()
    yield case("base64 with line breaks", {"image_base64": "\n".join([picture[:76], picture[76:]])}, "bad_base64")
    yield case("base64 of the URL alphabet", {"image_base64": picture.replace("+", "-").replace("/", "_")}, "bad_base64")
    yield case("base64 without padding", {"image_base64": "aGFsbG8"}, "bad_base64")
    yield case("base64 as data URL", {"image_base64": "data:image/jpeg;base64," + picture}, "bad_base64")
    yield case("base64 of umlauts", {"image_base64": "äöü="}, "bad_base64")
    yield case("base64 of 12 MB of zeros", lambda: {"image_base64": "A" * (12 << 20)}, "body_too_large", status=413)
    yield case("base64 of 11 MB of zeros", lambda: {"image_base64": "A" * (11 << 20)}, "bad_image")
    bomb = png_of(9, 9, pixels=zeros(1 << 30))
    yield case(
        "base64 of a png with 1 GB behind its pixels", lambda: {"image_base64": base64.b64encode(bomb).decode()}, "", status=200
    )


def one(name: str, sent: bytes, *answers: tuple[int, str], method: str = "POST", waits: bool = False) -> Hostile:
    return Hostile(name, lambda: iter([sent]), answers, method, waits)
