"""Swimwear: one-piece suits, bikinis and tankinis."""

from __future__ import annotations

import numpy as np

from fashion_dml.data.sources.generated import sewing
from fashion_dml.data.sources.generated.pen import METAL, TRIM, Pen, arc, ellipse, flipped, flow, join, mirror, points
from fashion_dml.data.sources.generated.style import Style, Vertical


def _swimwear(pen: Pen, style: Style, arm: float) -> None:
    cut, detail = style.cut, style.detail
    hip, waist, bust, y0, crotch = cut["hip"], cut["waist"], cut["bust"], 0.75, 1.95
    leg = crotch - 0.12 - cut["leg_cut"]
    briefs = join(arc((hip, leg), (hip * 0.3, leg + 0.05), (0.075, crotch)), points((0, crotch)))
    two = detail["form"] != "one-piece"
    strap, top = cut["strap"], y0 - 0.02
    ends = {"halter": 0.06, "cross": -bust * 0.5}.get(detail["strap"], bust * 0.55)
    for way in (-1.0, 1.0):
        if detail["strap"] != "none" and not (detail["strap"] == "one" and way < 0):
            pen.cord(points((way * bust * 0.6, top + 0.1), (way * (ends + 0.03 * arm), 0.34)), strap)
    scoop = {
        "v": points((0, y0 + cut["depth"]), (bust * 0.62, y0 - 0.06)),
        "straight": points((0, y0 - 0.02), (bust * 0.7, y0 - 0.04)),
    }
    neck = scoop.get(
        detail["neck"], arc((0, y0 + cut["depth"] * 0.8), (bust * 0.5, y0 + cut["depth"]), (bust * 0.64, y0 - 0.08))
    )
    under = y0 + 0.3
    flank = arc((bust * 0.66, y0 - 0.05), (bust * 0.75, y0 + 0.16), (bust, y0 + 0.2), 5)
    band = under + (0.42 if detail["form"] == "tankini" else 0.09)
    if not two:
        body = join(neck, flank, flow((bust, y0 + 0.2), (waist, y0 + 0.55), (hip, leg - 0.08), (hip, leg)), briefs)
        pen.fill(mirror(body))
    else:
        low = hip * 0.5 + waist * 0.5
        pen.fill(
            mirror(
                join(
                    neck,
                    flank,
                    flow((bust, y0 + 0.2), (bust - 0.02, under), (low if band > under + 0.2 else bust - 0.03, band)),
                    points((0, band + 0.02)),
                )
            )
        )
        if detail["form"] == "bikini" and detail["neck"] == "v":
            pen.hole(mirror(points((0, y0 + cut["depth"] * 0.7), (0.1, band + 0.05), (0, band + 0.05))))
        rise = min(leg - 0.07, crotch - 0.3 - cut["rise"])
        pen.fill(mirror(join(points((0, rise + 0.04)), points((hip - 0.02, rise)), briefs)))
        if detail["side"] == "tie":
            for way in (-1.0, 1.0):
                pen.cord(
                    flow((way * hip, rise + 0.02), (way * (hip + 0.07), rise + 0.12), (way * (hip + 0.02), rise + 0.27)), 0.02
                )
    if detail["trim"] == "ruffle":
        sewing.hem(pen, "ruffle", bust * 0.6, bust * 0.7, y0 - 0.2, y0 + 0.06)
    elif detail["trim"] == "piped":
        for part in (join(neck, flank), flipped(join(neck, flank))):
            pen.line(part, 0.035, 1.0, TRIM)
    if detail["front"] == "cut-out" and not two:
        pen.hole(ellipse(0, y0 + 0.52, 0.12, 0.07))
    elif detail["front"] == "ring":
        pen.fill(ellipse(0, y0 + cut["depth"] * 0.8 + 0.05, 0.06, 0.06), METAL)
        pen.hole(ellipse(0, y0 + cut["depth"] * 0.8 + 0.05, 0.03, 0.03))
    elif detail["front"] == "gathers":
        for y in np.linspace(y0 + 0.2, band if two else y0 + 0.6, 5):
            pen.line(arc((-bust * 0.5, y), (0, y + 0.07), (bust * 0.5, y)), 0.013, 0.74)
    elif detail["front"] == "belt" and not two:
        sewing.belt(pen, "belt", waist, y0 + 0.56)


SWIMWEAR = Vertical(
    "swimwear",
    {
        "hip": (0.3, 0.38),
        "waist": (0.22, 0.31),
        "bust": (0.29, 0.36),
        "leg_cut": (0.08, 0.5),
        "rise": (-0.05, 0.35),
        "depth": (0.06, 0.3),
        "strap": (0.02, 0.1),
    },
    {
        "form": ("one-piece", "one-piece", "bikini", "bikini", "tankini"),
        "neck": ("scoop", "v", "straight"),
        "strap": ("two", "two", "halter", "cross", "one", "none"),
        "trim": ("none", "piped", "ruffle"),
        "side": ("plain", "tie"),
        "front": ("none", "cut-out", "ring", "gathers", "belt"),
    },
    ("strap", "trim", "front"),
    ("nylon", "knit", "woven"),
    0.95,
    lambda style: style.detail["form"],
    _swimwear,
)
