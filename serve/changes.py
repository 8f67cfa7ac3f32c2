"""Changes of the catalogue over HTTP: their fields, and the batch that goes into the log."""

from __future__ import annotations

import base64
import binascii
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from serve.errors import Refusal
from serve.limits import CHANGES_MOST, VECTOR_MOST


class ItemFields(BaseModel):
    """An item as it is to be: what it had before is replaced whole."""

    model_config = ConfigDict(extra="forbid", strict=True)

    product_id: str = Field(description="items of one product share it")
    vertical: str
    image_base64: str | None = Field(None, description="JPEG, PNG or WebP, base64: it is embedded unless a vector is given")
    vector: list[float] | None = Field(
        None, max_length=VECTOR_MOST, fail_fast=True, description="an embedding of the index's model"
    )
    attributes: dict[str, str] = Field({}, description="{column: value} of the index's vocabulary; others are unknown")

    @model_validator(mode="after")
    def _something(self) -> ItemFields:
        if self.image_base64 is None and self.vector is None:
            raise ValueError("give image_base64, vector or both")
        return self

    def image(self) -> bytes | None:
        """The encoded image. Raises Refusal."""
        return None if self.image_base64 is None else decoded(self.image_base64)


class Upsert(ItemFields):
    item_id: str


class Changes(BaseModel):
    """A batch: it becomes visible whole. An item may be in it once."""

    model_config = ConfigDict(extra="forbid", strict=True)

    upserts: Annotated[list[Upsert], Field(max_length=CHANGES_MOST, fail_fast=True)] = Field(
        [], description="items that appear or are replaced"
    )
    deletes: Annotated[list[str], Field(max_length=CHANGES_MOST, fail_fast=True)] = Field(
        [], description="ids of items that go; it is no error if one isn't there"
    )

    @model_validator(mode="after")
    def _once(self) -> Changes:
        ids = [u.item_id for u in self.upserts] + self.deletes
        if not ids:
            raise ValueError("give upserts, deletes or both")
        if len(set(ids)) < len(ids):
            twice = next(i for i in ids if ids.count(i) > 1)
            raise ValueError(f"the item {twice[:60]!r} is given twice")
        return self


class Changed(BaseModel):
    """Changes that are durable: every search from now on at this service sees them."""

    catalog: int = Field(description="commit of the catalogue that holds them")
    upserted: int
    deleted: int


def decoded(text: str) -> bytes:
    """Raises Refusal where it isn't base64."""
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise Refusal(422, "bad_base64", "image_base64 is not base64 of the standard alphabet with padding.") from error
