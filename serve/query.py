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
from serve.asked import Asked, Crop, Source
from serve.bodies import check_json
from serve.changes import decoded
from serve.errors import Refusal
from serve.schema import JsonQuery, JsonSearch, Options, SearchOptions, refusal

Fields = TypeVar("Fields", bound=BaseModel)
Given = TypeVar("Given", bound=Options)
IMAGE_CODES = {TOO_LARGE: "image_too_large", TOO_MANY_SCANS: "image_too_complex"}
UNIT = 1e-6  # a length that is 1 up to the rounding of float32
LISTS = {"vertical": "verticals", "like": "like", "unlike": "unlike"}
"""Parameters that may come several times."""


async def read_body(request: Request, most: int = limits.BODY_BYTES) -> bytes:
    """The whole body, refused as soon as it exceeds the limit (declared or counted) or takes too long."""
    too_large = Refusal(
        413, "body_too_large", f"The body has more than {most:,} bytes; send a smaller image, or fewer.", limit=most
    )
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


def content_type(request: Request) -> str:
    """application/json or multipart/form-data. Raises Refusal at others."""
    kind = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if kind not in ("application/json", "multipart/form-data"):
        raise Refusal(
            415,
            "bad_content_type",
            f"The content type {kind[:60]!r} can't be read; send application/json or multipart/form-data.",
        )
    return kind


async def parse(request: Request, dim: int) -> tuple[Asked, SearchOptions]:
    """The query and its options from a JSON or a multipart request. Raises Refusal."""
    kind, body = content_type(request), await read_body(request)
    try:
        if kind == "application/json":
            checked = check_json(body, limits.JSON_VALUES, limits.JSON_NAMES)
            options: SearchOptions = JsonSearch.model_validate_json(checked)
        else:
            options = query_string(request, SearchOptions)
    except ValidationError as error:
        raise refusal(error) from error
    source = json_source(options, dim) if isinstance(options, JsonSearch) else (await form_images(request, body, 1))[0]
    like, unlike = (tuple(dict.fromkeys(check_item_id(item) for item in items)) for items in (options.like, options.unlike))
    return Asked(source, "", options.crop, like, unlike, options.unlike_weight, options.exclude_self).check(), options


def json_source(asked: JsonQuery, dim: int) -> Source:
    """What one query is by. Raises Refusal."""
    if asked.item_id is not None:
        return check_item_id(asked.item_id)
    if asked.vector is not None:
        return unit_vector(asked.vector, dim)
    return None if asked.image_base64 is None else decoded(asked.image_base64)


def query_string(request: Request, kind: type[Given]) -> Given:
    """Options of a multipart search; they stand in the query string. Numbers come as text and are read leniently."""
    given: dict[str, Any] = {}
    for name, value in request.query_params.multi_items():
        if name in LISTS:
            given.setdefault(LISTS[name], []).append(value)
        elif name == "attribute":
            column, _, wanted = value.partition("=")
            given.setdefault("attributes", {}).setdefault(column, []).append(wanted)
        elif name in given or name in ("verticals", "attributes"):
            raise Refusal(
                422, "bad_field",
                f"{name[:60]} can't be given like this; give `vertical`, `attribute`, `like` and `unlike` as often as needed, the others once.",
            )  # fmt: skip
        else:
            given[name] = value.split(",") if name == "crop" else value
    return kind.model_validate(given)


async def form_images(request: Request, body: bytes, most: int) -> list[bytes]:
    """The file fields `image` of a multipart body, one to `most`. Raises Refusal."""

    async def replay() -> AsyncGenerator[bytes, None]:
        yield body

    parser = MultiPartParser(
        request.headers, replay(), max_files=most, max_fields=limits.FORM_FIELDS, max_part_size=limits.FORM_FIELD_BYTES
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        if most > 1 and "Too many files" in str(error):
            raise Refusal(
                422, "too_many_images", f"The body has more than {most} images; send fewer at a time.", limit=most
            ) from error
        fields = "one file field `image`" if most == 1 else f"one to {most} file fields `image`"
        raise Refusal(
            422, "bad_form", f"The multipart body can't be read; send {fields}, as curl -F image=@photo.jpg does."
        ) from error
    try:
        images = [await image.read() for image in form.getlist("image") if isinstance(image, UploadFile)]
        other = next((name for name, value in form.multi_items() if name != "image" or not isinstance(value, UploadFile)), None)
    finally:
        await form.close()
    if not images:
        raise Refusal(422, "no_image", "The multipart body has no file field `image`; send curl -F image=@photo.jpg.")
    if other is not None:
        raise Refusal(
            422, "unknown_field",
            f"The multipart body has a field {other[:60]!r} beside files named `image`; options go into the address, as in ?k=5.",
        )  # fmt: skip
    return images


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
    found, wrong = unit_vectors(np.array([values], np.float64))
    if wrong:
        raise wrong[0]
    return found[0]


def unit_vectors(vectors: np.ndarray) -> tuple[np.ndarray, dict[int, Refusal]]:
    """(rows of float [Q, D] made unit vectors, float32, why some rows can't be).

    A row that is a unit vector of float32 already stays as it is, so that a vector which a reply gave is asked by unchanged.
    """
    wide = vectors.astype(np.float64)
    finite = np.asarray(np.isfinite(wide).all(axis=1))
    largest = np.abs(wide).max(axis=1, initial=0)
    wrong = {
        int(row): Refusal(422, "bad_vector", "The vector holds NaN or infinity; send finite numbers.")
        if not finite[row]
        else Refusal(422, "bad_vector", "The vector is zero, so it has no direction; send one that isn't.")
        for row in np.flatnonzero(~finite | (largest == 0))
    }
    if wrong:
        return np.empty((0, wide.shape[1]), np.float32), wrong
    scaled = wide / largest[:, None]  # so that squaring can't overflow or vanish
    lengths = np.sqrt((scaled * scaled).sum(axis=1))
    found = (scaled / lengths[:, None]).astype(np.float32)
    kept = np.flatnonzero(np.abs(lengths - 1 / largest) < UNIT * lengths)
    found[kept] = wide[kept]
    return found, wrong


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
