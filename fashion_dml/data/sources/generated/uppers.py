"""Dresses and tops: a bodice with neckline and sleeves, over a skirt or down to its own hem."""

from __future__ import annotations

import numpy as np

from fashion_dml.data.sources.generated import sewing
from fashion_dml.data.sources.generated.pen import Pen, arc, box, ellipse, flow, join, points
from fashion_dml.data.sources.generated.sewing import CLOTHS, TOP
from fashion_dml.data.sources.generated.style import Style, Vertical

NECK = {"neck_width": (0.11, 0.24), "neck_depth": (0.1, 0.42), "shoulder": (0.31, 0.41)}


SLEEVE = {"sleeve_length": (0.0, 1.0), "sleeve_width": (0.0, 1.0), "cuff": (0.0, 1.2)}


def _dress(pen: Pen, style: Style, arm: float) -> None:
    cut, detail = style.cut, style.detail
    y1, y0, waist = TOP + cut["length"], TOP + cut["waist_height"], cut["waist"]
    end = waist + 0.06 + cut["flare"] * 0.26 * cut["length"]
    hip = max(waist + 0.04, min(end, 0.36))
    lower = sewing.skirt_side(waist, hip, end, y0, y1, cut["flare"])
    bottom = arc((end, y1), (end * 0.6, y1 + cut["hem_curve"]), (0, y1 + cut["hem_curve"]))
    side = join(
        flow((cut["shoulder"] - 0.03, TOP + 0.42), (0.5 * (cut["shoulder"] + waist) - 0.03, TOP + 0.6), (waist, y0)), lower[1:]
    )
    if detail["hem"] == "ruffle":
        sewing.hem(pen, "ruffle", waist, end, y0, y1)
    sewing.bodice(pen, style, arm, side, bottom[1:])
    sewing.folds(pen, detail["folds"], waist, end, y0, y1)
    if detail["hem"] != "ruffle":
        sewing.hem(pen, detail["hem"], waist, end, y0, y1)
    low = TOP + cut["neck_depth"] + (0.34 - cut["neck_depth"] * 0.5 if detail["sleeve"] == "straps" else 0.0)
    if detail["closure"] == "wrap":
        pen.line(
            join(points((-0.8 * cut["neck_width"], TOP + 0.2)), arc((0, low), (waist * 0.7, y0 - 0.1), (waist * 0.9, y0))), 0.02
        )
        pen.line(arc((waist * 0.8, y0), (waist * 0.2, y0 + 0.3), (end * 0.15, y1)), 0.02)
    else:
        sewing.closure(pen, detail["closure"], low, y0 if detail["closure"] != "buttons" else y1)
    sewing.pockets(pen, detail["pocket"], waist * 0.72, y0 + 0.2)
    sewing.belt(pen, detail["waist"], waist, y0)
    if detail["sleeve"] != "straps":
        sewing.collar(pen, detail["collar"], cut["neck_width"], min(cut["neck_depth"], 0.25))


def _dress_category(style: Style) -> str:
    if style.cut["flare"] < 0.3:
        return "pencil-dress"
    return "a-line-dress" if style.cut["flare"] < 0.65 else "skater-dress"


def _top(pen: Pen, style: Style, arm: float) -> None:
    cut, detail = style.cut, style.detail
    y1, bust, end = TOP + cut["length"], cut["shoulder"] - 0.02, cut["shoulder"] - 0.02 + cut["hem_out"]
    side = flow((bust, TOP + 0.4), (min(bust, end) - cut["taper"], TOP + 0.4 + (y1 - TOP - 0.4) * 0.55), (end, y1))
    bottom = arc((end, y1), (end * 0.6, y1 + cut["hem_curve"]), (0, y1 + cut["hem_curve"]))
    if detail["hem"] == "peplum":
        sewing.hem(pen, "ruffle", bust, end, TOP, y1)
    sewing.bodice(pen, style, arm, side, bottom[1:])
    if detail["hem"] == "rib":
        pen.line(points((-end, y1 - 0.09), (end, y1 - 0.09)), 0.014)
        for x in np.linspace(-end * 0.94, end * 0.94, 17):
            pen.line(points((x, y1 - 0.08), (x, y1 + cut["hem_curve"] * 0.5)), 0.01, 0.76)
    elif detail["hem"] == "tie":
        for way in (-1.0, 1.0):
            pen.fill(points((0, y1 - 0.03), (way * 0.06, y1 - 0.05), (way * 0.17, y1 + 0.22), (way * 0.08, y1 + 0.24)))
        pen.fill(ellipse(0, y1 - 0.02, 0.055, 0.05), shade=1.04)
    elif detail["hem"] == "band":
        sewing.hem(pen, "band", bust, end, TOP, y1)
    low = TOP + cut["neck_depth"] + (0.34 - cut["neck_depth"] * 0.5 if detail["sleeve"] == "straps" else 0.0)
    sewing.closure(pen, detail["closure"], low, y1)
    if detail["yoke"] == "yoke":
        pen.line(
            arc((-bust + 0.04, TOP + 0.28), (0, TOP + 0.34 + cut["neck_depth"] * 0.6), (bust - 0.04, TOP + 0.28)), 0.016, 0.68
        )
    elif detail["yoke"] == "princess":
        for way in (-1.0, 1.0):
            pen.line(flow((way * bust * 0.9, TOP + 0.3), (way * bust * 0.45, TOP + 0.5), (way * end * 0.5, y1)), 0.014, 0.7)
    if detail["pocket"] == "chest":
        pen.fill(box(0.09, TOP + 0.36, 0.24, TOP + 0.53), shade=0.98)
    elif detail["pocket"] == "kangaroo":
        pen.fill(
            points(
                (-0.13, y1 - 0.45),
                (0.13, y1 - 0.45),
                (0.24, y1 - 0.25),
                (0.24, y1 - 0.1),
                (-0.24, y1 - 0.1),
                (-0.24, y1 - 0.25),
            )
        )
    else:
        sewing.pockets(pen, detail["pocket"], 0.18, TOP + 0.34, 0.15)
    if detail["sleeve"] != "straps":
        sewing.collar(pen, detail["collar"], cut["neck_width"], min(cut["neck_depth"], 0.25))


def _top_category(style: Style) -> str:
    if style.detail["sleeve"] in ("straps", "sleeveless"):
        return "tank-top"
    if style.detail["collar"] in ("hood", "shirt"):
        return {"hood": "hoodie", "shirt": "shirt"}[style.detail["collar"]]
    return "t-shirt" if style.detail["sleeve"] == "short" else "sweater"


DRESSES = Vertical(
    "dresses",
    {
        "length": (1.25, 2.25),
        "flare": (0.0, 1.0),
        "waist_height": (0.56, 0.95),
        "waist": (0.24, 0.33),
        "hem_curve": (-0.06, 0.1),
        **NECK,
        **SLEEVE,
    },
    {
        "neckline": ("round", "v", "square", "boat"),
        "sleeve": ("sleeveless", "straps", "short", "long"),
        "closure": ("none", "none", "buttons", "zip", "wrap"),
        "waist": ("none", "seam", "belt", "bow"),
        "hem": ("plain", "ruffle", "tiers", "slit", "band"),
        "folds": ("none", "few", "pleats", "gathers"),
        "pocket": ("none", "none", "patch", "slant"),
        "collar": ("none", "none", "shirt", "stand", "bow"),
    },
    ("neckline", "sleeve", "closure", "hem"),
    CLOTHS,
    1.36,
    _dress_category,
    _dress,
)


TOPS = Vertical(
    "tops",
    {"length": (0.85, 1.4), "hem_out": (-0.06, 0.16), "taper": (-0.01, 0.07), "hem_curve": (-0.02, 0.1), **NECK, **SLEEVE},
    {
        "neckline": ("round", "v", "square", "boat"),
        "sleeve": ("sleeveless", "straps", "short", "long", "long"),
        "closure": ("none", "none", "buttons", "zip", "henley", "double"),
        "collar": ("none", "none", "shirt", "stand", "hood", "bow"),
        "hem": ("plain", "rib", "tie", "peplum", "band"),
        "yoke": ("none", "yoke", "princess"),
        "pocket": ("none", "none", "chest", "kangaroo", "patch", "flap"),
    },
    ("neckline", "sleeve", "closure", "collar"),
    CLOTHS,
    1.02,
    _top_category,
    _top,
)
