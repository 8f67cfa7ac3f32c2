"""The benchmark's reports as a markdown table, between two marks of a page, and as a plot of values over goals."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from fashion_dml.storage import UserError

BEGIN, END = "<!-- benchmark: written by `make bench` -->", "<!-- end of benchmark -->"
WHAT = {
    "evaluate/time_over_gemm": "R@K, MAP@R and R-Precision of 60,000 images over the float32 matrix product alone",
    "evaluate/time_over_gemm_whole_list": "the same with mAP over the whole list",
    "evaluate/time_over_pml_max_bin": "at 20,000 over pytorch-metric-learning's AccuracyCalculator, equal values",
    "evaluate/time_over_pml_full_map": "mAP over the whole list at 5,000 over AccuracyCalculator, equal values",
    "evaluate/extra_memory_mb": "memory beside the inputs at 60,000",
    "index/flat_1_over_bandwidth": "one exact query over reading the 100,000 vectors once",
    "index/flat_32_over_gemm": "32 exact queries over the matrix product",
    "index/flat_256_over_gemm": "256 exact queries over the matrix product",
    "index/flat_32_speedup_over_faiss": "32 exact queries, times faster than FAISS with its default",
    "index/filter_10pct_over_unfiltered": "32 queries with a filter that keeps a tenth, over without",
    "index/upserts_per_s": "upserts, seen by the next search",
    "index/latency_while_writing_over_idle": "a search while 2,000 changes a second come, over one without",
    "index/qps_over_hnswlib": "a million rows, batches of 32, same recall: queries a second over hnswlib",
    "index/qps_over_faiss_hnsw": "the same over the faster of FAISS's HNSW and IVF",
    "index/recall_at_10": "its recall@10",
    "index-large/large_recall_at_10": "ten million rows in a shard: recall@10",
    "index-large/large_ms_per_query": "one query",
    "index-large/large_ms_per_query_of_32": "a query of 32",
    "index-large/large_build_peak_gib": "most memory while building",
    "index-large/large_build_core_s": "training and writing, processor time",
    "ingest/list_1m_images_gib": "the list of a million images, checked and cut into files: memory of the driver",
    "ingest/list_1m_images_s": "its time",
    "losses/time_over_pml": "time of forward and backward over pytorch-metric-learning's, by batch",
    "losses/memory_over_pml": "peak memory of the same, by batch",
    "observe/microseconds": "processor time that operations cost a request",
    "scale/predicted_over_measured_makespan": "makespan of specialists, predicted over measured or the inverse, by workers",
    "scale/images_per_s_over_one_worker": "images a second over one worker's, on the same two cores, by workers",
    "serve/p50_over_floor": "a photo's median over HTTP, over the same work in a process and two hops that do nothing",
    "serve/throughput_over_inprocess": "photos a second over 32 connections, over the same work in a process a core",
    "serve/p50_over_plain": "a photo's median over that of a plain process (FastAPI, torch, FAISS) with the same model and vectors",
    "serve/throughput_over_plain": "photos a second over 32 connections, over those of that process",
    "serve/batch_throughput_over_index": "vectors a second in batches of 32, over the index in a process a core",
    "specialists/makespan_over_ideal": "eight specialists on two workers: makespan over the sum of their steps / workers",
    "specialists/seconds_per_added_specialist": "one more specialist, beside its steps",
    "specialists/time_over_a_job_each": "one run of all over a run for each, start-up and all",
    "specialists/seconds_to_first_step": "from submission (or start) to the first training step",
    "stream/ray_data_over_bare": "Ray Data stream over the bare loop on the same plan, images a second",
    "stream/ray_data_over_dataloader": "Ray Data stream over a torch DataLoader with the same batches and decoding",
    "stream/first_batch_s": "to the first batch, Ray being up",
    "stream/train_over_synthetic": "training on the stream over the same step on images in memory",
    "stream/worker_memory_10x_over_1x": "peak memory of a worker with ten times the data",
    "stream/plan_10m_products_gib": "a plan over ten million products, peak memory",
    "train/step_time_over_torch": "a training step of 64 photos over the same with torch's layers, by size",
    "train/depthwise_gradient_over_torch": "gradient of a depthwise convolution's weights over torch's, by shape",
}  # fmt: skip
NEAREST = {  # peers that are another loss, by the row's part
    "granularity": "ContrastiveLoss over the same pairs, without attributes",
    "multi_objective": "MultiSimilarityLoss with its miner + ProxyAnchorLoss, without proxy-proxy",
    "focus_ranking": "TripletMarginLoss over all triplets",
}


def table(reports: Mapping[str, dict[str, Any]]) -> str:
    """Markdown of all rows that have a sentence or a goal; those with parts (`name/part/part`) in one line a part. reports: by subject."""
    lines = []
    for subject, report in reports.items():
        lines += [
            f"`python -m jobs.benchmark {subject}`, {_clock(report['seconds'])}:",
            "",
            "| row | value | goal |",
            "|---|---|---|",
        ]
        several: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
        for row in report["rows"]:
            name, *parts = row["name"].split("/")
            if f"{subject}/{name}" in WHAT or row["goal"] is not None:
                several[name, parts[0] if len(parts) > 1 else ""].append(row)
        for (name, part), rows in several.items():
            what = WHAT.get(f"{subject}/{name}", f"`{name}`") + (f": {part}" if part else "")
            what += f" (nearest: {NEAREST[part]})" if part in NEAREST else ""
            left = _left_out(report, part)
            values = [_value(row, len(rows) + len(left) > 1) for row in rows]
            lines.append(f"| {what} | {' · '.join(values + left)} | {_goal(rows[0])} |")
        lines.append("")
    machines = sorted({_machine(report) for report in reports.values()})
    return "\n".join([*lines, "Measured on " + "; ".join(machines) + "."])


def met(row: dict[str, Any]) -> bool:
    """Whether a row's value is as good as its goal, or has none."""
    value, goal = row["value"], row["goal"]
    return goal is None or (value >= goal if row["better"] == "higher" else value <= goal)


def _left_out(report: dict[str, Any], part: str) -> list[str]:
    """Cases of a part that have no row, as `jobs.benchmarks.losses` tells of them."""
    cases: dict[str, dict[str, Any]] = report.get("details", {}).get("cases", {})
    split = [(*name.rsplit("/", 1), told) for name, told in cases.items()]
    return [f"{size} left out" for of, size, told in split if of == part and "left_out" in told]


def _value(row: dict[str, Any], named: bool) -> str:
    value, unit = row["value"], row["unit"]
    number = f"{value:,.0f}" if value >= 1000 else f"{value:.2g}" if value < 0.1 else f"{value:.3g}"
    text = number if unit in ("ratio", "share") else f"{number} {unit}"
    label = row["name"].split("/")[-1] + " " if named else ""
    return label + (text if met(row) else f"**{text}**")


def _goal(row: dict[str, Any]) -> str:
    return "" if row["goal"] is None else f"{'>=' if row['better'] == 'higher' else '<='} {row['goal']:,g}"


def _clock(seconds: float) -> str:
    return f"{seconds / 60:.0f} minutes" if seconds >= 90 else f"{seconds:.0f} s"


def _machine(report: dict[str, Any]) -> str:
    machine, versions = report["machine"], report["versions"]
    return f"{machine['cpus']} cores ({machine['processor']}), " + ", ".join(f"{n} {v}" for n, v in versions.items())


def replaced(page: str, written: str) -> str:
    """The page with `written` between its marks. Raises UserError where they are not there once each, in order."""
    found = re.findall(f"{re.escape(BEGIN)}.*?{re.escape(END)}", page, re.S)
    if len(found) != 1:
        raise UserError(f"The page has {len(found)} parts between {BEGIN} and {END}; give it one.")
    return page.replace(found[0], f"{BEGIN}\n\n{written}\n\n{END}")


def plot(reports: Mapping[str, dict[str, Any]]) -> bytes:
    """SVG: every row with a goal as how many times better than it (right of the line) or worse; a logarithmic axis."""
    from matplotlib import rc_context
    from matplotlib.figure import Figure

    rows = [(f"{subject}: {row['name']}", row) for subject, report in reports.items() for row in report["rows"] if row["goal"]]
    times = [(r["value"] / r["goal"]) if r["better"] == "higher" else r["goal"] / max(r["value"], 1e-9) for _, r in rows]
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "benchmark", "font.family": "sans-serif"}):
        figure = Figure(figsize=(10, 0.8 + 0.2 * len(rows)), layout="constrained")
        axes = figure.subplots()
        colours = ["#0072B2" if met(row) else "#D55E00" for _, row in rows]
        axes.barh(range(len(rows)), [t - 1 for t in times], left=1, color=colours, height=0.7)
        axes.set_yticks(range(len(rows)), [name for name, _ in rows], fontsize=7)
        axes.set_xscale("log")
        axes.invert_yaxis()
        axes.axvline(1, color="#8A7F00", linewidth=1)
        axes.set_xlabel("times better than the goal; below 1: missed")
        text = io.BytesIO()
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()
