"""A writer to be killed: `python catalog_drill.py CATALOGUE NAME FIRST BATCHES`.

It appends the batches FIRST, FIRST + 1, ... of NAME and prints a line for each one acknowledged: its number and its version.
What a batch holds follows from its name and number.
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from fashion_dml.index import catalog
from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import concat, deletes, upserts
from fashion_dml.storage import Location

DIM = 8
WORDS = ("colour=Black", "colour=Red", "pattern=Solid")
MODEL = "ab" * 32
POOL = 30  # different items, so that they are written again and again
State = dict[str, bytes | None]  # item_id -> its thumbnail, None once deleted


def some_upserts(schema: pa.Schema, item_ids: list[str], tag: str, seed: int = 0) -> pa.Table:
    """Upserts of these items, told apart by `tag` in the thumbnail."""
    rng, n = np.random.default_rng(seed), len(item_ids)
    vectors = rng.standard_normal((n, schema.field("vector").type.list_size)).astype(np.float32)
    return upserts(
        schema, item_ids, product_ids=[f"p-{i}" for i in item_ids], verticals=[("bags", "shoes")[i % 2] for i in range(n)],
        vectors=vectors / np.linalg.norm(vectors, axis=1, keepdims=True), model=MODEL,
        attributes=rng.integers(-1, 2, (n, len(WORDS))).astype(np.int8),
        thumbnails=[f"{tag}/{i}".encode() + rng.bytes(int(rng.integers(4000))) for i in range(n)],
    )  # fmt: skip


def batch(schema: pa.Schema, name: str, number: int) -> pa.Table:
    """Batch `number` of writer `name`: upserts and deletes of items that all writers share, some several times."""
    seed = zlib.crc32(f"{name}/{number}".encode())
    rng = np.random.default_rng(seed)
    ids = [f"item:{i}" for i in rng.integers(0, POOL, int(rng.integers(2, 12)))]
    cut = int(rng.integers(1, len(ids)))
    parts = [some_upserts(schema, ids[:cut], f"{name}/{number}", seed), deletes(schema, ids[cut:])]
    return concat(parts if rng.random() < 0.5 else parts[::-1])


def applied(tables: Iterable[pa.Table], state: State | None = None) -> State:
    """What the items are after these batches, by the plainest means."""
    state = dict(state or {})
    for table in tables:
        for item_id, thumbnail in zip(table["item_id"].to_pylist(), table["thumbnail"].to_pylist(), strict=True):
            state[item_id] = thumbnail
    return state


def main(uri: str, name: str, first: int, batches: int) -> None:
    catalog.CHECKPOINT_EVERY = 4
    log = Catalog.open_or_create(Location.of(uri), dim=DIM, attributes=WORDS)
    for number in range(first, first + batches):
        version = log.append(batch(log.schema, name, number))
        print(number, version, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
