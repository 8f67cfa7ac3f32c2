"""The benchmark of the index at a size of seconds: every row is there, with the goal it is measured against."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.benchmarks.index import PARTS
from jobs.benchmarks.index_large import Large, large_rows
from jobs.benchmarks.index_versions import Sizes

SMALL = Sizes(flat=2000, graph=3000, queries=40, repeats=1, commits=3)
GOALS = {
    "flat": {
        "flat_1_over_bandwidth": 1.3, "flat_32_over_gemm": 1.5, "flat_256_over_gemm": 1.5, "flat_32_speedup_over_faiss": 4,
        "filter_10pct_over_unfiltered": 0.25,
    },
    "catalogue": {"upserts_per_s": 2000, "latency_while_writing_over_idle": 1.5},
    "approximate": {"qps_over_hnswlib": 1, "qps_over_faiss_hnsw": 1, "recall_at_10": 0.95},
}  # fmt: skip


@pytest.mark.parametrize("part", GOALS)
def test_rows(tmp_path: Path, part: str):
    if part == "approximate":
        pytest.importorskip("hnswlib", reason="of the extra `bench`")
    rows, details = PARTS[part](SMALL, tmp_path)
    assert {r.name: r.goal for r in rows} == GOALS[part]
    assert all(r.value > 0 for r in rows)
    if part == "approximate":
        assert all(details[peer]["recall"] >= 0.95 for peer in ("hnswlib", "faiss_hnsw", "faiss_ivf"))


def test_large_rows(tmp_path: Path):
    rows, details = large_rows(Large(rows=70_000, queries=40), tmp_path)
    assert next(r for r in rows if r.name == "large_recall_at_10").value >= 0.85
    plan = details["billion"]
    assert plan["shards"] == -(-(10**9) // 70_000)
    assert plan["nodes"] * plan["shards_a_node"] >= plan["shards"]
    assert details["bytes"]["vectors.bin"] >= 70_000 * 128 * 2
    again, _ = large_rows(Large(rows=70_000, queries=40), tmp_path)  # searches what the first run built
    assert again[0].value == rows[0].value
    assert again[-1].value == rows[-1].value
