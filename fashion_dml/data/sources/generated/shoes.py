"""Shoes and boots, seen from the side, the toe to the left. Units: a shoe is about 1.6 long."""

from __future__ import annotations

import numpy as np

from fashion_dml.data.sources.generated.pen import METAL, TRIM, Pen, Points, arc, box, flow, join, points
from fashion_dml.data.sources.generated.style import Style, Vertical

FLOOR = 0.6


def _shoe(pen: Pen, style: Style, arm: float) -> None:
    cut, detail = style.cut, style.detail
    heel = 0.0 if detail["heel"] == "flat" else cut["heel"]
    sole = cut["sole"] + (0.09 if detail["heel"] == "platform" else 0.0)
    low, back = FLOOR - sole, FLOOR - sole - heel
    tip = {"pointed": -0.98, "round": -0.86, "square": -0.84, "cap": -0.86}[detail["toe"]]
    height = cut["toe_height"]
    shaft = {"low": 0.0, "ankle": 0.3 + 0.2 * cut["shaft"], "high": 0.65 + 0.5 * cut["shaft"]}[detail["shaft"]]
    mouth = back - 0.4 - shaft
    inner_x, instep = 0.15 - 0.35 * cut["vamp"] * (shaft == 0.0), back - 0.18 - 0.18 * cut["vamp"]
    start = points((tip, low), (tip, low - height)) if detail["toe"] == "square" else points((tip, low))
    nose = arc(
        (tip, low - height * (0.5 if detail["toe"] != "pointed" else 0.1)),
        (tip + 0.02, low - height),
        (tip + 0.28, low - height - 0.02),
    )
    lean = 0.03 * arm
    if shaft:
        front = flow(
            (tip + 0.28, low - height - 0.02), (0.0, back - 0.3), (0.14, back - 0.5), (0.12 - cut["width"] + lean, mouth)
        )
        rear = flow((0.66 + cut["width"] + lean, mouth), (0.64, back - 0.3), (0.7, back - 0.12), (0.66, back))
    else:
        front = flow(
            (tip + 0.28, low - height - 0.02), (0.5 * (tip + 0.28 + inner_x), 0.5 * (low - height + instep)), (inner_x, instep)
        )
        front = join(front, arc((inner_x, instep), (0.35, back - 0.1 - 0.08 * cut["width"]), (0.63, mouth + 0.06)))
        rear = flow((0.66, mouth + 0.05), (0.72, back - 0.2), (0.66, back))
    under = flow((0.66, back), (0.3, back + heel * 0.15), (-0.3, low), (tip + 0.05, low))
    tread = under + np.array([0.0, sole])
    if heel:
        width = {"stiletto": 0.05, "block": 0.2, "wedge": 0.9, "platform": 0.3}[detail["heel"]]
        inside = 0.68 - max(width, 0.12)
        block = points((inside, back + 0.02), (0.68, back), (0.67 - 0.04 * cut["width"], FLOOR), (0.67 - width, FLOOR))
        pen.fill(block if width < 0.9 else join(under[:14], points((-0.3, FLOOR), (0.66, FLOOR))), TRIM, 0.95)
    pen.fill(join(under, tread[::-1]), TRIM)
    if detail["tread"] == "lugs" and not heel:
        for x in np.arange(tip + 0.15, 0.62, 0.12):
            pen.line(points((x, FLOOR - 0.05), (x, FLOOR)), 0.03, 0.65, TRIM)
    if not shaft:
        pen.fill(
            join(
                points((inner_x, instep), (0.63, mouth + 0.06)),
                arc((0.66, mouth + 0.1), (0.5, back - 0.1), (inner_x + 0.1, instep + 0.1)),
            ),
            shade=0.55,
        )
    pen.fill(join(start, nose, front, rear, under[1:]))
    if detail["toe"] == "cap":
        pen.fill(
            join(nose, arc((tip + 0.28, low - height - 0.02), (tip + 0.36, low - 0.1), (tip + 0.33, low)), points((tip, low))),
            TRIM,
        )
    if detail["back"] == "tab":
        pen.fill(join(rear[-9:], points((0.56, back), (0.58, back - 0.22))), TRIM)
    elif detail["back"] == "seam":
        pen.line(arc((0.3, back), (0.38, back - 0.2), (0.68, back - 0.28)), 0.018)
    if detail["side"] in ("swoosh", "panel"):
        pen.line(
            flow((-0.35, low - 0.06), (0.0, back - 0.1), (0.4, back - 0.22)),
            0.06 if detail["side"] == "swoosh" else 0.018,
            1.0,
            TRIM,
        )
    elif detail["side"] == "holes":
        pen.knobs((-0.45, low - 0.1), (-0.1, back - 0.14), 4, 0.02)
    _shoe_closure(pen, style, front, mouth, back, shaft)


def _shoe_closure(pen: Pen, style: Style, front: Points, mouth: float, back: float, shaft: float) -> None:
    kind = style.detail["closure"]
    if kind == "laces":
        for x, y in front[3 : len(front) - 5 : 3] if shaft else front[2:7]:
            pen.line(points((x - 0.01, y + 0.01), (x + 0.17, y + 0.1)), 0.035, 1.1, TRIM)
    elif kind == "zip":
        pen.line(
            points((0.4, mouth + 0.03), (0.42, back - 0.12)) if shaft else points((0.45, mouth + 0.16), (0.4, back - 0.03)),
            0.03,
            0.9,
            METAL,
        )
    elif kind == "strap":
        y = back - 0.42 if not shaft else back - 0.36
        pen.cord(arc((0.02 if not shaft else 0.1, y + 0.12), (0.2, y - 0.02), (0.68, y + 0.08)), 0.05, TRIM)
        pen.knob(0.45, y + 0.04, 0.035, METAL)
    elif kind == "buckle":
        pen.cord(points((-0.2, back - 0.12), (0.1, back - 0.2)), 0.07, TRIM)
        pen.fill(box(-0.1, back - 0.22, 0.0, back - 0.09), METAL)
    elif kind == "elastic" and shaft:
        pen.fill(points((0.27, mouth), (0.5, mouth), (0.43, back - 0.15), (0.34, back - 0.15)), TRIM, 0.85)
    elif kind == "bow":
        x, y = float(front[len(front) // 2, 0]), float(front[len(front) // 2, 1])
        for way in (-1.0, 1.0):
            pen.fill(points((x, y), (x + way * 0.13, y - 0.1), (x + way * 0.14, y + 0.06)), TRIM)


def _shoe_category(style: Style) -> str:
    if style.detail["shaft"] != "low":
        return f"{style.detail['shaft']}-boot"
    if style.detail["closure"] == "laces":
        return "lace-up"
    return "flat" if style.detail["heel"] == "flat" else "pump"


SHOES = Vertical(
    "shoes",
    {
        "heel": (0.1, 0.5),
        "sole": (0.04, 0.15),
        "toe_height": (0.13, 0.25),
        "shaft": (0.0, 1.0),
        "vamp": (0.0, 1.0),
        "width": (-0.06, 0.1),
    },
    {
        "heel": ("flat", "flat", "stiletto", "block", "wedge", "platform"),
        "toe": ("round", "pointed", "square", "cap"),
        "shaft": ("low", "low", "ankle", "high"),
        "closure": ("none", "laces", "zip", "strap", "buckle", "elastic", "bow"),
        "back": ("plain", "tab", "seam"),
        "side": ("plain", "swoosh", "panel", "holes"),
        "tread": ("plain", "lugs"),
    },
    ("heel", "toe", "shaft", "closure"),
    ("leather", "suede", "woven", "nylon"),
    1.42,
    _shoe_category,
    _shoe,
)
