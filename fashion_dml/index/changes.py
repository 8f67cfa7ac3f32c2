"""Batches of live catalogue changes as Arrow tables: what one holds, and that nothing wrong gets into one.

Columns: row int32 (place in the batch, 0..n-1), delete bool, item_id, and, null where delete: product_id, vertical, vector
float32 [D] of length 1, attributes int8 [A] (1 yes, -1 no, 0 unknown), thumbnail (encoded JPEG, may be empty), model (sha256
of the weights that made the vector). An item may come several times: its last row is the one that counts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Sized
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fashion_dml.index.manifest import ITEM_ID
from fashion_dml.index.segment import check_vectors
from fashion_dml.storage import UserError

MOST_CHANGES = 10_000
MOST_BYTES = 256 << 20  # of a batch in memory; readers hold a few batches at a time
MOST_THUMBNAIL = 1 << 20
MOST_NAMED = 20
VERTICAL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")  # as the dataset's verticals are named
YES_OR_NO = {"yes": 1, "no": -1}
SHA256 = re.compile(r"[0-9a-f]{64}")
OF_UPSERTS = ("product_id", "vertical", "vector", "attributes", "thumbnail", "model")


def changes_schema(dim: int, attributes: int) -> pa.Schema:
    """The columns of a batch, for vectors of `dim` dimensions and a vocabulary of `attributes` words."""
    return pa.schema([
        ("row", pa.int32()), ("delete", pa.bool_()), ("item_id", pa.string()), ("product_id", pa.string()),
        ("vertical", pa.string()), ("vector", pa.list_(pa.float32(), dim)),
        ("attributes", pa.list_(pa.int8(), attributes or -1)),  # lists of a fixed length 0 can't be read back from Parquet
        ("thumbnail", pa.binary()), ("model", pa.string()),
    ])  # fmt: skip


def upserts(
    schema: pa.Schema, item_ids: Sequence[str], *, product_ids: Sequence[str], verticals: Sequence[str], vectors: np.ndarray,
    attributes: np.ndarray, thumbnails: Sequence[bytes], model: str,
) -> pa.Table:  # fmt: skip
    """Items that appear or are replaced: vectors float32 [N, D] of length 1, attributes int8 [N, A], model a sha256.

    Raises UserError where lengths differ or `check` finds something wrong.
    """
    n = len(item_ids)
    check_vectors(vectors, _width(schema, "vector"), "The vectors of changed items")
    wide = _width(schema, "attributes")
    if attributes.dtype != np.int8 or attributes.ndim != 2 or attributes.shape[1] != wide:
        raise UserError(
            f"The attributes of changed items must be int8 [N, {wide}], these are {attributes.dtype} {list(attributes.shape)}."
        )
    given: dict[str, Sized] = {
        "product_ids": product_ids, "verticals": verticals, "vectors": vectors, "attributes": attributes, "thumbnails": thumbnails,
    }  # fmt: skip
    for name, values in given.items():
        if len(values) != n:
            raise UserError(f"{n} item_ids but {len(values)} {name} were given; every changed item needs one of each.")
    return _table(schema, {
        "delete": np.zeros(n, bool), "item_id": item_ids, "product_id": product_ids, "vertical": verticals,
        "vector": _lists(vectors, schema.field("vector").type), "attributes": _lists(attributes, schema.field("attributes").type),
        "thumbnail": thumbnails, "model": [model] * n,
    })  # fmt: skip


def deletes(schema: pa.Schema, item_ids: Sequence[str]) -> pa.Table:
    """Items that go; it is no error if one isn't there. Raises UserError at an id that can't be one."""
    n = len(item_ids)
    empty = {name: pa.nulls(n, schema.field(name).type) for name in OF_UPSERTS}
    return _table(schema, {"delete": np.ones(n, bool), "item_id": item_ids, **empty})


def concat(tables: Sequence[pa.Table]) -> pa.Table:
    """One batch of several, in this order. Raises UserError if they differ in schema or are too many or too much together."""
    if not tables:
        raise ValueError("concat needs at least one table")
    for table in tables:
        check_schema(table, tables[0].schema)
    whole = _renumbered(pa.concat_tables(tables))
    _check_size(whole)
    return whole


def last_of(table: pa.Table) -> pa.Table:
    """Of each item the last row only, in the order of these rows and numbered anew."""
    last: dict[str, int] = {}
    for row, item_id in enumerate(table["item_id"].to_pylist()):
        last[item_id] = row
    kept = np.zeros(table.num_rows, bool)
    kept[list(last.values())] = True
    return _renumbered(table if kept.all() else table.filter(pa.array(kept)))


def attributes_of(values: Mapping[str, str], vocabulary: Sequence[str]) -> np.ndarray:
    """int8 [A] of {column: value}: 1 the value, -1 the other values of its column, 0 a column that isn't given.

    vocabulary: `column=value` each, or a column alone, whose values are yes and no. Raises UserError at an unknown column or
    value, naming known ones.
    """
    columns = [word.partition("=")[0] for word in vocabulary]
    found = np.zeros(len(vocabulary), np.int8)
    for column, value in values.items():
        places = [place for place, name in enumerate(columns) if name == column]
        if not places:
            raise UserError(f"The attribute {column[:64]!r} is unknown; known are {_named(sorted(set(columns)))}.")
        known = {vocabulary[place].partition("=")[2]: place for place in places}
        if "" in known and value in YES_OR_NO:
            found[known[""]] = YES_OR_NO[value]
        elif value and value in known:
            found[places] = -1
            found[known[value]] = 1
        else:
            names = [*(k for k in known if k), *(YES_OR_NO if "" in known else ())]
            raise UserError(f"The attribute {column!r} has no value {value[:64]!r}; known are {_named(names)}.")
    return found


def check(table: pa.Table, schema: pa.Schema) -> None:
    """Raises UserError unless `table` is a batch of `schema` as this module describes it; says what is wrong with which item."""
    check_schema(table, schema)
    _check_size(table)
    if not np.array_equal(table["row"].to_numpy(), np.arange(table.num_rows)):
        raise UserError(
            f"The rows of a batch must be numbered 0..{table.num_rows - 1}; build batches by upserts, deletes and concat."
        )
    for item_id in table["item_id"].to_pylist():
        _check_name(item_id, ITEM_ID, "item_id")
    if table["delete"].null_count:
        raise UserError("A change says neither upsert nor delete; build batches by upserts, deletes and concat.")
    changed = table.filter(pc.invert(table["delete"]))
    for name in OF_UPSERTS:
        if changed[name].null_count or table[name].null_count != table.num_rows - changed.num_rows:
            raise UserError(
                f"{name} must be given for upserts and for nothing else; build batches by upserts, deletes and concat."
            )
    for name, pattern in (("product_id", ITEM_ID), ("vertical", VERTICAL), ("model", SHA256)):
        for value in changed[name].unique().to_pylist():
            _check_name(value, pattern, name)
    check_vectors(matrix(changed, "vector"), _width(schema, "vector"), "The vectors of changed items")
    marks = matrix(changed, "attributes")
    wrong = ~np.isin(marks, (-1, 0, 1))
    if wrong.any():
        row, place = (int(i[0]) for i in np.nonzero(wrong))
        raise UserError(f"The attributes of item {changed['item_id'][row]} hold {marks[row, place]}; they must be 1, -1 or 0.")
    sizes = pc.binary_length(changed["thumbnail"]).to_numpy()
    if len(sizes) and sizes.max() > MOST_THUMBNAIL:
        item_id = changed["item_id"][int(sizes.argmax())]
        raise UserError(
            f"The thumbnail of item {item_id} has {sizes.max():,} bytes, more than {MOST_THUMBNAIL:,}: make it smaller."
        )


def check_schema(table: pa.Table, schema: pa.Schema) -> None:
    """Raises UserError unless the table has the columns of `schema`, in order and of its types."""
    if table.schema.names != schema.names:
        raise UserError(
            f"A batch of changes has the columns {', '.join(schema.names)}; this one has {', '.join(table.schema.names)[:200]}."
        )
    for field, expected in zip(table.schema, schema, strict=True):
        if field.type != expected.type:
            raise UserError(
                f"The changes' column {field.name} is {field.type}, here it must be {expected.type}: "
                "they were made for another model or another vocabulary."
            )


def matrix(table: pa.Table, name: str) -> np.ndarray:
    """A column of lists, all given, as an array [N, width]."""
    flat = table[name].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    shape = table.num_rows, _width(table.schema, name)
    if flat.size != shape[0] * shape[1]:
        raise UserError(f"The changes' {name} must be {list(shape)} values, these are {flat.size}.")
    return flat.reshape(shape)


def _width(schema: pa.Schema, name: str) -> int:
    kind = schema.field(name).type
    return int(kind.list_size) if pa.types.is_fixed_size_list(kind) else 0


def _lists(rows: np.ndarray, kind: pa.DataType) -> pa.Array:
    if not pa.types.is_fixed_size_list(kind):
        return pa.array([[]] * len(rows), kind)
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(rows).ravel()), type=kind)


def _table(schema: pa.Schema, columns: Mapping[str, Any]) -> pa.Table:
    n = len(columns["item_id"])
    _check_count(n)
    try:
        table = pa.table({"row": np.arange(n, dtype=np.int32), **columns}, schema=schema)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError) as error:
        raise UserError(f"The changes hold a value of the wrong type ({error}); ids are text, thumbnails are bytes.") from error
    check(table, schema)
    return table


def _renumbered(table: pa.Table) -> pa.Table:
    return table.set_column(0, table.schema.field("row"), pa.array(np.arange(table.num_rows, dtype=np.int32)))


def _check_count(n: int) -> None:
    if n > MOST_CHANGES:
        raise UserError(f"A batch holds {n:,} changes, more than {MOST_CHANGES:,}: send them in several batches.")


def _check_size(table: pa.Table) -> None:
    _check_count(table.num_rows)
    if table.nbytes > MOST_BYTES:
        raise UserError(f"A batch has {table.nbytes:,} bytes, more than {MOST_BYTES:,}: send it in several batches.")


def _check_name(value: str | None, pattern: re.Pattern[str], what: str) -> None:
    if value is None or not pattern.fullmatch(value):
        raise UserError(f"The {what} {(value or '')[:140]!r} can't be used; it must match {pattern.pattern}.")


def _named(known: Sequence[str]) -> str:
    return ", ".join(known[:MOST_NAMED]) + (", ..." if len(known) > MOST_NAMED else "")
