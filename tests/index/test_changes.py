"""Batches of changes: what comes in comes out, the last row of an item counts, and each wrong value is named."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from catalog_drill import DIM, MODEL, WORDS, applied, some_upserts
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dml.index import changes
from fashion_dml.index.changes import attributes_of, changes_schema, check, concat, deletes, last_of, matrix, upserts
from fashion_dml.storage import UserError

SCHEMA = changes_schema(DIM, len(WORDS))


def arguments(n: int = 3) -> dict[str, Any]:
    """Good arguments of `upserts`, but for the ids."""
    vectors = np.eye(n, DIM, dtype=np.float32)
    return {
        "product_ids": [f"p{i}" for i in range(n)], "verticals": ["bags"] * n, "vectors": vectors,
        "attributes": np.zeros((n, len(WORDS)), np.int8), "thumbnails": [b"jpeg", b"", b"x"][:n], "model": MODEL,
    }  # fmt: skip


def test_what_is_given_is_in_the_batch():
    given = arguments()
    table = upserts(SCHEMA, ["a", "b", "a"], **given)
    assert table.schema.equals(SCHEMA)
    assert table["row"].to_pylist() == [0, 1, 2]
    assert table["delete"].to_pylist() == [False] * 3
    assert table["item_id"].to_pylist() == ["a", "b", "a"]
    assert table["thumbnail"].to_pylist() == given["thumbnails"]
    assert table["model"].to_pylist() == [MODEL] * 3
    np.testing.assert_array_equal(matrix(table, "vector"), given["vectors"])
    np.testing.assert_array_equal(matrix(table, "attributes"), given["attributes"])


def test_deletes_hold_nothing_but_the_id():
    (row,) = deletes(SCHEMA, ["a"]).to_pylist()
    assert row == {"row": 0, "delete": True, "item_id": "a"} | dict.fromkeys(changes.OF_UPSERTS)


def test_a_catalogue_without_attributes():
    schema = changes_schema(DIM, 0)
    table = upserts(schema, ["a"], **arguments(1) | {"attributes": np.empty((1, 0), np.int8)})
    assert table["attributes"].to_pylist() == [[]]
    assert matrix(table, "attributes").shape == (1, 0)
    check(concat([table, deletes(schema, ["a"])]), schema)


@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcd"), st.booleans()), max_size=12), st.integers(0, 12))
def test_only_the_last_change_of_an_item_counts(drawn: list[tuple[str, bool]], cut: int):
    parts = [deletes(SCHEMA, [i]) if delete else some_upserts(SCHEMA, [i], str(n)) for n, (i, delete) in enumerate(drawn)]
    whole = concat([SCHEMA.empty_table(), *parts])
    assert whole["row"].to_pylist() == list(range(len(drawn)))
    last = last_of(whole)
    check(last, SCHEMA)
    assert applied([last]) == applied(parts)
    assert len({*last["item_id"].to_pylist()}) == last.num_rows
    places = [max(n for n, (i, _) in enumerate(drawn) if i == item) for item in last["item_id"].to_pylist()]
    assert places == sorted(places)
    assert last_of(concat([last_of(whole.slice(0, cut)), whole.slice(cut)])).equals(last)  # folding in steps is the same


@pytest.mark.parametrize(
    ("values", "expected"),
    [({}, [0, 0, 0, 0]), ({"colour": "Red"}, [-1, 1, 0, 0]), ({"colour": "Black", "pattern": "Solid"}, [1, -1, 1, 0]),
     ({"stretch": "yes"}, [0, 0, 0, 1]), ({"stretch": "no"}, [0, 0, 0, -1])],
)  # fmt: skip
def test_attributes(values: dict[str, str], expected: list[int]):
    found = attributes_of(values, (*WORDS, "stretch"))
    assert found.dtype == np.int8
    assert found.tolist() == expected


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"shape": "A"}, r"'shape' is unknown; known are colour, pattern, stretch\.$"),
        ({"colour": "Blue"}, r"'colour' has no value 'Blue'; known are Black, Red\.$"),
        ({"colour": ""}, "no value ''"),
        ({"stretch": "maybe"}, r"no value 'maybe'; known are yes, no\.$"),
        ({"stretch": ""}, "no value ''"),
    ],
)
def test_unknown_attributes_are_refused(values: dict[str, str], says: str):
    with pytest.raises(UserError, match=says):
        attributes_of(values, (*WORDS, "stretch"))


def test_at_most_20_known_values_are_named():
    with pytest.raises(UserError, match=r"known are v0, .*, v19, \.\.\.\.$"):
        attributes_of({"c": "?"}, [f"c=v{i}" for i in range(30)])


def off(value: float) -> np.ndarray:
    vectors = np.eye(3, DIM, dtype=np.float32)
    vectors[1, 1] = value
    return vectors


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"vectors": np.eye(3, DIM + 1, dtype=np.float32)}, r"must be float32 \[N, 8\], these are float32 \[3, 9\]"),
        ({"vectors": np.eye(3, DIM)}, "these are float64"),
        ({"vectors": off(np.nan)}, "must have length 1; vector 1 has nan"),
        ({"vectors": off(np.inf)}, "must have length 1; vector 1 has inf"),
        ({"vectors": off(0)}, "must have length 1; vector 1 has 0"),
        ({"vectors": off(1.01)}, r"must have length 1; vector 1 has 1\.01"),
        ({"attributes": np.full((3, 3), 2, np.int8)}, "attributes of item a hold 2; they must be 1, -1 or 0"),
        ({"attributes": np.full((3, 3), -128, np.int8)}, "hold -128"),
        ({"attributes": np.zeros((3, 2), np.int8)}, r"int8 \[N, 3\], these are int8 \[3, 2\]"),
        ({"attributes": np.zeros((3, 3), np.int32)}, "these are int32"),
        ({"product_ids": ["p", "p", ""]}, "The product_id '' can't be used"),
        ({"product_ids": ["p", "p", "x" * 129]}, "The product_id 'xxx"),
        ({"product_ids": ["p", "p", "a/b"]}, "The product_id 'a/b'"),
        ({"product_ids": ["p", "p", None]}, "product_id must be given for upserts"),
        ({"verticals": ["bags", "bags", "../x"]}, "The vertical '../x' can't be used"),
        ({"verticals": ["bags", "bags", "x" * 65]}, "The vertical 'xxx"),
        ({"thumbnails": [b"", b"", b"x" * ((1 << 20) + 1)]}, "thumbnail of item c has 1,048,577 bytes, more than 1,048,576"),
        ({"thumbnails": [b"", b""]}, "3 item_ids but 2 thumbnails were given"),
        ({"thumbnails": [b"", b"", 7]}, "value of the wrong type"),
        ({"model": "unified"}, "The model 'unified' can't be used"),
    ],
)  # fmt: skip
def test_wrong_upserts_are_refused(change: dict[str, Any], says: str):
    with pytest.raises(UserError, match=says):
        upserts(SCHEMA, ["a", "b", "c"], **arguments() | change)


@pytest.mark.parametrize("item_id", ["", "../x", "a/b", "a\\b", ".x", "x" * 129, "a b", "a\n", None])
def test_wrong_ids_are_refused(item_id: str):
    for make in (lambda: deletes(SCHEMA, [item_id]), lambda: upserts(SCHEMA, [item_id], **arguments(1))):
        with pytest.raises(UserError, match=r"The item_id .* can't be used; it must match"):
            make()


def test_batches_have_a_limit(monkeypatch: pytest.MonkeyPatch):
    assert deletes(SCHEMA, ["a"] * 10_000).num_rows == 10_000
    with pytest.raises(UserError, match="holds 10,001 changes, more than 10,000: send them in several batches"):
        deletes(SCHEMA, ["a"] * 10_001)
    with pytest.raises(UserError, match="holds 10,001 changes"):
        concat([deletes(SCHEMA, ["a"] * 10_000), deletes(SCHEMA, ["a"])])
    monkeypatch.setattr(changes, "MOST_BYTES", 1000)
    with pytest.raises(UserError, match=r"has [\d,]+ bytes, more than 1,000"):
        upserts(SCHEMA, ["a"], **arguments(1) | {"thumbnails": [b"x" * 1000]})


def replaced(table: pa.Table, name: str, values: list[Any]) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(name), pa.array(values, table.schema.field(name).type))


def test_tables_made_elsewhere_are_checked():
    good = concat([upserts(SCHEMA, ["a"], **arguments(1)), deletes(SCHEMA, ["b"])])
    check(good, SCHEMA)
    for table, says in (
        (replaced(good, "row", [1, 0]), r"numbered 0\.\.1"),
        (replaced(good, "delete", [None, True]), "neither upsert nor delete"),
        (replaced(good, "product_id", ["p", "p"]), "product_id must be given for upserts and for nothing else"),
        (replaced(good, "vector", [None, None]), "vector must be given for upserts"),
        (replaced(good, "vector", [[1] + [None] * 7, None]), "length 1"),
        (good.drop_columns(["model"]), "has the columns row, delete"),
        (good.cast(changes_schema(DIM, 0)), "column attributes is list.* made for another model or another vocabulary"),
    ):
        with pytest.raises(UserError, match=says):
            check(table, SCHEMA)
    with pytest.raises(UserError, match="column vector is"):
        concat([good, deletes(changes_schema(DIM + 1, len(WORDS)), ["a"])])
    loose = changes_schema(DIM, 0)
    batch = concat([upserts(loose, ["a"], **arguments(1) | {"attributes": np.empty((1, 0), np.int8)})])
    with pytest.raises(UserError, match=r"attributes must be \[1, 0\] values, these are 1"):
        check(replaced(batch, "attributes", [[1]]), loose)
