"""Parts that garments share: necklines, sleeves, collars, closures, pockets, belts, hems.

Units: the shoulders are about 0.35 from the middle (x = 0) and TOP below the upper edge.
"""

from __future__ import annotations

import numpy as np

from fashion_dml.data.sources.generated.pen import (
    METAL,
    TRIM,
    Pen,
    Points,
    arc,
    box,
    flipped,
    flow,
    join,
    mirror,
    points,
)
from fashion_dml.data.sources.generated.style import Style

TOP = 0.35
"""y of the highest point of the shoulders."""
CLOTHS = ("woven", "knit", "silk", "denim", "linen")


def neck(kind: str, width: float, depth: float, y: float) -> Points:
    """The right half of a neckline from its lowest point in the middle to the shoulder at (width, y)."""
    if kind == "v":
        return points((0, y + depth), (width, y))
    if kind == "square":
        return points((0, y + depth), (width * 0.88, y + depth), (width, y))
    if kind == "boat":
        return arc((0, y + 0.07), (width, y + 0.07), (width * 1.2, y))
    return arc((0, y + depth), (width, y + depth), (width, y))


def sleeve(length: float, width: float, cuff: float, shoulder: float, arm: float) -> Points:
    """The right sleeve: `cuff` is its width at the end over `width`; arm 0 hangs down, 1 stands out (radians / 1.2)."""
    angle = 0.42 + 0.16 * arm
    along = np.array([np.sin(angle), np.cos(angle)])
    across = np.array([np.cos(angle), -np.sin(angle)])
    top = np.array([shoulder, TOP + 0.07])
    wide = width * cuff
    end = top + along * length
    outer, inner = end + across * (wide - width) * 0.5, end - across * (wide + width) * 0.5
    swell = top + along * length * 0.55 + across * (0.03 + 0.5 * max(0.0, cuff - 1) * width)
    pit = points((shoulder - 0.04, TOP + 0.1 + width * 1.7))
    return join(arc(tuple(top - along * 0.02), tuple(swell), tuple(outer)), points(tuple(inner)), pit)


def bodice(pen: Pen, style: Style, arm: float, side: Points, bottom: Points) -> None:
    """Sleeves, back of the neck, front with its neckline; `side` runs down from the armpit, `bottom` on to the middle."""
    cut, detail = style.cut, style.detail
    kind, wide, shoulder = detail["sleeve"], cut["neck_width"], cut["shoulder"]
    if kind in ("short", "long"):
        length = 0.22 + 0.33 * cut["sleeve_length"] if kind == "short" else 0.8 + 0.45 * cut["sleeve_length"]
        shape = sleeve(length, 0.17 + 0.12 * cut["sleeve_width"], 0.6 + cut["cuff"], shoulder, arm)
        for part in (shape, flipped(shape)):
            pen.fill(part, shade=0.94)
            if cut["cuff"] > 0.45 and kind == "long":
                pen.line(part[7:11] * 0.985 + (0, -0.012), 0.012, 0.7)
    depth = cut["neck_depth"]
    if kind == "straps":
        y = TOP + 0.34
        for way in (-1.0, 1.0):
            pen.cord(
                points((way * shoulder * 0.82, y + 0.03), (way * shoulder * 0.66, TOP - 0.02)),
                0.03 + 0.05 * cut["sleeve_width"],
            )
        front = join(neck(detail["neckline"], shoulder * 0.8, depth * 0.5, y)[:-1], points((shoulder * 0.84, y - 0.02)))
        pen.fill(mirror(join(front, side[1:], bottom)))
        return
    pen.fill(
        mirror(join(arc((0, TOP + 0.05), (wide, TOP + 0.04), (wide, TOP)), points((wide, TOP + depth), (0, TOP + depth)))),
        shade=0.62,
    )
    tip = shoulder if kind != "sleeveless" else shoulder - 0.06
    hole = arc((tip, TOP + 0.075), (tip - 0.07, TOP + 0.3), tuple(side[0]))
    pen.fill(mirror(join(neck(detail["neckline"], wide, depth, TOP), hole, side[1:], bottom)))
    if kind != "sleeveless":
        for part in (hole, flipped(hole)):
            pen.line(part, 0.012, 0.74)


def collar(pen: Pen, kind: str, wide: float, depth: float) -> None:
    if kind == "shirt":
        flap = points(
            (wide * 0.15, TOP + depth * 0.9),
            (wide + 0.0, TOP - 0.05),
            (wide + 0.07, TOP + 0.04),
            (wide * 0.85, TOP + depth * 0.8 + 0.1),
        )
        for part in (flap, flipped(flap)):
            pen.fill(part, shade=1.05)
    elif kind == "stand":
        pen.fill(
            mirror(points((0, TOP - 0.1), (wide * 0.9, TOP - 0.11), (wide + 0.02, TOP + 0.02), (0, TOP + 0.09))), shade=0.98
        )
    elif kind == "hood":
        pen.fill(
            mirror(
                join(
                    points((0, TOP - 0.24)),
                    arc((0.12, TOP - 0.25), (wide + 0.16, TOP - 0.2), (wide + 0.1, TOP + 0.05)),
                    points((0, TOP + 0.2)),
                )
            ),
            shade=1.03,
        )
        pen.fill(
            mirror(
                join(
                    points((0, TOP - 0.13)),
                    arc((0.05, TOP - 0.13), (wide + 0.04, TOP - 0.1), (wide * 0.8, TOP + 0.05)),
                    points((0, TOP + 0.2)),
                )
            ),
            shade=0.55,
        )
        for way in (-1.0, 1.0):
            pen.line(points((way * 0.06, TOP + 0.14), (way * 0.075, TOP + 0.45)), 0.022, 1.1, TRIM)
    elif kind == "bow":
        wing = points((0.02, TOP + depth), (0.17, TOP + depth - 0.09), (0.19, TOP + depth + 0.07))
        for part in (wing, flipped(wing)):
            pen.fill(part, TRIM)


def closure(pen: Pen, kind: str, top: float, bottom: float) -> None:
    if kind == "zip":
        pen.line(points((0, top), (0, bottom)), 0.035, 0.9, METAL)
        pen.fill(box(-0.022, top + 0.02, 0.022, top + 0.1), METAL, 0.8)
    elif kind in ("buttons", "henley"):
        end = bottom - 0.06 if kind == "buttons" else min(bottom, top + 0.34)
        for x in (-0.04, 0.04):
            pen.line(points((x, top), (x, end + 0.04)), 0.01, 0.72)
        pen.knobs((0, top + 0.05), (0, end), 3 if kind == "henley" else max(3, round((bottom - top) / 0.17)), 0.022)
    elif kind == "double":
        for x in (-0.11, 0.11):
            pen.knobs((x, top + 0.12), (x, min(bottom - 0.05, top + 0.75)), 4, 0.024)


def pockets(pen: Pen, kind: str, x: float, y: float, size: float = 0.17) -> None:
    """A pair of pockets whose middles are x to either side and whose upper edge is at y."""
    for way in (-1.0, 1.0):
        if kind in ("patch", "cargo"):
            sack = points(
                (x - size / 2, y), (x + size / 2, y), (x + size / 2, y + size), (x, y + size * 1.18), (x - size / 2, y + size)
            )
            pen.fill(sack * (way, 1), shade=0.97)
            if kind == "cargo":
                pen.fill(box(x - size * 0.55, y - 0.02, x + size * 0.55, y + 0.06) * (way, 1), shade=1.04)
        elif kind == "slant":
            pen.line(points((way * (x + size * 0.55), y + size), (way * (x - size * 0.1), y - 0.02)), 0.018)
        elif kind == "flap":
            pen.fill(box(x - size / 2, y, x + size / 2, y + 0.075) * (way, 1), shade=1.03)


def belt(pen: Pen, kind: str, width: float, y: float) -> None:
    if kind in ("belt", "bow"):
        pen.fill(box(-width - 0.008, y - 0.035, width + 0.008, y + 0.04), TRIM)
    if kind == "belt":
        pen.fill(box(-0.055, y - 0.05, 0.055, y + 0.055), METAL)
        pen.fill(box(-0.03, y - 0.025, 0.03, y + 0.03), TRIM, 0.85)
    elif kind == "bow":
        for way in (-1.0, 1.0):
            pen.fill(points((0, y), (0.17, y - 0.09), (0.17, y + 0.08)) * (way, 1), TRIM)
            pen.fill(points((0.0, y), (0.04, y), (0.13, y + 0.4), (0.07, y + 0.41)) * (way, 1), TRIM, 0.95)
    elif kind == "seam":
        pen.line(points((-width, y), (width, y)), 0.018, 0.62)
    elif kind == "elastic":
        for x in np.linspace(-width * 0.92, width * 0.92, 13):
            pen.line(points((x, y - 0.03), (x, y + 0.035)), 0.01, 0.72)


def skirt_side(waist: float, hip: float, hem: float, y0: float, y1: float, flare: float) -> Points:
    """The right seam from the waist (y0) over the hip to the hem (y1)."""
    length = y1 - y0
    return flow(
        (waist, y0),
        (hip + (hem - hip) * 0.12 * (1 + flare), y0 + length * 0.28),
        (hip + (hem - hip) * 0.55, y0 + length * 0.64),
        (hem, y1),
    )


def folds(pen: Pen, kind: str, waist: float, hem: float, y0: float, y1: float) -> None:
    """Pleats or gathers between waist and hem; tiers and ruffles as cross seams."""
    if kind in ("few", "pleats"):
        for share in np.linspace(-0.85, 0.85, 5 if kind == "few" else 13):
            pen.line(points((waist * share, y0 + 0.03), (hem * share, y1 - 0.01)), 0.014, 0.78)
    elif kind == "gathers":
        for share in np.linspace(-0.8, 0.8, 9):
            pen.line(points((waist * share, y0 + 0.03), ((waist * 0.6 + hem * 0.4) * share, y0 + (y1 - y0) * 0.4)), 0.013, 0.76)


def hem(pen: Pen, kind: str, waist: float, end: float, y0: float, y1: float) -> None:
    def wide(y: float) -> float:
        return waist + (end - waist) * (y - y0) / (y1 - y0)

    if kind == "tiers":
        for share in (0.38, 0.68):
            y = y0 + (y1 - y0) * share
            pen.line(arc((-wide(y), y), (0, y + 0.06), (wide(y), y)), 0.024, 0.6)
    elif kind == "ruffle":
        y, bumps = y1 - 0.02, 9
        x = np.linspace(-end - 0.03, end + 0.03, bumps * 4 + 1)
        wave = np.stack([x, y + 0.14 + 0.03 * np.cos(np.linspace(0, 2 * np.pi * bumps, len(x)))], axis=1)
        pen.fill(join(points((end, y - 0.02), (-end, y - 0.02)), wave), shade=0.97)
    elif kind == "slit":
        middle = end * 0.45
        pen.notch(points((middle - 0.06, y1 + 0.03), (middle - 0.01, y1 - (y1 - y0) * 0.42), (middle + 0.07, y1 + 0.03)))
    elif kind == "band":
        pen.fill(points((-wide(y1 - 0.09), y1 - 0.09), (wide(y1 - 0.09), y1 - 0.09), (end, y1), (-end, y1)), TRIM)
