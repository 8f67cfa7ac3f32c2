"""Requests and replies of the HTTP interface, and one clear refusal for each field that is wrong."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from serve.errors import Refusal
from serve.limits import (
    ATTRIBUTES_MOST,
    K_DEFAULT,
    K_MOST,
    LIKE_MOST,
    MISTAKES,
    PAGE_DEPTH,
    UNLIKE_WEIGHT,
    VALUES_MOST,
    VECTOR_MOST,
    VERTICALS_MOST,
)

Fraction = Annotated[float, Field(ge=0, le=1)]
Box = tuple[Fraction, Fraction, Fraction, Fraction]
CROP = "x0, y0, x1, y1 of the part of the upright image to search by, as fractions of its width and height"


def _box(box: Box) -> Box:
    if not (box[0] < box[2] and box[1] < box[3]):
        raise ValueError("crop must have x0 < x1 and y0 < y1")
    return box


Crop = Annotated[Box, AfterValidator(_box)]


class Options(BaseModel):
    """What a search or a batch of them may ask for besides the queries themselves."""

    model_config = ConfigDict(extra="forbid")

    k: Annotated[int, Field(ge=1, le=K_MOST)] = Field(K_DEFAULT, description="how many results")
    offset: Annotated[int, Field(ge=0, le=PAGE_DEPTH - 1)] = Field(
        0, description=f"how many of the best to leave out, those of the pages before; offset + k is at most {PAGE_DEPTH:,}"
    )
    verticals: list[str] = Field([], max_length=VERTICALS_MOST, description="only items of these verticals; empty: all")
    attributes: dict[str, Annotated[list[str], Field(min_length=1, max_length=VALUES_MOST)]] = Field(
        {}, max_length=ATTRIBUTES_MOST,
        description="{column: values}: only items known to have one of the values, of every column",
    )  # fmt: skip
    group_by: Literal["product"] | None = Field(None, description="product: at most one item of each product")
    min_coverage: Fraction = Field(0.0, description="refuse with 503 when a smaller share of the index answers")

    catalog_at_least: Annotated[int, Field(ge=0)] = Field(
        0,
        description="a commit of the catalogue that the search must see, as a change's reply names it; 0: what the service knows",
    )
    catalog_at: Annotated[int, Field(ge=0)] | None = Field(
        None, description="search the catalogue exactly as it was after this commit, as `next` of the page before names it"
    )
    index: str | None = Field(
        None, max_length=64, description="refuse with 409 when another version of the index is live, as `next` names it"
    )
    exclude_self: bool = Field(
        False, description="leave the item searched for out of the results; with group_by=product its whole product"
    )
    with_vector: bool = Field(
        False,
        description="reply with the query's vector too: the next page or a change of filters can ask by it, without the photo",
    )

    @model_validator(mode="after")
    def _page(self) -> Options:
        if self.offset + self.k > PAGE_DEPTH:
            raise ValueError(
                f"offset + k = {self.offset + self.k} is too deep: at most {PAGE_DEPTH:,} results can be paged through"
            )
        if self.catalog_at is not None and self.catalog_at_least:
            raise ValueError("give catalog_at or catalog_at_least, not both")
        return self


class SearchOptions(Options):
    """What a search may ask for besides the query itself."""

    crop: Crop | None = Field(None, description=CROP)
    like: list[str] = Field(
        [],
        max_length=LIKE_MOST,
        description="items that the results are to be like, beside the photo, vector or item or without one",
    )
    unlike: list[str] = Field(
        [], max_length=LIKE_MOST, description="items that they aren't to be like; none of the given items is among the results"
    )
    unlike_weight: Fraction = Field(
        UNLIKE_WEIGHT, description="how far to go away from those: the query is mean(like) - unlike_weight x mean(unlike)"
    )


class JsonQuery(BaseModel):
    """By what one query searches."""

    image_base64: str | None = Field(None, description="JPEG, PNG or WebP, base64")
    vector: list[float] | None = Field(
        None, max_length=VECTOR_MOST, fail_fast=True, description="an embedding of the index's model; any length but zero"
    )
    item_id: str | None = Field(None, description="an item of the catalogue; it comes first itself, unless exclude_self")

    def given(self) -> list[str]:
        """Names of the fields that are set."""
        return [name for name in JsonQuery.model_fields if getattr(self, name) is not None]


class JsonSearch(JsonQuery, SearchOptions):
    """A search as JSON: exactly one of image_base64, vector and item_id, or at most one beside `like`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    @model_validator(mode="after")
    def _one(self) -> JsonSearch:
        given = self.given()
        if len(given) > 1 or not (given or self.like):
            raise ValueError(f"give exactly one of {', '.join(JsonQuery.model_fields)}, or like; {len(given)} are given")
        if self.crop is not None and self.image_base64 is None:
            raise ValueError("crop goes with an image only")
        return self


class Item(BaseModel):
    item_id: str
    product_id: str
    vertical: str
    image_url: str
    attributes: dict[str, str]


class Result(Item):
    score: float = Field(description="cosine similarity, -1 to 1")


class Milliseconds(BaseModel):
    decode: float
    encode: float
    search: float
    total: float


class Next(BaseModel):
    """What the next page asks for beside all that this one did: it goes on where this one ends, in the same state of the catalogue."""

    offset: int
    k: int
    catalog_at: int
    index: str


class Answer(BaseModel):
    results: list[Result] = Field(description="best first; equal scores by item_id")
    vector: list[float] | None = Field(None, description="the query's own, before like and unlike; only with_vector")


class Searched(BaseModel):
    k: int
    offset: int
    model: str = Field(description="first 12 digits of the sha256 of the model's weights")
    index: str = Field(description="version of the index")
    catalog: int = Field(description="commit of the live catalogue that the answer is of")
    coverage: float = Field(description="share of the index's items that were searched")
    next: Next | None = Field(description="null where this page is the last")
    milliseconds: Milliseconds


class SearchReply(Searched, Answer):
    pass


class VerticalCounts(BaseModel):
    name: str
    items: int
    products: int


class IndexReply(BaseModel):
    version: str
    model: str
    dim: int
    items: int
    products: int
    kind: str
    shards: int
    catalog: int = Field(
        description="newest commit of the live catalogue that searches see; items and products are the index's own"
    )
    attributes: dict[str, list[str]] = Field(description="what searches may filter by: {column: values}")
    verticals: list[VerticalCounts]
    versions: list[str] = Field(description="what index:activate can make the live one, oldest first")


class Activate(BaseModel):
    """Which index version is to be the live one."""

    model_config = ConfigDict(extra="forbid", strict=True)

    version: str = Field(description="one of the versions that GET /v1/index names")


class Activated(BaseModel):
    version: str
    live: bool = Field(description="whether every replica serves it already")


class Problem(BaseModel):
    code: str
    message: str
    limit: float | str | None = None
    request_id: str | None = Field(None, description="the reply's X-Request-Id; quote it when you ask about a failure")


class ErrorReply(BaseModel):
    error: Problem


def shortened(text: str, most: int = 60) -> str:
    """What a refusal quotes of a request."""
    return text if len(text) <= most else f"{text[: most - 3]}..."


def refusal(error: ValidationError, known: Iterable[str] = ()) -> Refusal:
    """One sentence on the first field that is wrong; known: fields of the body, where it isn't a search's."""
    if (count := error.error_count()) > MISTAKES:  # a report on each would cost far more than the body
        return Refusal(422, "bad_body", f"{count:,} values of the body can't be used; /docs tells what each field takes.")
    first = error.errors(include_url=False)[0]
    where = ".".join(shortened(str(part)) for part in first["loc"])
    value = shortened(reprlib.repr(first.get("input")))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        return Refusal(422, "bad_json", f"The body is not JSON: {message.removeprefix('Invalid JSON: ')}.")
    if first["type"] == "extra_forbidden":
        return Refusal(
            422, "unknown_field", f"There is no field {where[:60]!r}; known are {', '.join(known or JsonSearch.model_fields)}."
        )
    if "is too deep" in message or where == "offset":
        wrong = f"offset = {value} can't be used; offset + k must be 1 to {PAGE_DEPTH:,}" if where else message
        return Refusal(422, "too_deep", f"{wrong}; to see others, narrow the search with filters.", limit=PAGE_DEPTH)
    if where == "k":
        return Refusal(
            422, "k_out_of_range", f"k = {value} can't be used; it must be an integer from 1 to {K_MOST}.", limit=K_MOST
        )
    if first["type"] == "value_error":  # of the body, or of a query of a batch, as a whole
        code = "bad_crop" if message.startswith("crop") else "one_query_needed" if "exactly one" in message else "bad_body"
        return Refusal(422, code, f"{where}: {message}." if where else f"{message[:1].upper()}{message[1:]}.")
    if not where:
        return Refusal(422, "bad_body", f"{message[:1].upper()}{message[1:]}.")
    field = next(
        (str(part) for part in first["loc"] if not isinstance(part, int) and part != "queries"), ""
    )  # of a query of a batch too
    code = {"crop": "bad_crop", "vector": "bad_vector"}.get(field, "bad_field")
    limit: Any = first.get("ctx", {}).get("max_length")
    if where == "queries" and first["type"] == "too_long":
        sent = first["ctx"]["actual_length"]
        return Refusal(422, "too_many_queries", f"{sent} queries can't be asked at a time; send at most {limit}.", limit=limit)
    return Refusal(422, code, f"{where} = {value} can't be used: {message}.", limit=limit)
