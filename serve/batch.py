"""Many searches in one request: read, checked, and refused as a whole with the place of the query that is wrong."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

import numpy as np
from fastapi import Request
from pydantic import ConfigDict, Field, ValidationError, model_validator

from serve import limits
from serve.asked import Asked
from serve.bodies import check_json
from serve.errors import Refusal
from serve.query import content_type, form_images, json_source, query_string, read_body, unit_vectors
from serve.schema import CROP, Answer, Crop, JsonQuery, Options, Searched, refusal

VECTORS_CHARACTERS = (limits.BATCH_QUERIES * limits.VECTOR_MOST * 4 + 2) // 3 * 4 + 4


class BatchQuery(JsonQuery):
    """One query of a batch: exactly one of image_base64, vector and item_id."""

    model_config = ConfigDict(extra="forbid", strict=True)

    crop: Crop | None = Field(None, description=CROP)

    @model_validator(mode="after")
    def _one(self) -> BatchQuery:
        if len(self.given()) != 1:
            raise ValueError(f"give exactly one of {', '.join(JsonQuery.model_fields)}; {len(self.given())} are given")
        if self.crop is not None and self.image_base64 is None:
            raise ValueError("crop goes with an image only")
        return self


class BatchSearch(Options):
    """A batch as JSON: `queries`, or `vectors_base64` alone. The options are those of every query of it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    queries: Annotated[list[BatchQuery], Field(min_length=1, max_length=limits.BATCH_QUERIES)] | None = Field(
        None, description=f"at most {limits.BATCH_QUERIES}, {limits.BATCH_IMAGES} of them images"
    )
    vectors_base64: str | None = Field(
        None, max_length=VECTORS_CHARACTERS,
        description=f"at most {limits.BATCH_QUERIES} vectors one after the other, little-endian float32, base64: numbers as text cost "
        "more than the search",
    )  # fmt: skip

    @model_validator(mode="after")
    def _one(self) -> BatchSearch:
        if (self.queries is None) == (self.vectors_base64 is None):
            raise ValueError("give exactly one of queries and vectors_base64")
        return self


class BatchReply(Searched):
    answers: list[Answer] = Field(description="one a query, in their order")


async def parse_batch(request: Request, dim: int) -> tuple[list[Asked], Options]:
    """The queries and the options that they share, from a JSON or a multipart request. Raises Refusal."""
    kind, body = content_type(request), await read_body(request, limits.BATCH_BODY_BYTES)
    try:
        if kind == "application/json":
            checked = check_json(body, limits.JSON_VALUES_BATCH, limits.JSON_NAMES)
            options: Options = BatchSearch.model_validate_json(checked)
        else:
            options = query_string(request, Options)
    except ValidationError as error:
        inside = error.errors(include_url=False)[0]["loc"][:1] == ("queries",)
        raise refusal(error, (BatchQuery if inside else BatchSearch).model_fields) from error
    if not isinstance(options, BatchSearch):
        images = await form_images(request, body, limits.BATCH_IMAGES)
        asked = [Asked(image, f"image.{place}") for place, image in enumerate(images)]
    elif options.vectors_base64 is not None:
        asked = _packed(options.vectors_base64, dim)
    else:
        asked = _listed(options.queries or [], dim, options.exclude_self)
    results = len(asked) * (options.offset + options.k)
    if results > limits.BATCH_RESULTS:
        raise Refusal(
            422, "too_many_results", f"{len(asked)} queries x {options.offset + options.k} results (offset + k) are {results:,}; at most "
            f"{limits.BATCH_RESULTS:,} may be asked for at a time.", limit=limits.BATCH_RESULTS,
        )  # fmt: skip
    return asked, options


def _listed(queries: list[BatchQuery], dim: int, exclude_self: bool) -> list[Asked]:
    images = sum(query.image_base64 is not None for query in queries)
    if images > limits.BATCH_IMAGES:
        raise Refusal(
            422, "too_many_images", f"{images} of the queries are images; at most {limits.BATCH_IMAGES} of a batch may be.",
            limit=limits.BATCH_IMAGES,
        )  # fmt: skip
    places = [place for place, query in enumerate(queries) if query.vector is not None and len(query.vector) == dim]
    vectors = np.array([queries[place].vector for place in places], np.float64).reshape(-1, dim)
    found, wrong = unit_vectors(vectors)  # all at once: one by one takes a millisecond a dozen
    for row, problem in wrong.items():
        raise problem.at(f"queries.{places[row]}")
    known = dict(zip(places, found, strict=True))
    asked = []
    for place, query in enumerate(queries):
        at = f"queries.{place}"
        try:
            source = known[place] if place in known else json_source(query, dim)
        except Refusal as problem:
            raise problem.at(at) from problem
        asked.append(Asked(source, at, query.crop, exclude_self=exclude_self))
    return asked


def _packed(text: str, dim: int) -> list[Asked]:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(422, "bad_base64", "vectors_base64 is not base64 of the standard alphabet with padding.") from error
    most = limits.BATCH_QUERIES
    if not data or len(data) % (4 * dim):
        raise Refusal(
            422, "bad_vector", f"vectors_base64 holds {len(data):,} bytes; send whole vectors of {dim} float32 numbers, {4 * dim:,} bytes each.",
            limit=dim,
        )  # fmt: skip
    if len(data) > most * 4 * dim:
        raise Refusal(
            422,
            "too_many_queries",
            f"vectors_base64 holds {len(data) // (4 * dim):,} vectors; send at most {most} at a time.",
            limit=most,
        )
    found, wrong = unit_vectors(np.frombuffer(data, "<f4").reshape(-1, dim))
    for row, problem in wrong.items():
        raise problem.at(f"vectors_base64.{row}")
    return [Asked(vector, f"vectors_base64.{row}") for row, vector in enumerate(found)]
