"""The search page's files: read once, served by name from memory, under a policy that allows nothing foreign."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response

from serve.errors import Refusal

PAGE = Path(__file__).parent / "page"
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml", ".png": "image/png", ".webp": "image/webp", ".woff2": "font/woff2",
}  # fmt: skip
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; font-src 'self'; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SAFE = {"X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}


@dataclass(frozen=True)
class StaticFile:
    content: bytes
    media_type: str
    etag: str


def read_page(directory: Path = PAGE) -> dict[str, StaticFile]:
    """The files directly in the directory whose type is listed, by name."""
    files = {}
    for path in sorted(directory.iterdir()):
        if path.is_file() and path.suffix in TYPES:
            content = path.read_bytes()
            files[path.name] = StaticFile(content, TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:16]}"')
    return files


def cached(request: Request, content: bytes, media_type: str, etag: str, cache: str, **headers: str) -> Response:
    """The content, or 304 when the browser has it."""
    common = {"ETag": etag, "Cache-Control": cache, **SAFE, **headers}
    known = [
        tag.strip().removeprefix("W/") for tag in request.headers.get("if-none-match", "").split(",")
    ]  # proxies weaken tags
    if etag in known or known == ["*"]:
        return Response(status_code=304, headers=common)
    return Response(content, media_type=media_type, headers=common)


def install(app: FastAPI) -> None:
    """`/` and `/page/NAME`."""
    files = read_page()

    def reply(request: Request, name: str) -> Response:
        file = files.get(name)
        if file is None:
            raise Refusal(404, "not_found", f"The page has no file {name[:60]!r}.")
        return cached(request, file.content, file.media_type, file.etag, "no-cache", **{"Content-Security-Policy": POLICY})

    @app.get("/", include_in_schema=False)
    async def page(request: Request) -> Response:
        return reply(request, "index.html")

    @app.get("/page/{name}", include_in_schema=False)
    async def file(request: Request, name: str) -> Response:
        return reply(request, name)
