"""Hostile requests below and beside the body: HTTP itself, forms, paths, tokens, changes."""

from __future__ import annotations

import json
from collections.abc import Iterator

from jobs.benchmarks.hostile_cases import (
    BY_SERVER,
    LIMIT,
    MULTIPART,
    OK,
    Hostile,
    chunked,
    form,
    image_cases,
    json_cases,
    one,
    request,
    unit,
)
from jobs.benchmarks.hostile_changes import change_cases, token_cases
from jobs.benchmarks.hostile_images import encoded

TOO_LARGE = ((413, "body_too_large"),)


def cases(token: str | None, dim: int) -> list[Hostile]:
    """All of them, for a service of `dim` dimensions. `token`: of its changes; None: it takes none, and cases that need one are left out."""
    search = json.dumps({"vector": unit(dim)}).encode()
    return [*image_cases(), *json_cases(dim), *body_cases(search), *form_cases(), *path_cases(), *http_cases(search), *token_cases(dim),
            *(change_cases(token, dim) if token else ())]  # fmt: skip


def tiny_chunks(count: int) -> Iterator[bytes]:
    yield request(b"", length=-1, headers="Transfer-Encoding: chunked\r\n")
    yield b"1\r\n \r\n" * count + b"0\r\n\r\n"


def body_cases(search: bytes) -> Iterator[Hostile]:
    block = b" " * (1 << 16)
    yield one("body: 13 MB declared", request(b"", length=13 << 20), *TOO_LARGE)
    yield one("body: 10**30 declared", request(b"", length=10**30), *TOO_LARGE, *BY_SERVER)
    yield one("body: -1 declared", request(b"").replace(b"Length: 0", b"Length: -1"), *BY_SERVER)
    yield one(
        "body: two lengths",
        request(search, headers="Content-Length: 1\r\n"),
        *BY_SERVER,
        (400, "client_left"),
        (422, "bad_json"),
    )
    yield one(
        "body: length and chunks", request(search, headers="Transfer-Encoding: chunked\r\n"), *BY_SERVER, (422, "bad_json")
    )
    yield Hostile("body: 64 MB in chunks", lambda: chunked(block for _ in range(1024)), TOO_LARGE)
    yield Hostile("body: 64 MB in chunks, a form", lambda: chunked((block for _ in range(1024)), MULTIPART), TOO_LARGE)
    yield Hostile("body: 300,000 chunks of a byte", lambda: tiny_chunks(300_000), ((422, "bad_json"),))
    yield one(
        "body: chunks of a bad size",
        request(b"zz\r\n", length=-1, headers="Transfer-Encoding: chunked\r\n"),
        *BY_SERVER,
        (400, "client_left"),
        (0, ""),
    )
    yield one("body: shorter than declared", request(search, length=len(search) + 50), (408, "body_too_slow"), waits=True)
    yield one("body: longer than declared", request(search + b"GET / HTTP/1.1\r\n\r\n", length=len(search)), OK)
    yield Hostile(
        "body: chunks that never end", lambda: chunked(iter([search]), ended=False), ((408, "body_too_slow"),), waits=True
    )
    yield one(
        "body: none after Expect",
        request(b"", length=100, headers="Expect: 100-continue\r\n"),
        (408, "body_too_slow"),
        waits=True,
    )
    yield one("body: after Expect", request(search, headers="Expect: 100-continue\r\n"), OK)
    yield one("body: too large after Expect", request(b"", length=LIMIT + 1, headers="Expect: 100-continue\r\n"), *TOO_LARGE)
    yield one("body: says gzip", request(search, headers="Content-Encoding: gzip\r\n"), OK)
    for kind in ("", "text/plain", "application/xml", "application/x-www-form-urlencoded", "application/json-patch+json", "a" * 5000,
                 "application/octet-stream", "image/jpeg", "application/x-pickle"):  # fmt: skip
        yield one(f"content type {kind[:40]!r}", request(search, kind), (415, "bad_content_type"))
    yield one("content type with a charset", request(search, "application/json; charset=utf-7"), OK)
    yield one("content type twice", request(search, headers="Content-Type: text/plain\r\n"), OK, (415, "bad_content_type"))


def form_cases() -> Iterator[Hostile]:
    photo = encoded("JPEG")
    end, bad = b"--b--\r\n", (422, "bad_form")

    def case(name: str, body: bytes, *answers: tuple[int, str], kind: str = MULTIPART) -> Hostile:
        return one(f"form: {name}", request(body, kind), *answers)

    yield case("no boundary", form(photo) + end, bad, kind="multipart/form-data")
    yield case("boundary of 10 kB", form(photo) + end, bad, kind=f"multipart/form-data; boundary={'b' * 10_000}")
    yield case("boundary of another body", form(photo) + end, bad, kind="multipart/form-data; boundary=c")
    yield case("charset that isn't one", form(photo) + end, OK, kind=f"{MULTIPART}; charset=rot13")
    yield case("empty", b"", bad, (422, "no_image"))
    yield case("no end", form(photo), bad, (422, "no_image"))
    yield case("10,000 fields", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 10_000 + end, bad)
    yield case("10,000 files", form(b"", "a") * 10_000 + end, bad)
    yield case("header of 10 MB", form(photo, extra="X: " + "a" * 10_000_000 + "\r\n") + end, bad)
    yield case("100,000 headers", form(photo, extra="X: a\r\n" * 100_000) + end, bad)
    yield case("header without end", form(photo, extra="X: " + "a" * 1_000_000)[:1_000_000], bad)
    yield case("no name", form(photo).replace(b'name="image"; ', b"") + end, bad)
    yield case("name of 10 kB", form(photo, "i" * 10_000) + end, bad, (422, "no_image"))
    yield case("file name with a path", form(photo).replace(b"x.jpg", b"../../../../tmp/x.jpg") + end, OK)
    yield case("file name with NUL", form(photo).replace(b"x.jpg", b"x\0.php") + end, OK, bad)
    yield case("two images", form(photo) * 2 + end, bad)
    yield case("an image and a file", form(photo) + form(photo, "other") + end, bad)
    yield case(
        "a nested form",
        form(form(photo).replace(b"--b", b"--c") + b"--c--\r\n", extra="Content-Type: multipart/mixed; boundary=c\r\n") + end,
        (422, "bad_image"),
    )
    yield case(
        "the image as text", b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nabc\r\n' + end, (422, "no_image")
    )
    yield case(
        "a field of 1 MB", b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n' + b"1" * 1_000_000 + b"\r\n" + end, bad
    )
    yield case("5,000,000 line ends first", b"\r\n" * 5_000_000 + form(photo) + end, bad, OK)
    yield case("5,000,000 line ends last", form(photo) + end + b"\r\n" * 5_000_000, bad, OK)
    yield case("11 MB of near-boundaries", form(b"\r\n--" * (11 << 18)) + end, (422, "bad_image"))
    yield case(
        "base64 as transfer encoding",
        form(b"aGFsbG8=", extra="Content-Transfer-Encoding: base64\r\n") + end,
        (422, "bad_image"),
    )


def path_cases() -> Iterator[Hostile]:
    missing, bad_id = (404, "not_found"), (422, "bad_item_id")

    def get(path: str, *answers: tuple[int, str], method: str = "GET", headers: str = "") -> Hostile:
        return one(
            f"path: {method} {path[:60]} ({len(path)}) {headers[:30].strip()}".rstrip(),
            request(kind="", method=method, path=path, headers=headers),
            *answers,
            method=method,
        )

    for path in ("/v1/items/../../etc/passwd", "/v1/items/..%2F..%2Fetc%2Fpasswd", "/v1/items/%2e%2e%2fa", "/page/..%2f..%2fapi.py", "/page/../api.py",
                 "/page/%2e%2e/limits.py", "//etc/passwd", "/.git/config", "/page/.env", "/page/index.html%00.png"):  # fmt: skip
        yield get(path, missing, bad_id)
    for item in (
        "%00",
        "a%00b",
        "a%0d%0aX-Evil:%201",
        "%ff",
        "%c3%a4",
        "a%20b",
        "%3Cscript%3E",
        "a" * 129,
        "a" * 60_000,
        "%2e%2e",
        "%E2%80%AE",
    ):
        yield get(f"/v1/items/{item}", bad_id, missing, *BY_SERVER)
        yield get(f"/v1/items/{item}/image", bad_id, missing, *BY_SERVER)
    yield get("/v1/index?" + "&".join(f"a{i}={i}" for i in range(5_000)), OK, *BY_SERVER)
    yield get("/" + "a" * 1_000_000, missing, *BY_SERVER, (0, ""))
    yield get("http://127.0.0.1:1/", OK, missing, *BY_SERVER)
    yield get("*", missing, *BY_SERVER, method="OPTIONS")
    for method in ("DELETE", "PUT", "PATCH", "OPTIONS", "TRACE", "HEAD"):
        yield get("/v1/search", (405, "" if method == "HEAD" else "method_not_allowed"), method=method)
    yield get("/v1/search", *BY_SERVER, (0, ""), method="BREW")
    yield get("/v1/search", *BY_SERVER, (0, ""), method="CONNECT")
    yield get("/", OK, (206, ""), headers="Range: bytes=0-0,1-1,2-2\r\n")
    yield get("/", OK, headers="Range: bytes=" + ",".join(["0-"] * 2000) + "\r\n")
    yield get("/", OK, *BY_SERVER, headers="If-None-Match: " + ",".join(['"a"'] * 5000) + "\r\n")
    photo = form(encoded("JPEG")) + b"--b--\r\n"
    for name, query in {
        "k=x": "k=x",
        "k=1e9": "k=1000000000",
        "k=true": "k=true",
        "k=10**3000": "k=1" + "0" * 3000,
        "k=NaN": "k=nan",
    }.items():
        yield one(f"query: {name}", request(photo, MULTIPART, path=f"/v1/search?{query}"), (422, "k_out_of_range"))
    yield one(
        "query: 10,000 verticals",
        request(photo, MULTIPART, path="/v1/search?" + "vertical=a&" * 5000),
        (422, "bad_field"),
        *BY_SERVER,
    )
    yield one(
        "query: 5,000 attributes",
        request(photo, MULTIPART, path="/v1/search?" + "&".join(f"attribute=a{i}=b" for i in range(2500))),
        (422, "bad_field"),
        *BY_SERVER,
    )
    yield one(
        "query: 3,000 unknown fields",
        request(photo, MULTIPART, path="/v1/search?" + "&".join(f"a{i}=1" for i in range(3000))),
        (422, "bad_body"),
        *BY_SERVER,
    )
    yield one("query: invalid UTF-8", request(photo, MULTIPART, path="/v1/search?vertical=%ff%fe"), (422, "unknown_vertical"))


def http_cases(search: bytes) -> Iterator[Hostile]:
    yield one("http: 1.0", request(search, version="1.0"), OK)
    yield one("http: 1.0 without Host", request(search, version="1.0", host=""), OK)
    yield one("http: 1.1 without Host", request(search, host=""), OK, *BY_SERVER)
    yield one("http: 9.9", request(search, version="9.9"), OK, *BY_SERVER, (0, ""))
    yield one("http: foreign Host", request(search, host="Host: evil.example\r\n"), OK)
    yield one("http: 2,000 headers", request(search, headers="".join(f"X-{i}: a\r\n" for i in range(2000))), OK, *BY_SERVER)
    yield one("http: header of 1 MB", request(search, headers=f"X: {'a' * 1_000_000}\r\n"), OK, *BY_SERVER)
    yield one("http: folded header", request(search, headers="X: a\r\n b\r\n"), OK, *BY_SERVER)
    yield one("http: header without a colon", request(search, headers="evil\r\n"), *BY_SERVER)
    yield one("http: header with NUL", request(search, headers="X: a\0b\r\n"), OK, *BY_SERVER)
    yield one(
        "http: forwarded headers",
        request(search, headers="X-Forwarded-For: 127.0.0.1\r\nX-Original-URL: /v1/items:batch\r\n"),
        OK,
    )
    yield one(
        "http: Serve's own headers", request(search, headers="serve_multiplexed_model_id: ../x\r\nX-Request-ID: ../x\r\n"), OK
    )
    yield one("http: no HTTP at all", b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + bytes(300), *BY_SERVER, (0, ""))
    yield one("http: HTTP/2 preface", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", *BY_SERVER, (0, ""))
    yield one("http: line ends alone", b"\r\n" * 50_000 + request(search), OK, *BY_SERVER)
    yield one(
        "http: upgrade",
        request(kind="", method="GET", headers="Upgrade: h2c\r\nConnection: Upgrade\r\n"),
        (405, "method_not_allowed"),
        *BY_SERVER,
    )
    yield one("http: a second request", request(search).replace(b"Connection: close\r\n", b"") + request(search), OK)
