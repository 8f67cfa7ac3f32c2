"""A pen that draws shapes of a material and a shade, several times larger than the picture, and smooths them down.

Colour comes later: one drawing gives, per pixel, how much of it is cloth, trim and metal, and how bright. That way a
style's shape never depends on its colours, and printed cloth costs no more than plain.
Points are float [N, 2] arrays, x to the right and y down, in the units of the vertical.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

Points = NDArray[np.float64]
Plane = NDArray[np.float32]
Ink = tuple[int, int, int, int]
CLOTH, TRIM, METAL = 0, 1, 2
FULL_SHADE = 200
"""The byte that stands for shade 1.0; 255 is 1.275, a highlight."""
OUTLINE = 0.6


def points(*pairs: tuple[float, float]) -> Points:
    return np.array(pairs, dtype=np.float64)


def arc(start: tuple[float, float], control: tuple[float, float], end: tuple[float, float], steps: int = 9) -> Points:
    """A quadratic Bezier curve, both ends included."""
    t = np.linspace(0.0, 1.0, steps)[:, None]
    return (1 - t) ** 2 * np.array(start) + 2 * t * (1 - t) * np.array(control) + t**2 * np.array(end)


def flow(*pairs: tuple[float, float], steps: int = 6) -> Points:
    """A Catmull-Rom curve through every given point."""
    p = np.array([pairs[0], *pairs, pairs[-1]], dtype=np.float64)
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    t = np.linspace(0.0, 1.0, steps, endpoint=False)[None, :, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return np.vstack([curve.reshape(-1, 2), p[-1:]])


def join(*pieces: Points) -> Points:
    return np.vstack(pieces)


def mirror(right: Points) -> Points:
    """The closed symmetrical shape whose right half runs from the middle above to the middle below."""
    return np.vstack([right, right[::-1] * (-1.0, 1.0)])


def flipped(shape: Points) -> Points:
    return shape * (-1.0, 1.0)


def ellipse(x: float, y: float, rx: float, ry: float, steps: int = 28) -> Points:
    t = np.linspace(0.0, 2 * np.pi, steps, endpoint=False)
    return np.stack([x + rx * np.cos(t), y + ry * np.sin(t)], axis=1)


def box(x0: float, y0: float, x1: float, y1: float) -> Points:
    return points((x0, y0), (x1, y0), (x1, y1), (x0, y1))


@dataclass(frozen=True)
class _Mark:
    """One shape to draw: `ink` None is no fill, `rim` None no line; `width` of the line in units."""

    shape: Points
    closed: bool
    ink: Ink | None
    rim: Ink | None
    width: float


class Pen:
    """Notes shapes in the order they are drawn; `layers` draws them on a picture once their place on it is known."""

    def __init__(self) -> None:
        self.marks: list[_Mark] = []

    def fill(self, shape: Points, material: int = CLOTH, shade: float = 1.0, edge: float = 0.014) -> None:
        """A closed shape with a darker outline `edge` units wide (0: none)."""
        rim = _ink(material, shade * OUTLINE) if edge else None
        self.marks.append(_Mark(shape, True, _ink(material, shade), rim, edge))

    def hole(self, shape: Points) -> None:
        """A closed shape through which the ground shows."""
        self.marks.append(_Mark(shape, True, (0, 0, 0, 0), _ink(CLOTH, OUTLINE), 0.014))

    def notch(self, shape: Points) -> None:
        """A hole that is open from the last point back to the first: a slit in a hem."""
        self.marks.append(_Mark(shape, True, (0, 0, 0, 0), None, 0.0))
        inner = shape.copy()
        inner[0] += (shape[1] - shape[0]) * 0.12
        inner[-1] += (shape[-2] - shape[-1]) * 0.12
        self.line(inner)

    def line(self, shape: Points, width: float = 0.014, shade: float = OUTLINE, material: int = CLOTH) -> None:
        """An open line `width` units wide."""
        self.marks.append(_Mark(shape, False, None, _ink(material, shade), width))

    def cord(self, shape: Points, width: float, material: int = CLOTH, shade: float = 1.0) -> None:
        """A strap or a lace: a line with an outline on both sides."""
        self.line(shape, width + 0.03, shade * OUTLINE, material)
        self.line(shape, width, shade, material)

    def knob(self, x: float, y: float, radius: float, material: int = TRIM) -> None:
        """A button, an eyelet or a stud."""
        self.fill(ellipse(x, y, radius, radius, 10), material, 1.0, 0.012)

    def knobs(
        self, start: tuple[float, float], end: tuple[float, float], count: int, radius: float, material: int = TRIM
    ) -> None:
        for x, y in np.linspace(start, end, count):
            self.knob(float(x), float(y), radius, material)

    def bounds(self) -> Points:
        """The corners [[x0, y0], [x1, y1]] of everything drawn, in units."""
        every = np.vstack([mark.shape for mark in self.marks if mark.ink != (0, 0, 0, 0)])
        return np.stack([every.min(axis=0), every.max(axis=0)])

    def layers(self, height: int, width: int, place: Points, bend: float = 0.0, phase: float = 0.0) -> tuple[Plane, Plane]:
        """Weights of cloth, trim and metal [H, W, 3] in [0, 1], what is left being ground; and the shade [H, W].

        `place` float [2, 3] takes units to pixels; then x sways by `bend` pixels along y, from angle `phase` on.
        """
        factor = 3 if height * width <= 256 * 256 else 2
        unit = float(np.sqrt(abs(np.linalg.det(place[:, :2])))) * factor
        # CMYK only because it is Pillow's one mode of four plain bytes: RGBA would be premultiplied when reduced.
        image = Image.new("CMYK", (width * factor, height * factor), (0, 0, 0, 0))
        drawing = ImageDraw.Draw(image)
        for mark in self.marks:
            placed = mark.shape @ place[:, :2].T + place[:, 2]
            placed[:, 0] += bend * np.sin(placed[:, 1] * (5.0 / height) + phase)
            flat: list[float] = (placed * factor).ravel().tolist()
            if mark.ink is not None:
                drawing.polygon(flat, fill=mark.ink)
            if mark.rim is not None:
                outline = [*flat, *flat[:4]] if mark.closed else flat
                drawing.line(outline, fill=mark.rim, width=max(1, round(mark.width * unit)), joint="curve")
        small = np.asarray(image.reduce(factor), dtype=np.float32)
        weights = small[..., :3] / 255.0
        covered = weights[..., 0] + weights[..., 1] + weights[..., 2]
        shade = small[..., 3] / FULL_SHADE / np.maximum(covered, 1e-3)
        return weights, np.where(covered > 0.004, np.minimum(shade, 1.3), 1.0).astype(np.float32)


def _ink(material: int, shade: float) -> Ink:
    level = min(255, round(shade * FULL_SHADE))
    return (255 * (material == CLOTH), 255 * (material == TRIM), 255 * (material == METAL), level)
