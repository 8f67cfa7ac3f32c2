"""The HTTP interface as a FastAPI application over a SearchService."""

from __future__ import annotations

import hashlib
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from fastapi_offline import FastAPIOffline

from fashion_dml import __version__
from serve import errors, metrics, openapi, static
from serve.auth import Tokens
from serve.batch import BatchReply, parse_batch
from serve.bodies import BodyBudget
from serve.changes import Changed, Changes, ItemFields, Upsert
from serve.limits import BATCH_BODY_BYTES, BODY_BYTES, IMAGE_CACHE_SECONDS
from serve.query import check_item_id, parse, parse_json
from serve.replies import json_response
from serve.schema import Activate, Activated, ErrorReply, IndexReply, Item, SearchReply
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
    409: {"model": ErrorReply, "description": "the catalogue isn't at the commit that was asked for, or another index is live"},
    413: {"model": ErrorReply, "description": f"more than {BODY_BYTES:,} bytes"},
    415: {"model": ErrorReply, "description": "neither JSON nor multipart"},
}
ACTIVATE_PROBLEMS: dict[int | str, dict[str, Any]] = {
    202: {"model": Activated, "description": "the version is still being opened"},
    **{status: PROBLEMS[status] for status in (401, 422, 429, 503)},
    403: {"model": ErrorReply, "description": "the service takes no changes"},
    404: {"model": ErrorReply, "description": "unknown version"},
    409: {"model": ErrorReply, "description": "the service's config pins a version"},
    **{status: SEARCH_PROBLEMS[status] for status in (408, 413, 415)},
}
BATCH_PROBLEMS = SEARCH_PROBLEMS | {413: {"model": ErrorReply, "description": f"more than {BATCH_BODY_BYTES:,} bytes"}}
CHANGE_PROBLEMS = SEARCH_PROBLEMS | {403: {"model": ErrorReply, "description": "the service takes no changes"}}


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
        openapi_extra=openapi.search_body(),
    )
    async def search(request: Request) -> Response:
        """The items most similar to a photo (multipart field `image`, or image_base64), a vector, or an item; or to several items, and
        not to others. The next page asks for the same and for what `next` of the reply holds."""
        live = service.versions.live
        asked, options = await parse(request, live.manifest.dim)
        return json_response(await service.search(live, asked, options))

    @app.post(
        "/v1/search:batch",
        response_model=None,
        dependencies=reading,
        responses=BATCH_PROBLEMS | {200: {"model": BatchReply}},
        openapi_extra=openapi.batch_body(),
    )
    async def search_batch(request: Request) -> Response:
        """Many searches with the same options in one request: all are answered, or none and the reply names the one that is wrong."""
        live = service.versions.live
        queries, options = await parse_batch(request, live.manifest.dim)
        return json_response(await service.search_batch(live, queries, options))

    @app.get("/v1/items/{item_id}", response_model=Item, responses=PROBLEMS, dependencies=reading)
    async def item(item_id: str) -> dict[str, Any]:
        """What is known of an item."""
        return await service.item(check_item_id(item_id))

    @app.put(
        "/v1/items/{item_id}", response_model=Changed, responses=CHANGE_PROBLEMS, dependencies=changing,
        openapi_extra=openapi.json_body(ItemFields),
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
        openapi_extra=openapi.json_body(Changes),
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
    async def image(request: Request, item_id: str, v: str = "") -> Response:
        """The item's thumbnail, a JPEG. Browsers keep it for good under the image_url of a reply, whose `v` changes with the item; without
        `v`, or with an older one, they ask again each time."""
        content, state = await service.thumbnail(check_item_id(item_id))
        etag = f'"{hashlib.sha256(content).hexdigest()[:16]}"'
        whose = "public" if tokens.public else "private"
        cache = f"{whose}, max-age={IMAGE_CACHE_SECONDS}, immutable" if v == state else f"{whose}, no-cache"
        return static.cached(request, content, "image/jpeg", etag, cache)

    @app.get("/v1/index", response_model=IndexReply, responses={s: PROBLEMS[s] for s in (401, 429, 503)}, dependencies=reading)
    async def index() -> dict[str, Any]:
        """What the live index holds, and which versions there are."""
        return await service.index()

    @app.post(
        "/v1/index:activate", responses=ACTIVATE_PROBLEMS | {200: {"model": Activated}}, response_model=None,
        dependencies=changing, openapi_extra=openapi.json_body(Activate),
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
