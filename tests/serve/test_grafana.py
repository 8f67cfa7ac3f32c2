"""Dashboard and alerts ask for metrics that exist, and show all that do."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from serve.metrics import METRICS, Counter, Histogram, Metric

HOME = Path(__file__).parents[2] / "serve" / "grafana"
BY_NAME = {metric.name: metric for metric in METRICS}


def series_of(metric: Metric) -> set[str]:
    """Names under which a metric is exported."""
    if isinstance(metric, Counter):
        return {f"{metric.name}_total"}
    return {f"{metric.name}{end}" for end in ("_bucket", "_sum", "_count")} if isinstance(metric, Histogram) else {metric.name}


SERIES = {series: metric for metric in METRICS for series in series_of(metric)}


def queries() -> list[tuple[str, str]]:
    """(panel's title, query), the variable in it replaced as Grafana does at its default."""
    board = json.loads((HOME / "fashion-dml.json").read_text())
    (variable,) = [v for v in board["templating"]["list"] if v["name"] == "metrics"]
    chosen = variable["current"]["value"]
    assert chosen in [o["value"] for o in variable["options"]]
    return [(p["title"], t["expr"].replace("${metrics}", chosen)) for p in board["panels"] for t in p.get("targets", [])]


def rules() -> list[dict]:
    return [rule for group in yaml.safe_load((HOME / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]


def asked(query: str) -> set[str]:
    """The series that a query names, each checked: known, with Ray's prefix, and its labels known."""
    found = set()
    for name, selector in re.findall(r"\b((?:ray_)?fashion_dml_\w+)(\{[^}]*\})?", query):
        assert name.removeprefix("ray_") in SERIES, f"{name} of {query}"
        assert name.startswith("ray_"), query
        metric = SERIES[name.removeprefix("ray_")]
        for label in re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selector):
            assert label in (*metric.labels, "replica"), f"{label} of {query}"
        found.add(metric.name)
    known = {label for name in found for label in BY_NAME[name].labels} | {"le", "replica"}
    for grouped in re.findall(r"by \(([^)]*)\)", query):
        assert {label.strip() for label in grouped.split(",")} <= known, query
    assert found, f"no metric of ours: {query}"
    assert query.count("(") == query.count(")")
    return found


@pytest.mark.parametrize(("title", "query"), queries())
def test_a_panel_asks_for_what_is_there(title: str, query: str):
    asked(query)
    if "histogram_quantile" in query:
        assert "_bucket" in query
        assert "le" in re.findall(r"by \(([^)]*)\)", query)[0]
    for series in re.findall(r"fashion_dml_\w+", query):
        if isinstance(SERIES[series], Counter | Histogram):
            assert f"rate(ray_{series}" in query, f"{title}: a counter is shown by its rate"


def test_every_metric_is_shown():
    shown = set().union(*(asked(query) for _, query in queries()))
    assert shown == set(BY_NAME)


def test_panels_fit_the_page():
    panels = json.loads((HOME / "fashion-dml.json").read_text())["panels"]
    assert len({p["id"] for p in panels}) == len(panels)
    taken: set[tuple[int, int]] = set()
    for p in panels:
        g = p["gridPos"]
        cells = {(x, y) for x in range(g["x"], g["x"] + g["w"]) for y in range(g["y"], g["y"] + g["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & taken, p["title"]
        taken |= cells


def test_alerts():
    named = {rule["alert"]: asked(rule["expr"]) for rule in rules()}
    assert len(named) == len(rules())
    for rule in rules():
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert re.fullmatch(r"\d+[mh]", rule["for"])
        assert rule["annotations"]["summary"].endswith(".")
        assert re.search(r" (<|>) [\d.]+$", rule["expr"]) or rule["expr"].startswith("absent(")
    needed = {"ready", "partial_searches", "requests", "request_seconds"}
    assert {f"fashion_dml_{name}" for name in needed} <= set().union(*named.values())
