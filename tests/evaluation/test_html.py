import base64
import copy
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from fashion_dml.evaluation.html import attribute_rows, kept_rows, pairs, percent, points, render, render_choice, rows
from fashion_dml.evaluation.report import build
from fashion_dml.evaluation.sheets import Sheet, Tile

EVIL = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
JPEG = b"\xff\xd8\xff\xe0 not decoded here"


class Page(HTMLParser):
    """Tags with their attributes."""

    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))


def sheets(name="unified"):
    query = Tile("q/1.jpg", "P1", None, None, JPEG)
    found = [Tile(f"n/{i}.jpg", f"P{i}", 0.9 - i / 100, i == 3, JPEG) for i in range(10)]
    return [Sheet(name, "dresses", query, found, 4), Sheet("other", EVIL, Tile(EVIL, EVIL, None, None, JPEG), found[:2])]


@pytest.fixture(scope="module")
def page(evaluation):
    return render(evaluation, sheets(), title="Evaluation <test>")


def test_loads_nothing(page):
    assert "://" not in page
    tags = Page(page).tags
    assert not [t for t, _ in tags if t in ("link", "iframe", "object", "embed", "base", "form")]
    for tag, attributes in tags:
        assert not [a for a in attributes if a.startswith("on")], tag
        for name in ("src", "href", "srcset", "action"):
            assert attributes.get(name, "#").startswith(("data:image/jpeg;base64,", "#"))
    assert [t for t, _ in tags].count("script") == 1


def test_policy_allows_exactly_the_one_script(page):
    import hashlib

    (script,) = re.findall(r"<script>(.*?)</script>", page, re.S)
    policy = next(a["content"] for t, a in Page(page).tags if a.get("http-equiv") == "Content-Security-Policy")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_shows_figures_sheets_and_what_was_left_out(page, evaluation):
    interval = evaluation["models"]["unified"]["merged"]["overall"]["MAP@R"]
    assert f"<b>{percent(interval['value'])}</b><small>{percent(interval['low'])}–{percent(interval['high'])}</small>" in page
    assert "differ in dimensions" in page
    assert "Unified / specialists on separate indexes" in page
    assert page.count("<svg") == 4
    assert page.count("✓ 4 right") == 1
    assert page.count('class="tile wrong"') == 9 + 2
    assert "first right answer at rank 4" in page
    assert "cos 0.870" in page
    assert page.count(base64.b64encode(JPEG).decode()) == 11 + 3


def test_ids_are_escaped(evaluation):
    changed = copy.deepcopy(evaluation)
    changed["models"][EVIL] = changed["models"].pop("pretrained")
    changed["dataset"]["name"] = EVIL
    changed["left_out"][0]["reason"] = EVIL
    for difference in changed["differences"]:
        difference["b"] = EVIL
    page = render(changed, sheets(EVIL), title=EVIL)
    assert "<script>alert" not in page
    assert "<img src=x" not in page
    assert not [a for _, attributes in Page(page).tags for a in attributes if a.startswith("on")]


def test_page_without_sheets_or_models():
    page = render({"models": {}, "dataset": {}, "differences": [], "left_out": []})
    assert "Worst queries" not in page
    assert "<svg" not in page


def test_rows_mark_the_best_of_each_protocol(evaluation):
    found = [r for r in rows(evaluation) if r["protocol"] == "separate"]
    values = [r["cells"][0]["value"] for r in found]
    assert [r["cells"][0]["best"] for r in found] == [v == max(values) for v in values]


def test_pairs_say_what_can_be_told_apart(evaluation):
    found = pairs(evaluation)
    assert [p["protocol"] for p in found] == ["separate"] * 6 + ["merged"] * 3
    for cell in (c for p in found for c in p["cells"].values()):
        assert cell["told_apart"] == (cell["low"] > 0 or cell["high"] < 0)


def test_formats():
    assert (percent(0.7134), percent(None), points(0.013), points(-0.013), points(None)) == ("71.3", "–", "+1.3", "−1.3", "–")


def test_attribute_values_are_rows(results):
    ids = results["unified"][0].query_ids
    signs = {i: np.array([1 if "bags" in i else -1, 1 if "dresses" in i else -1, 1], np.int8) for i in ids}
    found = build(results, {}, resamples=20, attributes=(["kind=bag", f"kind={EVIL}", "new=yes"], signs))
    page = render(found)
    assert "R@1 of the queries that have each of 3 attribute values" in page
    assert '<th scope="row">bag</th><td>36</td>' in page
    assert EVIL not in page
    table = attribute_rows(found)
    assert [(r["column"], r["queries"]) for r in table] == [("kind", 36), ("kind", 36), ("new", 108)]
    assert table[0]["cells"]["unified"] == found["models"]["unified"]["separate"]["verticals"]["bags"]["R@1"]
    assert "By attribute" not in render(build(results, {}, resamples=20))


def test_agreement_is_a_table(evaluation):
    mean = {"queries": 9, "value": 0.25, "low": 0.2, "high": 0.3}
    shared = {"answers": 10, "models": {"unified": {EVIL: mean}, "pretrained": {}}}
    page = render({**evaluation, "agreement": shared})
    assert "Share of the first 10 answers" in page
    assert "<b>25.0</b><small>20.0–30.0</small>" in page
    assert EVIL not in page


def test_the_unified_model_stands_against_its_specialists(results):
    found = build(dict(zip(("specialists", "unified"), list(results.values())[:2], strict=True)), {}, resamples=50)
    page = render(found)
    assert "One model against its specialists" in page
    for one in found["kept"]["verticals"].values():
        assert f"<b>{one['value']:.3f}</b><small>{one['low']:.3f}–{one['high']:.3f}</small>" in page
    assert "One distilled model is as good as the specialists (separate index)" in page
    table = kept_rows(found)
    assert [r["kept"]["value"] for r in table] == sorted(r["kept"]["value"] for r in table)
    assert "One model against its specialists" not in render(build({"unified": results["unified"]}, {}, resamples=5))


def test_sweet_spots_are_figures(evaluation):
    curve = {"order": ["bags", EVIL], "sizes": [1, 2], "recall": {"bags": [0.5, 0.4], EVIL: [None, 0.3]}}
    page = render({**evaluation, "sweet_spot": [curve, curve]})
    assert page.count('aria-label="validation R@1 over verticals') == 2
    assert EVIL not in page


def test_each_map_is_a_figure(evaluation):
    points = {"vertical": ["bags", EVIL, "bags"], "x": [0, 0.5, 1], "y": [1, 0.5, 0]}
    page = render({**evaluation, "map": {"unified": points, EVIL: points}})
    assert page.count('aria-label="embeddings of') == 2
    assert EVIL not in page
    assert "Maps of the embeddings" not in render(evaluation)


def test_cost_is_a_table(evaluation):
    one = {"models": 13, "parameters": 43_600_000, "bytes": 174_500_000, "ms_per_image": 3.456}
    page = render({**evaluation, "cost": {EVIL: one}})
    assert "<td>13</td><td>43.6</td><td>174.5</td><td>3.46</td>" in page
    assert EVIL not in page
    assert "What it takes to serve" not in render(evaluation)


def test_the_page_of_an_index_tells_why():
    point = {"kind": "ivf", "effort": {"probes": 4, "candidates": 18}, "recall": 0.9, "milliseconds": 0.2}
    report = {
        "kind": "ivf", "store": "fp16", "items": 5, "shards": [5], "bytes": 1 << 20, "recall": 0.9, "curve": [point],
        "effort": {"probes": 4, "candidates": 18}, "choice": {"reasons": ["hnsw: 9 MiB a shard, more than <the> 8"], "points": [point]},
    }  # fmt: skip
    page = render_choice(report, goal=0.9, title="Index version v1")
    assert "more than &lt;the&gt; 8" in page
    assert page.count("<svg") == 2
    assert "4 cells" in page
    assert "mathdefault" not in page  # a tick of the log axis is a number
    assert "Why this kind" not in render_choice(report | {"choice": None}, goal=0.9, title="v1")
