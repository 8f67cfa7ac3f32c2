"""Figures of the reports as inline SVG: R@1 of each vertical as bars, R@K curves, steps of an ablation, sweet spots.

Text stays text and takes the page's colour, so that a figure reads well in the light and in the dark.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter

from fashion_dml.evaluation.protocol import Protocol

# Okabe and Ito's palette: told apart by colour-blind readers too.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#CC79A7", "#56B4E9", "#D55E00", "#8A7F00")
MARKS = "o^sDv"
ROOM_FOR_NAMES = 90  # characters below the bars
# Drawn in this colour, replaced by the page's own.
INK = "#123456"
STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    # A "$" in a model's name is a "$".
    "text.parse_math": False,
}


def recall_bars(evaluation: Mapping[str, Any], protocol: Protocol, metric: str = "R@1") -> str:
    """SVG of grouped bars with 95 % intervals: one group per vertical and one of all queries, one bar per model."""
    models = _with(evaluation, protocol)
    verticals = list(dict.fromkeys(v for by in models.values() for v in by["verticals"]))
    groups = [*verticals, "all queries"]
    width = 0.8 / max(1, len(models))
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"bars-{protocol}-{metric}"}):
        figure = Figure(figsize=(11.0, 3.0), layout="constrained")
        axes = figure.add_subplot()
        for m, (name, by) in enumerate(models.items()):
            found = [by["verticals"].get(v, {}).get(metric) for v in verticals] + [by["overall"][metric]]
            known = [(g, i) for g, i in enumerate(found) if i and i["value"] is not None]
            places = [g + (m - (len(models) - 1) / 2) * width for g, _ in known]
            heights = [100 * i["value"] for _, i in known]
            axes.bar(places, heights, 0.9 * width, color=_colour(m), label=_label(name))
            axes.errorbar(places, heights, _errors([i for _, i in known]), fmt="none", ecolor=INK, elinewidth=1, capsize=2)
        crowded: dict[str, Any] = {"rotation": 30, "ha": "right"} if sum(map(len, groups)) > ROOM_FOR_NAMES else {}
        axes.set_xticks(range(len(groups)), groups, **crowded)
        axes.set_ylim(0, 100)
        axes.set_ylabel(f"{metric}, %")
        axes.tick_params(axis="x", length=0)
        _finish(figure, axes)
        return _svg(figure, f"{metric} of each vertical, {protocol} index")


def recall_curves(evaluation: Mapping[str, Any], protocol: Protocol) -> str:
    """SVG of R@K over K, all queries: one line per model, its 95 % interval as a band."""
    models = _with(evaluation, protocol)
    depths = sorted({int(n[2:]) for by in models.values() for n in by["overall"] if n.startswith("R@")})
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"curves-{protocol}"}):
        figure = Figure(figsize=(7.0, 3.4), layout="constrained")
        axes = figure.add_subplot()
        for m, (name, by) in enumerate(models.items()):
            at = [(place, by["overall"].get(f"R@{depth}")) for place, depth in enumerate(depths)]
            known = [(place, i) for place, i in at if i and i["value"] is not None]
            places = [place for place, _ in known]
            axes.plot(
                places, [100 * i["value"] for _, i in known], "osD^vPX"[m % 7] + "-", color=_colour(m), label=_label(name)
            )
            low, high = ([100 * i[side] for _, i in known] for side in ("low", "high"))
            axes.fill_between(places, low, high, color=_colour(m), alpha=0.15, linewidth=0)
        axes.set_xticks(range(len(depths)), [str(d) for d in depths])
        axes.set_xlabel("K")
        axes.set_ylabel("R@K, %")
        axes.set_ylim(top=100)
        _finish(figure, axes)
        return _svg(figure, f"R@K over K, {protocol} index")


def rung_dots(report: Mapping[str, Any], metric: str = "R@1") -> str:
    """SVG of an ablation: each step's mean with its 95 % interval, and its seeds as small dots."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"rungs-{metric}"}):
        rows = report["rungs"]
        figure = Figure(figsize=(9.0, 0.6 + 0.42 * len(rows)), layout="constrained")
        axes = figure.add_subplot()
        for place, row in enumerate(rows):
            found = row[metric]
            axes.errorbar(
                100 * found["value"], place, xerr=[[e[0]] for e in _errors([found])], fmt="o", color=_colour(0), capsize=3
            )
            axes.plot(
                [100 * s for s in found["seeds"]], [place + 0.22] * len(found["seeds"]), ".", color=_colour(5), markersize=5
            )
        axes.set_yticks(range(len(rows)), [row["rung"] for row in rows])
        axes.invert_yaxis()
        axes.set_xlabel(f"{metric}, %")
        axes.grid(axis="x", color=INK, alpha=0.15, linewidth=0.8)
        return _svg(figure, f"{metric} of each step")


def sweet_spot(curve: Mapping[str, Any]) -> str:
    """SVG of validation R@1 over the number of verticals trained together: the first to come is the anchor, drawn bold."""
    order, sizes = curve["order"], curve["sizes"]
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"sweet-{'-'.join(order)}"}):
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for number, vertical in enumerate(order):
            known = [(n, 100 * r) for n, r in zip(sizes, curve["recall"][vertical], strict=True) if r is not None]
            if known:
                axes.plot(
                    *zip(*known, strict=True), "o-", color=_colour(number), label=_label(vertical), linewidth=1 if number else 3,
                    alpha=0.6 if number else 1.0, markersize=4,
                )  # fmt: skip
        axes.set_xticks(sizes, [f"{n}: + {order[n - 1]}" if n > 1 else f"{order[0]}" for n in sizes], rotation=35, ha="right")
        axes.set_ylabel("validation R@1, %")
        _finish(figure, axes)
        return _svg(figure, f"validation R@1 over verticals trained together, {order[0]} first")


def embedding_map(points: Mapping[str, Any], model: str) -> str:
    """SVG of a model's embeddings on a plane: one dot an image, a colour and a mark for each vertical."""
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": f"map-{model}"}):
        figure = Figure(figsize=(7.0, 5.6), layout="constrained")
        axes = figure.add_subplot()
        for number, vertical in enumerate(dict.fromkeys(points["vertical"])):
            mine = [i for i, v in enumerate(points["vertical"]) if v == vertical]
            axes.plot(
                [points["x"][i] for i in mine], [points["y"][i] for i in mine], MARKS[number // len(COLOURS) % len(MARKS)],
                color=_colour(number), label=_label(vertical), markersize=4, alpha=0.75, markeredgewidth=0,
            )  # fmt: skip
        axes.set_axis_off()
        figure.legend(loc="outside upper left", ncols=4, frameon=False)
        return _svg(figure, f"embeddings of {model} by vertical")


def effort_curves(points: Sequence[Mapping[str, Any]], goal: float) -> str:
    """SVG of recall over milliseconds a query of kinds of an index; points: {"kind", "recall", "milliseconds"}; goal: the least recall.

    A kind's line joins the points that no faster one reaches the recall of; the others are dots.
    """
    with matplotlib.rc_context({**STYLE, "svg.hashsalt": "effort"}):
        figure = Figure(figsize=(7.0, 3.6), layout="constrained")
        axes = figure.add_subplot()
        for number, kind in enumerate(dict.fromkeys(p["kind"] for p in points)):
            known = sorted((p["milliseconds"], 100 * p["recall"]) for p in points if p["kind"] == kind)
            best = [at for i, at in enumerate(known) if all(at[1] > recall for _, recall in known[:i])]
            axes.plot(*zip(*known, strict=True), ".", color=_colour(number), markersize=2, alpha=0.5)
            axes.plot(
                *zip(*best, strict=True), MARKS[number % len(MARKS)] + "-", color=_colour(number), label=kind, markersize=4
            )
        axes.axhline(100 * goal, color=INK, linewidth=0.8, linestyle="--")
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter("{x:g}")  # matplotlib's own are formulas, which stay unset in STYLE
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_ylim(min([100 * goal, *(100 * p["recall"] for p in points)]) - 2, 101)
        axes.set_xlabel("milliseconds a query, asked 32 at a time")
        axes.set_ylabel("recall@10, %")
        _finish(figure, axes)
        return _svg(figure, "recall over latency of kinds of an index")


def _with(evaluation: Mapping[str, Any], protocol: Protocol) -> dict[str, Any]:
    return {name: by[protocol] for name, by in evaluation["models"].items() if protocol in by}


def _colour(number: int) -> str:
    return COLOURS[number % len(COLOURS)]


def _label(name: str) -> str:
    """matplotlib leaves labels with a leading underscore out of the legend."""
    return f" {name}" if name.startswith("_") else name


def _errors(found: Sequence[Mapping[str, float]]) -> list[list[float]]:
    """Distances to the bounds; never below zero, where rounding puts a bound past the value."""
    below = [max(0.0, 100 * (i["value"] - i["low"])) for i in found]
    return [below, [max(0.0, 100 * (i["high"] - i["value"])) for i in found]]


def _finish(figure: Figure, axes: Any) -> None:
    axes.grid(axis="y", color=INK, alpha=0.15, linewidth=0.8)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[1]:
        figure.legend(loc="outside upper left", ncols=4 if figure.get_figwidth() < 8 else 7, frameon=False)


def _svg(figure: Figure, title: str) -> str:
    """The figure as an <svg> element for a page: no prologue, no metadata, no namespaces, which are addresses."""
    figure.patch.set_visible(False)
    for axes in figure.axes:
        axes.patch.set_visible(False)
    text = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    FigureCanvasSVG(figure).print_svg(text, metadata=nothing)
    svg = text.getvalue()
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg).replace("xlink:href", "href").replace(INK, "currentColor")
    # The page sets the size; viewBox keeps the shape.
    svg = re.sub(r'(<svg\b[^>]*?)\swidth="[^"]*pt"', r"\1", svg, count=1)
    svg = re.sub(r'(<svg\b[^>]*?)\sheight="[^"]*pt"', r"\1", svg, count=1)
    return svg.replace("<svg", f'<svg role="img" aria-label="{html.escape(title)}"', 1)
