"""OpenAPI of bodies that the routes read themselves, to count their bytes as they arrive; with examples, so that /docs can be tried."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from serve.batch import BatchSearch
from serve.changes import Changes, ItemFields
from serve.schema import JsonSearch, Options, SearchOptions

LIKE_MANY = {"like": ["gen-shoes-000004-0", "gen-shoes-000007-0"], "unlike": ["gen-shoes-000001-0"], "k": 5}
EXAMPLES: dict[type[BaseModel], dict[str, tuple[str, Any]]] = {
    JsonSearch: {
        "item": ("like an item of the catalogue", {"item_id": "gen-shoes-000004-0", "k": 5, "exclude_self": True}),
        "filters": (
            "one result a product, of one vertical and colour",
            {"item_id": "gen-shoes-000004-0", "verticals": ["shoes"], "attributes": {"colour": ["Black", "Red"]}, "group_by": "product"},
        ),
        "like": ("more like these, less like that", LIKE_MANY),
        "page": ("the second page", {"item_id": "gen-shoes-000004-0", "offset": 10, "k": 10}),
    },
    BatchSearch: {
        "items": ("two items", {"queries": [{"item_id": "gen-shoes-000004-0"}, {"item_id": "gen-shoes-000007-0"}], "k": 5}),
        "vectors": ("vectors, packed: base64 of little-endian float32 [Q, D]", {"vectors_base64": "...", "k": 5}),
    },
    ItemFields: {
        "photo": ("an item with its photo", {"product_id": "p-3", "vertical": "shoes", "image_base64": "...", "attributes": {"colour": "Red"}})
    },
    Changes: {
        "both": (
            "an item that comes and one that goes",
            {"upserts": [{"item_id": "sku-7", "product_id": "p-3", "vertical": "shoes", "image_base64": "..."}], "deletes": ["sku-6"]},
        )
    },
}  # fmt: skip
TEXTS: dict[str, dict[str, Any]] = {  # what can be no JSON in a query string
    "verticals": {"type": "array", "items": {"type": "string"}},
    "attributes": {"type": "array", "items": {"type": "string", "description": "column=value"}},
    "crop": {"type": "string", "description": "x0,y0,x1,y1"},
}
NAMES = {"verticals": "vertical", "attributes": "attribute"}
IMAGE = {"type": "string", "format": "binary"}


def json_body(kind: type[BaseModel]) -> dict[str, Any]:
    """A body of this kind."""
    return {"requestBody": {"required": True, "content": {"application/json": _json(kind)}}}


def search_body() -> dict[str, Any]:
    """The two kinds of body of a search."""
    return _two_kinds(JsonSearch, SearchOptions, IMAGE)


def batch_body() -> dict[str, Any]:
    """The two kinds of body of a batch."""
    return _two_kinds(BatchSearch, Options, {"type": "array", "items": IMAGE})


def _two_kinds(body: type[BaseModel], options: type[BaseModel], image: dict[str, Any]) -> dict[str, Any]:
    """JSON, or a form of images; the form's options stand in the query string."""
    form = {"type": "object", "properties": {"image": image}, "required": ["image"]}
    return {
        "requestBody": {
            "required": True, "content": {"multipart/form-data": {"schema": form}, "application/json": _json(body)},
        },
        "parameters": [
            {
                "name": NAMES.get(name, name), "in": "query", "required": False, "schema": TEXTS.get(name, schema),
                "description": f"multipart only: {schema.get('description', '')}",
            }
            for name, schema in options.model_json_schema()["properties"].items()
        ],
    }  # fmt: skip


def _json(kind: type[BaseModel]) -> dict[str, Any]:
    schema = kind.model_json_schema()
    known = schema.pop("$defs", {})

    def whole(part: Any) -> Any:
        """References point into the body's own schema, where OpenAPI wouldn't look: put what they name in their place."""
        if isinstance(part, dict):
            return whole(known[part["$ref"].rsplit("/", 1)[1]]) if "$ref" in part else {k: whole(v) for k, v in part.items()}
        return [whole(v) for v in part] if isinstance(part, list) else part

    examples = {name: {"summary": summary, "value": value} for name, (summary, value) in EXAMPLES.get(kind, {}).items()}
    return {"schema": whole(schema)} | ({"examples": examples} if examples else {})
