"""Bags, seen from the front. Units: the body's upper edge is at y = 0."""

from __future__ import annotations

import numpy as np

from fashion_dml.data.sources.generated.pen import METAL, TRIM, Pen, arc, box, ellipse, flow, join, mirror, points
from fashion_dml.data.sources.generated.style import Style, Vertical


def _bag(pen: Pen, style: Style, arm: float) -> None:
    cut, detail = style.cut, style.detail
    w, h, top = cut["width"], cut["height"], 0.0
    up, down = w * min(1.0, cut["taper"]), w / max(1.0, cut["taper"])
    if detail["body"] == "round":
        up = down = w
    soft, sway = cut["corner"], 0.06 * arm
    reach, spread = cut["handle"], cut["spread"] * up
    # A round body falls away from its upper edge, so straps are sewn on further in and lower down.
    hang, rest = (up * 0.95, 0.05) if detail["body"] != "round" else (w * 0.7, h * 0.16)
    if detail["handle"] in ("two", "short"):
        high = top - (reach if detail["handle"] == "two" else 0.25 * reach + 0.08)
        for shift, shade in ((0.05, 0.75), (0.0, 1.0)):
            pen.cord(
                flow(
                    (-spread, top + 0.1),
                    (-spread * 0.9 + sway, high + 0.1),
                    (sway, high - shift),
                    (spread * 0.9 + sway, high + 0.1),
                    (spread, top + 0.1),
                ),
                0.05,
                TRIM,
                shade,
            )
    elif detail["handle"] == "long":
        pen.cord(
            flow(
                (-hang, top + rest),
                (-up * 0.6 + sway, top - reach * 1.2),
                (up * 0.6 + sway, top - reach * 1.2),
                (hang, top + rest),
            ),
            0.03,
            TRIM,
        )
    elif detail["handle"] == "chain":
        curve = flow((-hang, top + rest), (-up * 0.5 + sway, top - reach), (up * 0.5 + sway, top - reach), (hang, top + rest))
        pen.line(curve, 0.02, 0.8, METAL)
        for x, y in curve:
            pen.knob(float(x), float(y), 0.022, METAL)
    dip = 0.22 * h if detail["body"] == "hobo" else 0.0
    if detail["body"] == "round":
        body = ellipse(0, h / 2, w, h / 2)
    else:
        right = join(
            arc((0, top + dip), (up * 0.6, top + dip), (up, top)),
            flow((up, top), (0.5 * (up + down) + soft * 0.3, h * 0.5), (down, h - soft)),
        )
        body = mirror(join(right, arc((down, h - soft), (down, h), (down - soft, h)), points((0, h))))
    pen.fill(body)
    _surface(pen, detail["surface"], detail["body"] == "round", up, down, h, dip, soft)
    fold = cut["flap"] * h
    top = {"hobo": dip + 0.02, "round": 0.1 * h + 0.02}.get(detail["body"], top)
    if detail["flap"] != "none" and detail["body"] != "hobo":
        edge = up * 0.97 if detail["body"] != "round" else w * 0.75
        y = 0.0 if detail["body"] != "round" else h * 0.14
        lower = {
            "straight": points((edge, y + fold), (0, y + fold)),
            "v": points((edge, y + fold * 0.55), (0, y + fold * 1.15)),
        }
        curve = lower.get(detail["flap"], arc((edge, y + fold * 0.5), (edge * 0.9, y + fold * 1.1), (0, y + fold * 1.1)))
        pen.fill(mirror(join(points((0, y), (edge, y)), curve)), shade=1.04)
        top = y + fold
    if detail["closure"] == "clasp":
        pen.fill(box(-0.06, top - 0.02, 0.06, top + 0.09), METAL)
    elif detail["closure"] in ("buckle", "buckles"):
        for x in (0.0,) if detail["closure"] == "buckle" else (-0.5 * down, 0.5 * down):
            pen.fill(box(x - 0.04, top - 0.12, x + 0.04, top + 0.2), TRIM)
            pen.fill(box(x - 0.06, top + 0.02, x + 0.06, top + 0.12), METAL)
    elif detail["closure"] == "zip":
        pen.line(points((-up * 0.9, 0.08 + dip * 0.7), (up * 0.9, 0.08 + dip * 0.7)), 0.03, 0.9, METAL)
    if detail["charm"] == "tassel":
        pen.fill(points((up * 0.62, 0.05), (up * 0.68, 0.05), (up * 0.74, 0.36), (up * 0.56, 0.36)), TRIM)
    elif detail["charm"] == "tag":
        pen.fill(ellipse(-up * 0.6, h * 0.35, 0.07, 0.09, 14), TRIM)


def _surface(pen: Pen, kind: str, oval: bool, up: float, down: float, h: float, dip: float, soft: float) -> None:
    """Quilting, a bottom panel, seams or a pocket, kept within the body: half-width `up` above and `down` below."""
    if kind == "quilt":
        reach = down * (0.65 if oval else 1.0)
        for share in np.linspace(-0.8, 0.4, 5):
            for way in (-1.0, 1.0):
                pen.line(points((way * share * reach, h * 0.25), (way * (share + 0.45) * reach, h * 0.9)), 0.014, 0.76)
    elif kind == "panel":
        if oval:
            pen.fill(ellipse(0, h / 2, down, h / 2, 40)[3:18], TRIM)
            return
        corner = arc((down, h - soft), (down, h), (down - soft, h))
        pen.fill(mirror(join(points((0, h * 0.68), (down * 0.99, h * 0.68)), corner, points((0, h)))), TRIM)
    elif kind == "seams":
        first, last = (0.1 * h, 0.9 * h) if oval else (dip * 0.6, h)
        for way in (-1.0, 1.0):
            pen.line(points((way * up * 0.6, first), (way * down * 0.6, last)), 0.018)
    elif kind == "pocket":
        pen.fill(box(-0.55 * down, h * 0.48, 0.55 * down, h * (0.84 if oval else 0.88)), shade=0.97)
        pen.line(points((-0.5 * down, h * 0.53), (0.5 * down, h * 0.53)), 0.025, 0.85, METAL)


BAGS = Vertical(
    "bags",
    {
        "width": (0.42, 0.78),
        "height": (0.55, 1.15),
        "taper": (0.7, 1.35),
        "corner": (0.03, 0.25),
        "handle": (0.3, 0.8),
        "spread": (0.35, 0.8),
        "flap": (0.28, 0.62),
    },
    {
        "body": ("box", "box", "hobo", "round"),
        "handle": ("two", "short", "long", "chain", "none"),
        "flap": ("none", "straight", "v", "round"),
        "closure": ("none", "clasp", "buckle", "buckles", "zip"),
        "surface": ("plain", "quilt", "panel", "seams", "pocket"),
        "charm": ("none", "none", "tassel", "tag"),
    },
    ("handle", "flap", "closure"),
    ("leather", "suede", "straw", "woven"),
    1.22,
    lambda style: f"{style.detail['body']}-bag",
    _bag,
)
