"""From a request's body to a query: read with a limit, JSON or multipart, checked, decoded to the model's input."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Any, TypeVar

import numpy as np
from fastapi import Request
from PIL import Image
from pydantic import BaseModel, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from fashion_dml.data.decode import TOO_LARGE, TOO_MANY_SCANS, UnreadableImage, letterbox, to_rgb
from fashion_dml.data.thumbnail import jpeg
from serve import limits
from serve.bodies import check_json
from serve.changes import decoded
from serve.errors import Refusal
from serve.schema import JsonSearch, SearchOptions, refusal

Crop = tuple[float, float, float, float]
Fields = TypeVar("Fields", bound=BaseModel)
Query = bytes | np.ndarray | str
"""An encoded image, a unit vector float32 [D], or an item_id."""
IMAGE_CODES = {TOO_LARGE: "image_too_large", TOO_MANY_SCANS: "image_too_complex"}


async def read_body(request: Request) -> bytes:
    """The whole body, refused as soon as it exceeds the limit (declared or counted) or takes too long."""
    most = limits.BODY_BYTES
    too_large = Refusal(413, "body_too_large", f"The body has more than {most:,} bytes; send a smaller image.", limit=most)
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared[:20]) > most:
        raise too_large
    parts, size = [], 0
    try:
        async with asyncio.timeout(limits.BODY_SECONDS):
            async for part in request.stream():
                size += len(part)
                if size > most:
                    raise too_large
                parts.append(part)
    except TimeoutError as error:
        slow = limits.BODY_SECONDS
        raise Refusal(408, "body_too_slow", f"The body took more than {slow:g} seconds to arrive.", limit=slow) from error
    return b"".join(parts)


async def parse_json(request: Request, kind: type[Fields]) -> Fields:
    """A JSON body of these fields. Raises Refusal."""
    sent = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if sent != "application/json":
        raise Refusal(415, "bad_content_type", f"The content type {sent[:60]!r} can't be read; send application/json.")
    try:
        body = check_json(await read_body(request), limits.JSON_VALUES_CHANGES, limits.JSON_NAMES_CHANGES)
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise refusal(error, kind.model_fields) from error


async def parse(request: Request, dim: int) -> tuple[Query, SearchOptions]:
    """The query and its options from a JSON or a multipart request. Raises Refusal."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise Refusal(
            415,
            "bad_content_type",
            f"The content type {kind[:60]!r} can't be read; send application/json or multipart/form-data.",
        )
    body = await read_body(request)
    try:
        if kind == "application/json":
            asked = JsonSearch.model_validate_json(check_json(body, limits.JSON_VALUES, limits.JSON_NAMES))
            return _json_query(asked, dim), asked
        options = _query_string(request)
    except ValidationError as error:
        raise refusal(error) from error
    return await _form_image(request, body), options


def _json_query(asked: JsonSearch, dim: int) -> Query:
    if asked.item_id is not None:
        return check_item_id(asked.item_id)
    if asked.vector is not None:
        return unit_vector(asked.vector, dim)
    return decoded(asked.image_base64 or "")


def _query_string(request: Request) -> SearchOptions:
    """Options of a multipart search; they stand in the query string. Numbers come as text and are read leniently."""
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name == "vertical":
            given.setdefault("verticals", []).append(value)
        elif name == "attribute":
            column, _, wanted = value.partition("=")
            given.setdefault("attributes", {}).setdefault(column, []).append(wanted)
        elif name in given or name in ("verticals", "attributes"):
            raise Refusal(
                422, "bad_field",
                f"{name[:60]} can't be given like this; give `vertical` and `attribute` as often as needed, the others once.",
            )  # fmt: skip
        else:
            given[name] = value.split(",") if name == "crop" else value
    return SearchOptions.model_validate(given)


async def _form_image(request: Request, body: bytes) -> bytes:
    """The one file field `image` of a multipart body."""

    async def replay() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        request.headers, replay(), max_files=1, max_fields=limits.FORM_FIELDS, max_part_size=limits.FORM_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise Refusal(
            422, "bad_form", "The multipart body can't be read; send one file field `image`, as curl -F image=@photo.jpg does."
        ) from error
    image = form.get("image")
    if not isinstance(image, UploadFile):
        raise Refusal(422, "no_image", "The multipart body has no file field `image`; send curl -F image=@photo.jpg.")
    try:
        return await image.read()
    finally:
        await form.close()


def check_item_id(item_id: str) -> str:
    """Raises Refusal unless it matches the pattern of ids."""
    if not limits.ITEM_ID.fullmatch(item_id):
        raise Refusal(
            422,
            "bad_item_id",
            f"The item_id {item_id[:60]!r} can't be one: it must match {limits.ITEM_ID.pattern}.",
            limit=limits.ITEM_ID.pattern,
        )
    return item_id


def unit_vector(values: list[float], dim: int) -> np.ndarray:
    """float32 [D] of length 1. Raises Refusal for another dimension, NaN, infinity or zero."""
    if len(values) != dim:
        raise Refusal(422, "bad_vector", f"The vector has {len(values)} numbers; this index's model makes {dim}.", limit=dim)
    vector = np.array(values, np.float64)
    if not np.isfinite(vector).all():
        raise Refusal(422, "bad_vector", "The vector holds NaN or infinity; send finite numbers.")
    largest = np.abs(vector).max()
    if largest == 0:
        raise Refusal(422, "bad_vector", "The vector is zero, so it has no direction; send one that isn't.")
    vector /= largest  # so that squaring can't overflow or vanish
    return (vector / np.linalg.norm(vector)).astype(np.float32)


def pixels(data: bytes, crop: Crop | None, height: int, width: int) -> np.ndarray:
    """An encoded image, or its part, to the model's input exactly as in training: uint8 [height, width, 3]. Raises Refusal."""
    image = _opened(data)
    if crop is not None:
        left, top = int(crop[0] * image.width), int(crop[1] * image.height)
        right, bottom = max(left + 1, round(crop[2] * image.width)), max(top + 1, round(crop[3] * image.height))
        image = image.crop(
            (min(left, image.width - 1), min(top, image.height - 1), min(right, image.width), min(bottom, image.height))
        )
    return letterbox(image, height, width)


def pixels_and_thumbnail(data: bytes, height: int, width: int, side: int) -> tuple[np.ndarray, bytes]:
    """An encoded image to the model's input, uint8 [height, width, 3], and a JPEG of at most `side` pixels, written anew. Raises
    Refusal."""
    image = _opened(data)
    return letterbox(image, height, width), jpeg(image, side)


def _opened(data: bytes) -> Image.Image:
    try:
        return to_rgb(data)
    except UnreadableImage as error:
        code = IMAGE_CODES.get(error.reason, "bad_image")
        raise Refusal(422, code, f"The image can't be used: {error}.", limit=error.limit) from error
