"""Trousers and skirts: what hangs from a waistband."""

from __future__ import annotations

import numpy as np

from fashion_dml.data.sources.generated import sewing
from fashion_dml.data.sources.generated.pen import METAL, TRIM, Pen, arc, box, flipped, flow, join, points
from fashion_dml.data.sources.generated.sewing import CLOTHS
from fashion_dml.data.sources.generated.style import Style, Vertical


def _trousers(pen: Pen, style: Style, arm: float) -> None:
    cut, detail = style.cut, style.detail
    y0, crotch, y1 = 0.4, 0.4 + cut["rise"], 0.4 + cut["rise"] + cut["inseam"]
    waist, hip, knee, end = cut["waist"], cut["waist"] + cut["hip"], cut["knee"], cut["knee"] * cut["hem_flare"]
    out, middle = 0.03 + 0.035 * arm + 0.05 * (end > 0.26), 0.5 * (crotch + y1)
    centre = 0.2 + out
    outer = flow((waist, y0), (hip, crotch - 0.12), (centre + knee / 2, middle), (centre + out + end / 2, y1))
    inner = flow((centre + out - end / 2, y1), (centre - knee / 2, middle), (0.012, crotch))
    leg = join(points((0, y0)), outer, inner)
    for way in (-1.0, 1.0):
        side = points((way, 1.0))
        pen.fill(leg * side, shade=1.0 if way > 0 else 0.97)
        if detail["crease"] == "crease":
            pen.line(flow((waist * 0.5, y0 + 0.2), (centre, middle), (centre + out, y1)) * side, 0.014, 0.72)
        elif detail["crease"] == "stripe":
            pen.line((outer[2:] - (0.03, 0)) * side, 0.04, 0.95, TRIM)
        elif detail["crease"] == "seams":
            pen.line(points((centre - knee / 2 + 0.02, middle), (centre + knee / 2 - 0.02, middle)) * side, 0.018)
        x0, x1 = centre + out - end / 2, centre + out + end / 2
        if detail["hem"] == "turn-up":
            pen.fill(box(x0 - 0.01, y1 - 0.1, x1 + 0.015, y1 + 0.01) * side, shade=1.08)
        elif detail["hem"] == "elastic":
            pen.fill(
                join(
                    arc((x0 + 0.03, y1), (0.5 * (x0 + x1), y1 - 0.03), (x1 - 0.03, y1)),
                    points((x1 - 0.05, y1 + 0.1), (x0 + 0.05, y1 + 0.1)),
                )
                * side,
                shade=0.86,
            )
        elif detail["hem"] == "slit":
            vent = centre + out
            pen.notch(points((vent - 0.045, y1 + 0.02), (vent, y1 - 0.25), (vent + 0.045, y1 + 0.02)) * side)
    pen.line(points((0, y0), (0, crotch)), 0.016)
    sewing.pockets(
        pen,
        detail["pocket"],
        waist * 0.62 if detail["pocket"] != "cargo" else hip - 0.1,
        y0 + 0.16 + (0.5 if detail["pocket"] == "cargo" else 0),
    )
    pen.fill(box(-waist - 0.005, y0 - cut["band"], waist + 0.005, y0 + 0.02), shade=1.03)
    if detail["waist"] == "drawstring":
        sewing.belt(pen, "elastic", waist, y0 - cut["band"] / 2 + 0.01)
        for way in (-1.0, 1.0):
            pen.line(flow((way * 0.015, y0 - 0.03), (way * 0.07, y0 + 0.1), (way * 0.04, y0 + 0.26)), 0.022, 1.1, TRIM)
    elif detail["waist"] == "loops":
        for x in (-0.75, -0.35, 0.35, 0.75):
            pen.line(points((x * waist, y0 - cut["band"] - 0.01), (x * waist, y0 + 0.03)), 0.03, 0.75)
        pen.knob(0, y0 - cut["band"] / 2, 0.024, METAL)
        pen.line(arc((0.09, y0 + 0.03), (0.09, crotch - 0.1), (0.005, crotch - 0.06)), 0.012, 0.72)
    else:
        sewing.belt(pen, detail["waist"], waist, y0 - cut["band"] / 2 + 0.01)


def _trousers_category(style: Style) -> str:
    if style.cut["inseam"] < 0.75:
        return "shorts"
    if style.cut["inseam"] < 1.25:
        return "cropped-trousers"
    return "flared-trousers" if style.cut["hem_flare"] > 1.15 else "tapered-trousers"


def _skirt(pen: Pen, style: Style, arm: float) -> None:
    cut, detail = style.cut, style.detail
    y0, y1, waist = 0.4, 0.4 + cut["length"], cut["waist"]
    end = waist + 0.04 + cut["flare"] * (0.18 + 0.28 * cut["length"]) + 0.015 * arm
    side = sewing.skirt_side(waist, max(waist + cut["hip"], min(end, waist + 0.1)), end, y0, y1, cut["flare"])
    if detail["hem"] == "ruffle":
        sewing.hem(pen, "ruffle", waist, end, y0, y1)
    curve, tilt = cut["hem_curve"], 0.22 if detail["hem"] == "asymmetric" else 0.0
    right = arc((end, y1), (end * 0.6, y1 + curve), (0, y1 + curve))
    shape = join(points((0, y0)), side, right[1:], flipped(right)[::-1][1:], flipped(side)[::-1])
    shape[:, 1] += tilt * shape[:, 0] / end * np.clip((shape[:, 1] - y0) / cut["length"], 0, 1) ** 2
    pen.fill(shape)
    sewing.folds(pen, detail["folds"], waist, end, y0, y1 - abs(tilt) * 0.7)
    if detail["hem"] != "ruffle":
        sewing.hem(pen, detail["hem"], waist, end, y0, y1)
    if detail["front"] == "wrap":
        pen.line(flow((-waist * 0.6, y0), (0.1 * waist, y0 + cut["length"] * 0.4), (end * 0.5, y1)), 0.022)
    else:
        sewing.closure(pen, detail["front"], y0 + 0.02, y1)
    sewing.pockets(pen, detail["pocket"], waist * 0.7, y0 + 0.16)
    if detail["waist"] == "paperbag":
        x = np.linspace(-waist - 0.05, waist + 0.05, 33)
        pen.fill(
            join(np.stack([x, y0 - cut["band"] - 0.05 + 0.02 * np.cos(x * 40)], axis=1), points((waist, y0), (-waist, y0))),
            shade=0.96,
        )
        sewing.belt(pen, "bow", waist, y0)
        return
    pen.fill(box(-waist - 0.005, y0 - cut["band"], waist + 0.005, y0 + 0.02), shade=1.03)
    sewing.belt(pen, detail["waist"], waist, y0 - cut["band"] / 2)


def _skirt_category(style: Style) -> str:
    length = "mini" if style.cut["length"] < 0.9 else "midi" if style.cut["length"] < 1.5 else "maxi"
    return f"{length}-skirt"


TROUSERS = Vertical(
    "trousers",
    {
        "rise": (0.45, 0.7),
        "inseam": (0.35, 1.75),
        "waist": (0.28, 0.35),
        "hip": (0.04, 0.12),
        "knee": (0.2, 0.36),
        "hem_flare": (0.6, 1.6),
        "band": (0.05, 0.17),
    },
    {
        "waist": ("plain", "loops", "drawstring", "belt", "bow"),
        "pocket": ("none", "slant", "slant", "patch", "cargo", "flap"),
        "crease": ("none", "none", "crease", "stripe", "seams"),
        "hem": ("plain", "plain", "turn-up", "elastic", "slit"),
    },
    ("waist", "pocket", "hem"),
    CLOTHS,
    1.42,
    _trousers_category,
    _trousers,
)


SKIRTS = Vertical(
    "skirts",
    {
        "length": (0.6, 1.9),
        "flare": (0.0, 1.0),
        "waist": (0.25, 0.34),
        "hip": (0.03, 0.12),
        "hem_curve": (-0.05, 0.12),
        "band": (0.05, 0.18),
    },
    {
        "waist": ("plain", "belt", "bow", "elastic", "paperbag"),
        "folds": ("none", "none", "few", "pleats", "gathers"),
        "hem": ("plain", "ruffle", "tiers", "slit", "asymmetric", "band"),
        "front": ("none", "none", "buttons", "zip", "wrap"),
        "pocket": ("none", "none", "patch", "slant", "cargo", "flap"),
    },
    ("waist", "folds", "hem", "front"),
    CLOTHS,
    1.22,
    _skirt_category,
    _skirt,
)
