"""The tables at the end of an evaluation, for the console: R@1 of every model on separate and merged indexes, and by vertical."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from fashion_dml.evaluation.protocol import PROTOCOLS


def recall_table(evaluation: Mapping[str, Any], metric: str = "R@1") -> Table:
    """One row per model of an `evaluation.json`, in its order; print it with `rich.console.Console().print`."""
    some: Mapping[str, Any] = next((by[p] for by in evaluation["models"].values() for p in PROTOCOLS if p in by), {})
    table = _table(
        f"{metric} in %, 95 % interval over {some.get('queries', 0):,} queries, {some.get('gallery', 'image')} gallery",
        "model", ("separate indexes", "merged index"), headline(evaluation, metric),
    )  # fmt: skip
    for model, by in evaluation["models"].items():
        table.add_row(escape(model), *(cell(by[p]["overall"][metric]) if p in by else "-" for p in PROTOCOLS))
    return table


def vertical_table(evaluation: Mapping[str, Any], metric: str = "R@1") -> Table:
    """One row per vertical, one column per model, on separate indexes: verticals may be many, and a console is so wide."""
    by_model = {m: by["separate"]["verticals"] for m, by in evaluation["models"].items() if "separate" in by}
    table = _table(f"{metric} in % by vertical, separate indexes", "vertical", by_model)
    for vertical in dict.fromkeys(v for own in by_model.values() for v in own):
        found = (_percent(own[vertical][metric]["value"]) if vertical in own else "-" for own in by_model.values())
        table.add_row(escape(vertical), *found)
    return table


def _table(title: str, first: str, others: Iterable[str], caption: str | None = None) -> Table:
    """The first column is text, the others are numbers; names too long for a narrow console go on in the next line, uncut."""
    table = Table(title=title, caption=caption)
    table.add_column(first, no_wrap=True)
    for name in others:
        table.add_column(escape(name), justify="right", min_width=7, overflow="fold")
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
