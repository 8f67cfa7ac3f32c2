"""The HTTP interface as a FastAPI application over a SearchService."""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel

from fashion_dml import __version__
from serve import errors, metrics, static
from serve.auth import Tokens
from serve.bodies import BodyBudget
from serve.changes import Changed, Changes, ItemFields, Upsert
from serve.limits import BODY_BYTES, IMAGE_CACHE_SECONDS
from serve.query import check_item_id, parse, parse_json
from serve.schema import Activate, Activated, ErrorReply, IndexReply, Item, JsonSearch, SearchOptions, SearchReply
from serve.service import SearchService
from serve.writer import CatalogueWriter

PROBLEMS: dict[int | str, dict[str, Any]] = {
    401: {"model": ErrorReply, "description": "a token is needed"},
    404: {"model": ErrorReply, "description": "unknown item"},
    422: {"model": ErrorReply, "description": "a field, image or vector that can't be used"},
    429: {"model": ErrorReply, "description": "more requests than a client may send"},
    503: {"model": ErrorReply, "description": "too little of the index answered"},
}
SEARCH_PROBLEMS = PROBLEMS | {
    408: {"model": ErrorReply, "description": "the body arrived too slowly"},
    409: {"model": ErrorReply, "description": "the catalogue isn't at the commit that was asked for"},
    413: {"model": ErrorReply, "description": f"more than {BODY_BYTES:,} bytes"},
    415: {"model": ErrorReply, "description": "neither JSON nor multipart"},
}
ACTIVATE_PROBLEMS: dict[int | str, dict[str, Any]] = {
    202: {"model": Activated, "description": "the version is still being opened"},
    **{status: PROBLEMS[status] for status in (401, 422, 503)},
    403: {"model": ErrorReply, "description": "the service takes no changes"},
    404: {"model": ErrorReply, "description": "unknown version"},
    409: {"model": ErrorReply, "description": "the service's config pins a version"},
    **{status: SEARCH_PROBLEMS[status] for status in (408, 413, 415)},
}
CHANGE_PROBLEMS = SEARCH_PROBLEMS | {403: {"model": ErrorReply, "description": "the service takes no changes"}}


def _search_body() -> dict[str, Any]:
    """OpenAPI of the two kinds of body; options of the multipart kind stand in the query string."""
    options = SearchOptions.model_json_schema()["properties"]
    texts = {
        "verticals": {"type": "array", "items": {"type": "string"}},
        "attributes": {"type": "array", "items": {"type": "string", "description": "column=value"}},
        "crop": {"type": "string", "description": "x0,y0,x1,y1"},
    }
    form = {"type": "object", "properties": {"image": {"type": "string", "format": "binary"}}, "required": ["image"]}
    names = {"verticals": "vertical", "attributes": "attribute"}
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


def _json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """OpenAPI of a JSON body that the route reads itself, to count its bytes as they arrive."""
    schema = kind.model_json_schema()
    known = schema.pop("$defs", {})

    def whole(part: Any) -> Any:
        """References point into the body's own schema, where OpenAPI wouldn't look: put what they name in their place."""
        if isinstance(part, dict):
            return whole(known[part["$ref"].rsplit("/", 1)[1]]) if "$ref" in part else {k: whole(v) for k, v in part.items()}
        return [whole(v) for v in part] if isinstance(part, list) else part

    return {"requestBody": {"required": True, "content": {"application/json": {"schema": whole(schema)}}}}


def create_api(service: SearchService, writer: CatalogueWriter, tokens: Tokens) -> FastAPI:
    """All routes; every refusal has the shape of ErrorReply."""
    reading, changing = [Depends(tokens.may_read)], [Depends(tokens.may_change)]
    app = FastAPIOffline(  # /docs works where there is no internet
        title="fashion-dml search",
        version=__version__,
        description="Visual search over the catalogue of one index version.",
    )
    errors.install(app)
    app.add_middleware(BodyBudget)

    @app.post(
        "/v1/search",
        response_model=None,
        dependencies=reading,
        responses=SEARCH_PROBLEMS | {200: {"model": SearchReply}},
        openapi_extra=_search_body(),
    )
    async def search(request: Request) -> JSONResponse:
        """The items most similar to a photo (multipart field `image`, or image_base64), a vector, or an item."""
        live = service.versions.live
        query, options = await parse(request, live.manifest.dim)
        return JSONResponse(await service.search(live, query, options))

    @app.get("/v1/items/{item_id}", response_model=Item, responses=PROBLEMS, dependencies=reading)
    async def item(item_id: str) -> dict[str, Any]:
        """What is known of an item."""
        return await service.item(check_item_id(item_id))

    @app.put(
        "/v1/items/{item_id}", response_model=Changed, responses=CHANGE_PROBLEMS, dependencies=changing,
        openapi_extra=_json_body(ItemFields),
    )  # fmt: skip
    async def put(request: Request, item_id: str) -> dict[str, Any]:
        """Add an item or replace it. Sending it again changes nothing. The reply comes when the change is durable."""
        fields = await parse_json(request, ItemFields)
        return await writer.change(Changes(upserts=[Upsert(item_id=check_item_id(item_id), **fields.model_dump())]))

    @app.delete("/v1/items/{item_id}", response_model=Changed, responses=CHANGE_PROBLEMS, dependencies=changing)
    async def delete(item_id: str) -> dict[str, Any]:
        """Take an item out; it is no error if it isn't there."""
        return await writer.change(Changes(deletes=[check_item_id(item_id)]))

    @app.post(
        "/v1/items:batch", response_model=Changed, responses=CHANGE_PROBLEMS, dependencies=changing,
        openapi_extra=_json_body(Changes),
    )  # fmt: skip
    async def batch(request: Request) -> dict[str, Any]:
        """Many changes in one commit: searches see all of them or none."""
        changes = await parse_json(request, Changes)
        for item_id in [u.item_id for u in changes.upserts] + changes.deletes:
            check_item_id(item_id)
        return await writer.change(changes)

    @app.get(
        "/v1/items/{item_id}/image", response_class=Response, responses=PROBLEMS | {200: {"content": {"image/jpeg": {}}}},
        dependencies=reading,
    )  # fmt: skip
    async def image(request: Request, item_id: str) -> Response:
        """The item's thumbnail, a JPEG; browsers may keep it."""
        content = await service.thumbnail(check_item_id(item_id))
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        return static.cached(request, content, "image/jpeg", etag, f"public, max-age={IMAGE_CACHE_SECONDS}")

    @app.get("/v1/index", response_model=IndexReply, responses={s: PROBLEMS[s] for s in (401, 429, 503)}, dependencies=reading)
    async def index() -> dict[str, Any]:
        """What the live index holds, and which versions there are."""
        return await service.index()

    @app.post(
        "/v1/index:activate", responses=ACTIVATE_PROBLEMS | {200: {"model": Activated}}, response_model=None,
        dependencies=changing, openapi_extra=_json_body(Activate),
    )  # fmt: skip
    async def activate(request: Request) -> JSONResponse:
        """Make an index version the live one, and its model with it; an older one too. Searches go on meanwhile, each from one version.

        200: every replica serves it. 202: it is still being opened; ask again, or look at GET /v1/index.
        """
        version = (await parse_json(request, Activate)).version
        done = await service.versions.activate(version)
        return JSONResponse({"version": version, "live": done}, 200 if done else 202)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", responses={503: {"description": "not ready"}})
    async def readyz() -> JSONResponse:
        """200 when the encoder and every shard of the index answer."""
        ready, state = await service.ready()
        return JSONResponse(state, 200 if ready else 503)

    metrics.install(app, reading)
    static.install(app)
    return app
