"""A million vectors, approximately: the kind that `choose` picks against hnswlib and FAISS's own indexes at the same recall.

Rates are of one thread and batches of 32; those of one query at a time stand in the report's details.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from fashion_dml.index.calls import faiss_search
from fashion_dml.index.choose import choose
from jobs.benchmarks import Row
from jobs.benchmarks.index_versions import AT, DIM, RECALL, Sizes, embeddings, embeddings_of_products, write_version

BATCH = 32  # queries asked at a time


def rate_at_recall(
    search: Callable[[np.ndarray, int], np.ndarray],
    efforts: Iterator[int],
    queries: np.ndarray,
    truth: np.ndarray,
    batch: int = BATCH,
) -> dict[str, float]:
    """Queries/s and recall of the least effort that reaches the recall, else of the last; search: (queries [n, D], effort) to rows
    [n, AT]."""
    found: dict[str, float] = {}
    for effort in efforts:
        began = time.perf_counter()
        rows = np.concatenate([search(queries[i : i + batch], effort) for i in range(0, len(queries), batch)])
        seconds = time.perf_counter() - began
        recall = float(np.mean([len(set(a) & set(b)) / AT for a, b in zip(rows, truth, strict=True)]))
        found = {"effort": effort, "recall": recall, "qps": len(queries) / seconds}
        if recall >= RECALL:
            break
    return found


def approximate_rows(sizes: Sizes, root: Path) -> tuple[list[Row], dict[str, Any]]:
    """A million vectors at recall@10 of 0.95: the kind that `choose` picks, hnswlib, FAISS's HNSW and IVF."""
    import hnswlib  # of the extra `bench`

    (vectors, products), queries = embeddings_of_products(sizes.graph), embeddings(sizes.queries, seed=1)
    threads = os.cpu_count() or 1
    faiss.omp_set_num_threads(threads)
    faiss.cvar.distance_compute_blas_threshold = 1  # the matrix product
    truth = faiss.knn(queries, vectors, AT, faiss.METRIC_INNER_PRODUCT)[1]
    faiss.omp_set_num_threads(1)
    drawn = np.random.default_rng(5).permutation(len(vectors))[:100_000]
    choice = choose(vectors[drawn], products[drawn], store="fp16", rows=len(vectors), memory_bytes=4 << 30, recall=RECALL)
    began = time.perf_counter()
    shard = write_version(root, vectors, products=products, kind=choice.kind, store="fp16")
    found: dict[str, Any] = {
        "choice": choice.as_json(),
        "effort": asdict(shard.effort),
        "seconds_to_build": {choice.kind: time.perf_counter() - began},
    }

    began = time.perf_counter()
    theirs = hnswlib.Index(space="ip", dim=DIM)
    theirs.init_index(max_elements=len(vectors), ef_construction=100, M=16)
    theirs.add_items(vectors, num_threads=threads)
    theirs.set_num_threads(1)
    found["seconds_to_build"]["hnswlib"] = time.perf_counter() - began

    began = time.perf_counter()
    faiss.omp_set_num_threads(threads)
    graph = faiss.IndexHNSWFlat(DIM, 16, faiss.METRIC_INNER_PRODUCT)
    graph.hnsw.efConstruction = 100
    graph.add(vectors)
    found["seconds_to_build"]["faiss_hnsw"] = time.perf_counter() - began
    cells: Any = faiss.index_factory(DIM, f"IVF{int(4 * len(vectors) ** 0.5)},Flat", faiss.METRIC_INNER_PRODUCT)
    cells.train(vectors[: 40 * cells.nlist])
    cells.add(vectors)
    faiss.omp_set_num_threads(1)

    def of_hnswlib(asked: np.ndarray, effort: int) -> np.ndarray:
        theirs.set_ef(effort)
        return theirs.knn_query(asked, k=AT, num_threads=1)[0]

    def of_graph(asked: np.ndarray, effort: int) -> np.ndarray:
        depth = faiss.SearchParametersHNSW(efSearch=effort)  # type: ignore[attr-defined]
        return faiss_search(graph, asked, AT, depth)[1]

    def of_cells(asked: np.ndarray, effort: int) -> np.ndarray:
        visited = faiss.SearchParametersIVF(nprobe=effort)  # type: ignore[call-arg]
        return faiss_search(cells, asked, AT, visited)[1]

    # Rows are sorted by product; an item's number stands in its id.
    number = np.array([int(shard.item_id(row).removeprefix("item-")) for row in range(len(vectors))])
    runs: dict[str, tuple[Callable[[np.ndarray, int], np.ndarray], Iterator[float]]] = {
        "ours": (lambda asked, _: number[shard.search(asked, AT).rows], iter((0,))),
        "hnswlib": (of_hnswlib, (10 * 2 ** (i / 4) for i in range(40))),
        "faiss_hnsw": (of_graph, (10 * 2 ** (i / 4) for i in range(40))),
        "faiss_ivf": (of_cells, (2 ** (i / 4) for i in range(50))),
    }
    for name, (search, efforts) in runs.items():
        whole = (int(e) for e in efforts)
        found[name] = rate_at_recall(search, whole, queries, truth)
    for name, (search, _) in runs.items():  # once more each, in turn: their speeds are compared, not their first calls
        effort = found[name]["effort"]
        again = rate_at_recall(search, iter((effort,)), queries, truth)
        found[name]["qps"] = max(found[name]["qps"], again["qps"])
        found[name]["qps_one_by_one"] = rate_at_recall(search, iter((effort,)), queries, truth, batch=1)["qps"]
    peer = max(found["faiss_hnsw"]["qps"], found["faiss_ivf"]["qps"])
    return [
        Row("qps_over_hnswlib", found["ours"]["qps"] / found["hnswlib"]["qps"], "ratio", 1, "higher"),
        Row("qps_over_faiss_hnsw", found["ours"]["qps"] / peer, "ratio", 1, "higher"),
        Row("recall_at_10", found["ours"]["recall"], "share", RECALL, "higher"),
    ], found
