"""Hats and caps, seen from the front. Units: the crown stands on y = 0."""

from __future__ import annotations

import numpy as np

from fashion_dml.data.sources.generated.pen import METAL, TRIM, Pen, arc, box, ellipse, flow, join, mirror, points
from fashion_dml.data.sources.generated.style import Style, Vertical

CATEGORY = {"wide": "sun-hat", "narrow": "trilby", "bell": "bucket-hat", "visor": "cap", "cuff": "beanie", "none": "beret"}


def _hat(pen: Pen, style: Style, arm: float) -> None:
    cut, detail = style.cut, style.detail
    w, h, brim, droop = cut["width"], cut["height"], cut["brim"], cut["droop"] + 0.03 * arm
    top = w * cut["taper"]
    shape = detail["crown"]
    if shape == "flat":
        crown = join(points((0, -h)), arc((top * 0.9, -h), (top, -h), (top, -h + 0.06)), points((w, 0)))
    elif shape == "pinch":
        crown = join(flow((0, -h + cut["dent"]), (top * 0.4, -h - 0.03), (top * 0.85, -h + 0.06)), points((w, 0)))
    elif shape == "slouch":
        crown = flow((0, -h), (top * 0.8, -h * 0.97), (w * 1.2 + 0.15 * cut["taper"], -h * 0.55), (w * 1.02, 0))
    else:
        crown = join(arc((0, -h), (top * 1.05, -h), (w, -h * 0.35)), points((w, 0)))
    under = arc((w, 0), (w * 0.5, 0.1), (0, 0.1))
    whole = join(crown, under[1:])
    form = detail["brim"]
    if form in ("wide", "narrow", "bell"):
        out = w + (brim if form == "wide" else 0.35 * brim + 0.05)
        if form == "bell":
            pen.fill(mirror(whole))
            pen.fill(
                mirror(
                    join(
                        points((0, 0.1)),
                        points((w, -0.02), (out, 0.2 + droop)),
                        arc((out, 0.2 + droop), (out * 0.6, 0.33 + droop), (0, 0.33 + droop)),
                    )
                ),
                shade=0.95,
            )
        else:
            edge = flow((out, 0.04 + droop), (out * 0.6, 0.16 + 0.3 * brim), (0, 0.2 + 0.35 * brim))
            pen.fill(
                mirror(join(points((0, -0.1)), arc((w * 0.9, -0.06), (out * 0.8, -0.04), (out, 0.04 + droop)), edge)),
                shade=0.95,
            )
            pen.fill(mirror(whole))
    else:
        pen.fill(mirror(whole))
        if form == "visor":
            pen.fill(
                join(
                    arc((-w, 0.0), (-w * 0.2, 0.16), (w * 0.35, 0.08)),
                    arc((w * 0.35, 0.08), (-w * 0.5, 0.3 + 0.5 * brim), (-w - brim, 0.14 + droop)),
                    points((-w, 0.0)),
                ),
                TRIM,
                0.95,
            )
        elif form == "cuff":
            pen.fill(
                mirror(
                    join(
                        points((0, -0.05 - 0.3 * brim)),
                        points((w * 1.03, -0.12 - 0.3 * brim), (w * 1.04, 0.08)),
                        arc((w * 1.04, 0.08), (w * 0.5, 0.17), (0, 0.17)),
                    )
                ),
                shade=1.03,
            )
    _hat_details(pen, style, w, h)


def _hat_details(pen: Pen, style: Style, w: float, h: float) -> None:
    detail, lift = style.detail, 0.14 + 0.3 * style.cut["brim"] * (style.detail["brim"] == "cuff")
    if detail["band"] != "none":
        deep = style.cut["band"]
        rim = join(
            arc((-w * 0.99, -0.01), (0, 0.17), (w * 0.99, -0.01)), arc((w * 0.96, -deep), (0, 0.16 - deep), (-w * 0.96, -deep))
        )
        pen.fill(rim - (0.0, lift - 0.14), TRIM)
        if detail["band"] == "bow":
            for way in (-1.0, 1.0):
                pen.fill(
                    points(
                        (w * 0.55, 0.03 - lift / 2),
                        (w * 0.55 + way * 0.15, -0.08 - lift / 2),
                        (w * 0.55 + way * 0.15, 0.1 - lift / 2),
                    ),
                    TRIM,
                    1.1,
                )
        elif detail["band"] == "buckle":
            pen.fill(box(w * 0.4, -deep * 0.6 - lift / 2, w * 0.4 + 0.14, 0.1 - lift / 2), METAL)
    if detail["panels"] == "seams":
        for x in (-0.5, 0.0, 0.5):
            pen.line(arc((x * 0.2 * w, -h + 0.02), (x * 1.2 * w, -h * 0.7), (x * 1.3 * w, -lift)), 0.014, 0.72)
    elif detail["panels"] == "rib":
        for x in np.linspace(-0.85, 0.85, 11):
            pen.line(arc((x * 0.6 * w, -h * (0.95 - 0.35 * abs(x))), (x * w, -h * 0.6), (x * w, -lift)), 0.014, 0.75)
    elif detail["panels"] == "eyelets":
        pen.knobs((-w * 0.5, -h * 0.62), (w * 0.5, -h * 0.62), 4, 0.022, METAL)
    if detail["top"] == "pompom":
        pen.fill(ellipse(0, -h - 0.09, 0.15, 0.14), TRIM)
    elif detail["top"] == "button":
        pen.fill(ellipse(0, -h, 0.06, 0.035, 12), TRIM)
    elif detail["top"] == "feather":
        pen.fill(
            join(
                arc((-w * 0.7, -lift * 0.3), (-w * 1.2, -h * 0.6), (-w * 0.95, -h * 1.15)),
                arc((-w * 0.95, -h * 1.15), (-w * 0.6, -h * 0.6), (-w * 0.7, -lift * 0.3)),
            ),
            TRIM,
        )
    elif detail["top"] == "patch":
        pen.fill(box(-0.13, -h * 0.58 - 0.1, 0.13, -h * 0.58 + 0.08), TRIM)


HATS = Vertical(
    "hats",
    {
        "width": (0.4, 0.54),
        "height": (0.45, 0.85),
        "taper": (0.65, 1.0),
        "brim": (0.1, 0.42),
        "droop": (-0.12, 0.14),
        "dent": (0.03, 0.16),
        "band": (0.08, 0.24),
    },
    {
        "crown": ("round", "round", "flat", "pinch", "slouch"),
        "brim": ("wide", "narrow", "bell", "visor", "cuff", "none"),
        "band": ("none", "ribbon", "bow", "buckle"),
        "panels": ("plain", "seams", "rib", "eyelets"),
        "top": ("none", "pompom", "button", "feather", "patch"),
    },
    ("crown", "brim", "band"),
    ("woven", "knit", "straw", "suede"),
    1.3,
    lambda style: CATEGORY[style.detail["brim"]],
    _hat,
)
