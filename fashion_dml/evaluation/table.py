"""The table at the end of an evaluation, for the console: R@1 of every model on separate and merged indexes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from fashion_dml.evaluation.protocol import PROTOCOLS


def recall_table(evaluation: Mapping[str, Any], metric: str = "R@1") -> Table:
    """One row per model of an `evaluation.json`, in its order; print it with `rich.console.Console().print`."""
    some: Mapping[str, Any] = next((by[p] for by in evaluation["models"].values() for p in PROTOCOLS if p in by), {})
    table = Table(
        title=f"{metric} in %, 95 % interval over {some.get('queries', 0):,} queries, {some.get('gallery', 'image')} gallery",
        caption=headline(evaluation, metric),
    )
    table.add_column("model", no_wrap=True)
    verticals = list(some.get("verticals", {}))
    for name in ("separate index", "merged index"):
        table.add_column(name, justify="right", no_wrap=True)
    for vertical in verticals:
        table.add_column(escape(vertical), justify="right", no_wrap=True)
    for model, by in evaluation["models"].items():
        cells = [cell(by[p]["overall"][metric]) if p in by else "-" for p in PROTOCOLS]
        own = by.get("separate", {}).get("verticals", {})
        table.add_row(escape(model), *cells, *(_percent(own[v][metric]["value"]) if v in own else "-" for v in verticals))
    return table


def headline(evaluation: Mapping[str, Any], metric: str = "R@1") -> str | None:
    """Unified over specialists on separate indexes: the share of the specialists' quality that one model keeps."""
    models = evaluation["models"]
    try:
        kept, whole = (models[m]["separate"]["overall"][metric]["value"] for m in ("unified", "specialists"))
    except KeyError:
        return None
    if not whole or kept is None:
        return None
    return f"unified / specialists on separate indexes: {100 * kept / whole:.1f} %"


def cell(interval: Mapping[str, float | None]) -> str:
    """`71.3 (69.8-72.9)`, in percent; a dash for what couldn't be had."""
    if interval["value"] is None:
        return "-"
    return f"{_percent(interval['value'])} ({_percent(interval['low'])}-{_percent(interval['high'])})"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}"
