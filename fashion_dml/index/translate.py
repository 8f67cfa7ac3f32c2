"""Changes of the catalogue in another model's vectors, so that an index of any model can follow the log.

The log holds an item's vector by the model that was live when it was sent. For an index of another model the item's picture is embedded
again, once, and the vectors are kept beside the log:

    catalog/_vectors/<model>/<commit>.parquet    item_id, vector float32 [D]: null where the item came without a picture

A file appears whole or not at all and holds what follows from commit and model alone, so any process may write it, two at once as well.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from fashion_dml.index.catalog import Catalog
from fashion_dml.index.changes import deletes, last_of
from fashion_dml.storage import Location, UserError


class Untranslated(Exception):
    """`commit` has vectors of another model, and nobody has made this model's from its pictures yet."""

    def __init__(self, commit: int) -> None:
        super().__init__(commit)
        self.commit = commit  # an attribute of its own: what Ray wraps around an actor's exception has other args


def translated(changes: pa.Table, catalog: Location, model: str, commit: int) -> tuple[pa.Table, list[str]]:
    """(the last change of each item, all in vectors of `model`; ids of those that can't be, since they came without a picture).

    Those are deletes here: what they were before is not what they are now. Raises Untranslated, UserError at a damaged file.
    """
    changes = last_of(changes)
    others = _foreign(changes, model)
    if not others.any():
        return changes, []
    made = _read(_file(catalog, model, commit), changes.filter(pa.array(others))["item_id"], commit)
    column = changes.schema.get_field_index("vector")
    places = np.arange(changes.num_rows)
    places[others] = changes.num_rows + np.arange(others.sum())
    vectors = pa.concat_arrays([changes["vector"].combine_chunks(), made.cast(changes.schema.field("vector").type)])
    models = pc.if_else(pa.array(others), model, changes["model"])
    changes = changes.set_column(column, changes.schema.field("vector"), vectors.take(pa.array(places)))
    changes = changes.set_column(changes.schema.get_field_index("model"), changes.schema.field("model"), models)
    without = others.copy()
    without[others] = made.is_null().to_numpy(zero_copy_only=False)
    gone = changes.filter(pa.array(without))["item_id"].to_pylist()
    if gone:
        changes = last_of(pa.concat_tables([changes.filter(pa.array(~without)), deletes(changes.schema, gone)]))
    return changes, gone


def to_translate(catalog: Catalog, model: str, after: int, upto: int) -> Iterator[tuple[int, pa.Table]]:
    """(commit, its upserts of other models) for the commits after `after` up to `upto` that have some and no file yet."""
    for commit, changes in catalog.since(after, upto):
        changes = last_of(changes)
        others = changes.filter(pa.array(_foreign(changes, model)))
        if others.num_rows and not _file(catalog.location, model, commit).is_file():
            yield commit, others


def keep(catalog: Location, model: str, commit: int, others: pa.Table, vectors: np.ndarray) -> None:
    """Write the vectors by `model`, float32 [n, D], of what `to_translate` gave for a commit; a row of NaN: it has no picture."""
    flat = pa.FixedSizeListArray.from_arrays(
        pa.array(np.ascontiguousarray(vectors, np.float32).ravel()), vectors.shape[1], mask=pa.array(np.isnan(vectors).any(1))
    )
    with _file(catalog, model, commit).writing() as sink:
        pq.write_table(pa.table({"item_id": others["item_id"], "vector": flat}), sink, write_page_checksum=True)


def _file(catalog: Location, model: str, commit: int) -> Location:
    return catalog / "_vectors" / model[:16] / f"{commit:020d}.parquet"


def _foreign(changes: pa.Table, model: str) -> np.ndarray:
    """bool [n]: upserts whose vector is of another model."""
    return pc.fill_null(pc.not_equal(changes["model"], model), False).to_numpy().astype(bool)


def _read(file: Location, item_ids: pa.ChunkedArray, commit: int) -> pa.Array:
    """The vectors of these items, in order."""
    if not file.is_file():
        raise Untranslated(commit)
    try:
        with file.open_input() as stream:
            made = pq.read_table(stream, page_checksum_verification=True)
        if made["item_id"].combine_chunks().equals(item_ids.combine_chunks()):
            return made["vector"].combine_chunks()
    except (pa.ArrowException, OSError, KeyError) as error:
        raise UserError(f"{file} is damaged ({error}); delete it, and it is made again.") from error
    raise UserError(f"{file} holds other items than commit {commit} of the catalogue; delete it, and it is made again.")
