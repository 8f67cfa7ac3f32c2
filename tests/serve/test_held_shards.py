"""The shards of one version in one actor, whichever of its threads asks."""

from __future__ import annotations

import threading
from pathlib import Path

import faiss
import numpy as np
from index_catalogue import Catalogue

from fashion_dml.index.filters import EVERYTHING
from fashion_dml.storage import Location
from serve.held_shards import HeldShards


def test_a_search_has_the_threads_of_the_settings_in_every_thread(tmp_path: Path) -> None:
    """OpenMP counts by thread, and the actor's searches don't run in the thread that opened the version."""
    catalogue, index = Catalogue.random(60, 8, 1), Location.of(tmp_path / "index")
    catalogue.write(index, "v1", shards=2)
    held = HeldShards(index, "v1", 0, 1, Location.of(tmp_path / "catalog"), threads=3, gpu=False)
    seen: list[int] = []

    def search() -> None:
        faiss.omp_set_num_threads(1)
        found, _ = held.find(np.ascontiguousarray(catalogue.vectors[:2]), 1, EVERYTHING, False, 0)
        assert [one.item_ids for one in found] == [[catalogue.item_ids[0]], [catalogue.item_ids[1]]]
        seen.append(faiss.omp_get_max_threads())

    thread = threading.Thread(target=search)
    thread.start()
    thread.join()
    assert seen == [3]
