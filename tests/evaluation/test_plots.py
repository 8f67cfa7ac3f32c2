import copy
import xml.etree.ElementTree as ET

import pytest

from fashion_dml.evaluation.plots import INK, recall_bars, recall_curves


@pytest.mark.parametrize("draw", [recall_bars, recall_curves])
@pytest.mark.parametrize("protocol", ["separate", "merged"])
def test_svg_stands_alone(evaluation, draw, protocol):
    svg = draw(evaluation, protocol)
    root = ET.fromstring(svg)
    assert root.tag == "svg"
    assert root.get("role") == "img"
    assert root.get("viewBox")
    assert root.get("width") is None
    assert "://" not in svg
    assert INK not in svg
    assert svg == draw(evaluation, protocol)
    texts = {"".join(t.itertext()).strip() for t in root.iter("text")}
    assert {"pretrained", "unified"} <= texts
    assert ("mixed" in texts) == (protocol == "separate")


def test_names_are_escaped_and_nothing_measured_is_no_error(evaluation):
    changed = copy.deepcopy(evaluation)
    changed["models"] = {"<b>$x$": changed["models"]["unified"], "_hidden": changed["models"]["pretrained"]}
    part = changed["models"]["<b>$x$"]["separate"]
    part["overall"]["R@1"] = part["verticals"]["bags"]["R@1"] = {"value": None, "low": None, "high": None}
    for draw in (recall_bars, recall_curves):
        svg = draw(changed, "separate")
        assert "&lt;b&gt;$x$" in svg
        assert "_hidden" in svg
        ET.fromstring(draw({"models": {}}, "merged"))
