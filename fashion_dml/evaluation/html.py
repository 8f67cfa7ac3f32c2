"""`evaluation.html`: one self-contained page with the figures, the plots and the retrieval sheets.

Nothing is loaded from anywhere: pictures are data: URIs, plots inline SVG, style and the one script inline. The page's own
Content-Security-Policy forbids every request and every other script, so an id from a CSV can't smuggle one in.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from fashion_dml.evaluation.ladder import METRICS
from fashion_dml.evaluation.plots import effort_curves, embedding_map, recall_bars, recall_curves, rung_dots, sweet_spot
from fashion_dml.evaluation.premises import premises
from fashion_dml.evaluation.protocol import PROTOCOLS
from fashion_dml.evaluation.report import KEPT
from fashion_dml.evaluation.sheets import Sheet
from fashion_dml.evaluation.table import headline

HERE = Path(__file__).parent
SHOWN = ("R@1", "R@5", "R@10", "R@20", "mAP", "MAP@R")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = percent
    environment.filters["points"] = points
    environment.filters["ratio"] = ratio
    environment.filters["data_uri"] = data_uri
    return environment


def render_ladder(report: Mapping[str, Any], *, title: str) -> str:
    """The page of an ablation, from the report of `ladder.build` with its method's particulars."""
    metrics = [m for m in METRICS if m in report["rungs"][0]]
    page = _environment().get_template("ladder.html")
    return page.render(title=title, report=report, metrics=metrics, plot=Markup(rung_dots(report)))


def render_groups(report: Mapping[str, Any], *, title: str) -> str:
    """The page of a search for groups, from the report of `jobs.group_verticals`."""
    group = {v: name for name, verticals in report["groups"].items() for v in verticals}
    plots = [Markup(sweet_spot(curve)) for curve in report["curves"]]
    return _environment().get_template("groups.html").render(title=title, report=report, group=group, plots=plots)


def render_choice(report: Mapping[str, Any], *, goal: float, title: str) -> str:
    """The page of an index whose kind was chosen or tuned, from the report of `jobs.build_index`; goal: the recall asked for."""
    choice_plot = Markup(effort_curves(report["choice"]["points"], goal)) if report["choice"] else ""
    curve_plot = Markup(effort_curves(report["curve"], goal)) if report["curve"] else ""
    page = _environment().get_template("index_choice.html")
    return page.render(title=title, report=report, goal=goal, choice_plot=choice_plot, curve_plot=curve_plot)


def render(evaluation: Mapping[str, Any], sheets: Sequence[Sheet] = (), *, title: str = "Evaluation") -> str:
    """The page [text of one HTML file] for an `evaluation.json`; sheets stand in their order, by model."""
    script = (HERE / "report_script.html").read_text(encoding="utf-8").split("<script>")[1].split("</script>")[0]
    present = [p for p in PROTOCOLS if any(p in by for by in evaluation["models"].values())]
    # Drawn here; matplotlib escapes the names in it.
    plots = [
        {"title": f"{name}, {protocol} index", "svg": Markup(draw(evaluation, protocol)), "wide": draw is recall_bars}
        for name, draw in (("R@1 of each vertical", recall_bars), ("R@K, all queries", recall_curves))
        for protocol in present
    ]
    return (
        _environment()
        .get_template("report.html")
        .render(
            title=title,
            evaluation=evaluation,
            rows=rows(evaluation),
            columns=columns(evaluation),
            headline=headline(evaluation),
            compared=list(dict.fromkeys(d["metric"] for d in evaluation["differences"])),
            pairs=pairs(evaluation),
            kept=kept_rows(evaluation),
            premises=premises(evaluation),
            curves=[Markup(sweet_spot(curve)) for curve in evaluation.get("sweet_spot", [])],
            cost=evaluation.get("cost", {}),
            attributes=attribute_rows(evaluation),
            agreement=list(dict.fromkeys(c for by in evaluation.get("agreement", {}).get("models", {}).values() for c in by)),
            plots=plots,
            maps={name: Markup(embedding_map(points, name)) for name, points in evaluation.get("map", {}).items()},
            sheets=by_model(sheets),
            script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        )
    )


def columns(evaluation: Mapping[str, Any]) -> list[str]:
    """Metrics of the headline table: those of SHOWN that were measured."""
    measured = {m for by in evaluation["models"].values() for part in by.values() for m in part["overall"]}
    return [m for m in SHOWN if m in measured]


def rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The headline table: one row per protocol and model, the best value of each metric marked."""
    shown = columns(evaluation)
    found: list[dict[str, Any]] = []
    for protocol in PROTOCOLS:
        having = {name: by[protocol] for name, by in evaluation["models"].items() if protocol in by}
        best = {m: max((by["overall"][m]["value"] or 0 for by in having.values()), default=0) for m in shown}
        for name, by in having.items():
            cells = [{**by["overall"][m], "best": len(having) > 1 and 0 < best[m] == by["overall"][m]["value"]} for m in shown]
            found.append({"protocol": protocol, "model": name, "cells": cells, "report": by})
    return found


def pairs(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The table of differences: one row per protocol and pair of models, cells by metric; protocols in their order."""
    found: dict[tuple[str, str, str], dict[str, Any]] = {}
    for d in sorted(evaluation["differences"], key=lambda d: PROTOCOLS.index(d["protocol"])):
        key = (d["protocol"], d["a"], d["b"])
        row = found.setdefault(key, {"protocol": d["protocol"], "a": d["a"], "b": d["b"], "cells": {}})
        told_apart = d["value"] is not None and not d["low"] <= 0 <= d["high"]
        row["cells"][d["metric"]] = {**d, "told_apart": told_apart}
    return list(found.values())


def kept_rows(evaluation: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The unified model against the specialists, on separate indexes: one row per vertical, worst first."""
    kept = evaluation.get("kept", {"verticals": {}})["verticals"]
    by = {m: evaluation["models"][m]["separate"]["verticals"] for m in KEPT} if kept else {}
    found = [{"vertical": v, "kept": k, **{m: by[m][v]["R@1"] for m in KEPT}} for v, k in kept.items()]
    return sorted(found, key=lambda row: (row["kept"]["value"] is None, row["kept"]["value"] or 0))


def attribute_rows(evaluation: Mapping[str, Any], metric: str = "R@1") -> list[dict[str, Any]]:
    """One row per attribute value, cells by model, on separate indexes, which every model has; columns in their order."""
    found: dict[str, dict[str, Any]] = {}
    for model, by in evaluation["models"].items():
        for word, values in by.get("separate", {}).get("attributes", {}).items():
            column, _, value = word.partition("=")
            row = found.setdefault(word, {"column": column, "value": value, "queries": values["queries"], "cells": {}})
            row["cells"][model] = values[metric]
    columns = list(dict.fromkeys(row["column"] for row in found.values()))
    return sorted(found.values(), key=lambda row: (columns.index(row["column"]), -row["queries"]))


def by_model(sheets: Sequence[Sheet]) -> dict[str, list[Sheet]]:
    """Sheets of each model, models in the order of their first sheet."""
    found: dict[str, list[Sheet]] = {}
    for sheet in sheets:
        found.setdefault(sheet.model, []).append(sheet)
    return found


def ratio(value: float | None) -> str:
    """`0.987`; a dash for what couldn't be had."""
    return "–" if value is None else f"{value:.3f}"


def percent(value: float | None) -> str:
    """`71.3` for 0.713; a dash for what couldn't be had."""
    return "–" if value is None else f"{100 * value:.1f}"


def points(value: float | None) -> str:
    """`+1.3` for a difference of 0.013."""
    return "–" if value is None else f"{100 * value:+.1f}".replace("-", "−")


def data_uri(jpeg: bytes) -> str:
    """JPEG bytes as an address that needs no request."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode()
