"""The HTTP interface as a FastAPI application over a SearchService."""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline

from fashion_dml import __version__
from serve import errors, static
from serve.limits import BODY_BYTES, IMAGE_CACHE_SECONDS
from serve.query import check_item_id, parse
from serve.schema import ErrorReply, IndexReply, Item, JsonSearch, SearchOptions, SearchReply
from serve.service import SearchService

PROBLEMS: dict[int | str, dict[str, Any]] = {
    404: {"model": ErrorReply, "description": "unknown item"},
    422: {"model": ErrorReply, "description": "a field, image or vector that can't be used"},
    503: {"model": ErrorReply, "description": "too little of the index answered"},
}
SEARCH_PROBLEMS = PROBLEMS | {
    408: {"model": ErrorReply, "description": "the body arrived too slowly"},
    413: {"model": ErrorReply, "description": f"more than {BODY_BYTES:,} bytes"},
    415: {"model": ErrorReply, "description": "neither JSON nor multipart"},
}


def _search_body() -> dict[str, Any]:
    """OpenAPI of the two kinds of body; options of the multipart kind stand in the query string."""
    options = SearchOptions.model_json_schema()["properties"]
    texts = {
        "verticals": {"type": "array", "items": {"type": "string"}},
        "crop": {"type": "string", "description": "x0,y0,x1,y1"},
    }
    form = {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}, "required": ["image"]}
    names = {"verticals": "vertical"}
    return {
        "requestBody": {
            "required": True,
            "content": {
                "multipart/form-data": {"schema": form},
                "application/json": {"schema": JsonSearch.model_json_schema()},
            },
        },
        "parameters": [
            {
                "name": names.get(name, name), "in": "query", "required": False, "schema": texts.get(name, schema),
                "description": f"multipart only: {schema.get('description', '')}",
            }
            for name, schema in options.items()
        ],
    }  # fmt: skip


def create_api(service: SearchService) -> FastAPI:
    """All routes; every refusal has the shape of ErrorReply."""
    app = FastAPIOffline(  # /docs works where there is no internet
        title="fashion-dml search", version=__version__, description="Visual search over the catalogue of one index version."
    )
    errors.install(app)

    @app.post(
        "/v1/search",
        response_model=None,
        responses=SEARCH_PROBLEMS | {200: {"model": SearchReply}},
        openapi_extra=_search_body(),
    )
    async def search(request: Request) -> JSONResponse:
        """The items most similar to a photo (multipart field `image`, or image_base64), a vector, or an item."""
        query, options = await parse(request, service.manifest.dim)
        return JSONResponse(await service.search(query, options))

    @app.get("/v1/items/{item_id}", response_model=Item, responses=PROBLEMS)
    async def item(item_id: str) -> dict[str, Any]:
        """What is known of an item."""
        return (await service.item(check_item_id(item_id)))[0]

    @app.get("/v1/items/{item_id}/image", response_class=Response, responses=PROBLEMS | {200: {"content": {"image/jpeg": {}}}})
    async def image(request: Request, item_id: str) -> Response:
        """The item's thumbnail, a JPEG; browsers may keep it."""
        content = await service.thumbnail(check_item_id(item_id))
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        return static.cached(request, content, "image/jpeg", etag, f"public, max-age={IMAGE_CACHE_SECONDS}")

    @app.get("/v1/index", response_model=IndexReply)
    async def index() -> dict[str, Any]:
        """What the live index holds."""
        return service.index()

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "not ready"}})
    async def readyz() -> JSONResponse:
        """200 when the encoder and every shard of the index answer."""
        ready, state = await service.ready()
        return JSONResponse(state, 200 if ready else 503)

    static.install(app)
    return app
