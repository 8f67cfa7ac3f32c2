"""Items by id, several at once, as the catalogue was after any commit: for searches by what a shopper likes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from index_catalogue import Catalogue
from test_live import DIM, Model

from fashion_dml.index.live import LiveShard
from fashion_dml.index.shard import Shard
from fashion_dml.storage import Location

IDS = [f"item:{i:04d}" for i in range(62)]  # two of them never were


def test_known_items_are_those_of_the_commit(tmp_path: Path):
    rng, base = np.random.default_rng(5), Catalogue.random(40, DIM, 5)
    base.write(Location.of(tmp_path), "v1", shards=2)
    live = [LiveShard(Shard.open(Location.of(tmp_path), "v1", shard), shard, 2) for shard in range(2)]
    model, history = Model.of(base), {0: dict(Model.of(base).items)}
    for version in range(1, 7):
        changes = model.commit(rng)
        for shard in live:
            shard.apply(version, changes)
        history[version] = dict(model.items)
    assert len({frozenset(items) for items in history.values()}) > 1
    for at, items in history.items():
        parts = [shard.known([*IDS, IDS[3]], at) for shard in live]
        found = [item_id for part in parts for item_id in part.item_ids]
        assert sorted(found) == sorted(set(items) & set(IDS))  # each in one shard, once
        for part in parts:
            assert (part.vectors.shape, part.vectors.dtype) == ((len(part.item_ids), DIM), np.float32)
            for item_id, product, vector in zip(part.item_ids, part.product_ids, part.vectors, strict=True):
                assert product == items[item_id][1]
                assert (vector == items[item_id][0]).all()
        one = [item for shard in live if (item := shard.item(found[0], at)) is not None]
        assert [(i.found.item_ids, i.found.product_ids) for i in one] == [([found[0]], [items[found[0]][1]])]


def test_the_commit_that_brought_an_item_is_told(tmp_path: Path):
    rng, base = np.random.default_rng(6), Catalogue.random(20, DIM, 6)
    base.write(Location.of(tmp_path), "v1")
    live, model, born = (
        LiveShard(Shard.open(Location.of(tmp_path), "v1", 0), 0, 1),
        Model.of(base),
        dict.fromkeys(base.item_ids, 0),
    )
    for version in range(1, 5):
        before = dict(model.items)
        live.apply(version, model.commit(rng))
        changed = [item_id for item_id, item in model.items.items() if before.get(item_id) is not item]
        born |= dict.fromkeys(changed, version)
    [found] = live.find(base.vectors[:1], 200)
    assert dict(zip(found.item_ids, found.born.tolist(), strict=True)) == {item_id: born[item_id] for item_id in model.items}
    assert max(found.born) > 0 == min(found.born)
