"""From an image id to pixels: the drawing in its pose, dressed in colour, print and fabric, lit, on a light ground."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageFilter

from fashion_dml.config import Generated
from fashion_dml.data.sources.generated.catalogue import COLOURS, VERTICALS, CatalogueRow, Variant, find
from fashion_dml.data.sources.generated.pen import CLOTH, METAL, TRIM, Pen, Plane
from fashion_dml.data.sources.generated.style import IMAGE_STREAM, Style, Vertical, generator

GROUNDS = ((240, 240, 240), (232, 231, 229), (238, 233, 225), (228, 222, 212), (224, 227, 230), (246, 244, 241))
METALS = ((206, 206, 210), (206, 172, 104), (120, 112, 104))
TRIMS = ("black", "white", "brown", "beige")


def render(row: CatalogueRow | str, settings: Generated, seed: int) -> Image.Image:
    """The RGB picture, image_height x image_width pixels, of a row or an image id: a pure function of its arguments.

    Raises UserError for an id that the catalogue of these settings doesn't hold.
    """
    number, index, i, made = find(row if isinstance(row, str) else row.image_id, settings, seed)
    height, width = settings.image_height, settings.image_width
    random = generator(seed, IMAGE_STREAM, number, index, i)
    weights, shade = posed(VERTICALS[number], made.style, height, width, random)
    y, x = np.meshgrid(np.arange(height, dtype=np.float32), np.arange(width, dtype=np.float32), indexing="ij")
    cover = weights[..., CLOTH] + weights[..., TRIM] + weights[..., METAL]
    inks = _inks(made.variants[i], random)
    cloth = _printed(made.variants[i].print, inks[0], inks[1], x, y, min(height / 3, width / 2), random)
    body = cloth * weights[..., CLOTH, None] + inks[2] * weights[..., TRIM, None] + inks[3] * weights[..., METAL, None]
    body /= np.maximum(cover, 1e-3)[..., None]
    body = _shaded(body, shade * _fabric(made.variants[i].fabric, x, y, random) * _rounded(cover, random))
    picture = _ground(cover, x, y, random)
    picture += (body - picture) * cover[..., None]
    picture *= _light(x, y, random)[..., None] * random.uniform(0.992, 1.008, 3).astype(np.float32)
    picture += random.standard_normal((height, width), dtype=np.float32)[..., None] * np.float32(random.uniform(0.5, 2.0))
    return Image.fromarray(np.clip(picture, 0, 255).astype(np.uint8))


def posed(vertical: Vertical, style: Style, height: int, width: int, random: np.random.Generator) -> tuple[Plane, Plane]:
    """The layers (see Pen) of the style in a random pose: turned, scaled, sheared, shifted, swayed, arms or straps moved.

    Like a packshot it is centred, and small things are shown larger than life, but not as large as big ones.
    """
    pen = Pen()
    vertical.draw(pen, style, float(random.uniform(-1, 1)))
    low, high = pen.bounds()
    extent = high - low
    tight = 0.92 * min(width / extent[0], height / extent[1])
    usual = min(height, 1.5 * width) / 2 / vertical.half
    fit = min(tight, np.sqrt(tight * usual)) * random.uniform(0.87, 1.0)
    angle, shear, stretch = random.normal(0, 0.04), random.normal(0, 0.03), random.uniform(0.96, 1.02)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = fit * (turn @ np.array([[stretch, shear], [0.0, 1.0]]))
    shift = np.array([width, height]) * (0.5 + random.uniform(-0.025, 0.025, 2))
    place = np.column_stack([linear, shift - linear @ (low + extent / 2)])
    return pen.layers(height, width, place, random.normal(0, 0.009) * width, random.uniform(0, 6.28))


def _inks(variant: Variant, random: np.random.Generator) -> Plane:
    """Colours float32 [4, 3] in 0..255: the cloth, its print, trim and metal; each a little off its name."""
    trim = variant.colour if random.random() < 0.35 else TRIMS[int(random.integers(len(TRIMS)))]
    chosen = np.array(
        [COLOURS[variant.colour], COLOURS[variant.second], COLOURS[trim], METALS[int(random.integers(3))]], np.float32
    )
    if trim == variant.colour:
        chosen[2] *= 0.78
    chosen *= random.uniform(0.9, 1.08, (4, 1)).astype(np.float32)
    return np.clip(chosen + random.normal(0, 5, (4, 3)).astype(np.float32), 8, 250)


def _printed(kind: str, base: Plane, ink: Plane, x: Plane, y: Plane, unit: float, random: np.random.Generator) -> Plane:
    """The cloth's colour [H, W, 3] in 0..255 everywhere; `unit` pixels are one drawing unit."""
    if kind == "solid":
        return np.broadcast_to(base, (*x.shape, 3)).astype(np.float32)
    angle, size = random.normal(0, 0.06), unit * random.uniform(0.11, 0.24)
    if random.random() < {"stripes": 0.45, "check": 0.2}.get(kind, 0.0):
        angle += np.pi / 2 if kind == "stripes" else np.pi / 4
    u = (x * np.cos(angle) + y * np.sin(angle)) / size + random.random()
    v = (y * np.cos(angle) - x * np.sin(angle)) / size + random.random()
    soft = 0.9 / size
    if kind == "stripes":
        amount = _step(np.abs(v % 1 - 0.5), random.uniform(0.1, 0.3), soft)
    elif kind == "check":
        band = random.uniform(0.12, 0.27)
        amount = 0.5 * (_step(np.abs(u % 1 - 0.5), band, soft) + _step(np.abs(v % 1 - 0.5), band, soft))
    elif kind == "dots":
        u = u + 0.5 * (np.floor(v) % 2)
        amount = _step(np.hypot(u % 1 - 0.5, v % 1 - 0.5), random.uniform(0.18, 0.32), soft)
    else:
        amount = _petals(u / 1.7, v / 1.7, soft / 1.7, random)
    return base + amount[..., None].astype(np.float32) * (ink - base)


def _step(distance: Plane, radius: float, soft: float) -> Plane:
    """1 within the radius, 0 beyond it, over a border `soft` wide."""
    return np.clip((radius - distance) / soft + 0.5, 0.0, 1.0)


def _petals(u: Plane, v: Plane, soft: float, random: np.random.Generator) -> Plane:
    """Five-petalled flowers of random size and turn, one in each cell of the (u, v) grid, with an open eye."""
    table = random.random((4, 64), dtype=np.float32)
    cell = ((np.floor(u) * 7 + np.floor(v) * 13) % 64).astype(np.intp)
    away_u = u % 1 - 0.38 - 0.24 * table[0][cell]
    away_v = v % 1 - 0.38 - 0.24 * table[1][cell]
    reach, turn = np.hypot(away_u, away_v), np.arctan2(away_v, away_u) + 6.28 * table[2][cell]
    petal = (0.24 + 0.14 * table[3][cell]) * (0.55 + 0.45 * np.abs(np.cos(2.5 * turn)))
    return np.clip((petal - reach) / soft + 0.5, 0, 1) * np.clip((reach - 0.07) / soft + 0.5, 0, 1)


def _fabric(name: str, x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    """Brightness [H, W] around 1: ribs, twill, sheen or grain."""
    grain = random.standard_normal(x.shape, dtype=np.float32)
    if name == "knit":
        return 1 + 0.05 * np.sin(x * random.uniform(1.4, 2.1)) * np.sin(y * 1.1) + 0.012 * grain
    if name in ("denim", "straw"):
        return 1 + 0.04 * np.sin((x + y) * random.uniform(1.2, 1.9)) * (1 if name == "denim" else np.sin(x - y)) + 0.035 * grain
    if name in ("silk", "leather", "nylon"):
        way = random.uniform(-0.6, 0.6)
        return 1 + 0.05 * np.sin((x + way * y) * (9.0 / x.shape[1]) + random.uniform(0, 6.28)) + 0.006 * grain
    return 1 + random.uniform(0.01, 0.035) * grain


def _rounded(cover: Plane, random: np.random.Generator) -> Plane:
    """Brightness [H, W]: darker towards the rim, as a thing with body is."""
    return 1 - random.uniform(0.12, 0.3) * (1 - _blurred(cover, cover.shape[0] / 40)) * 1.6


def _blurred(plane: Plane, radius: float) -> Plane:
    image = Image.fromarray((np.clip(plane, 0, 1) * 255).astype(np.uint8))
    return np.asarray(image.filter(ImageFilter.BoxBlur(radius)).filter(ImageFilter.BoxBlur(radius)), dtype=np.float32) / 255.0


def _shaded(body: Plane, shade: Plane) -> Plane:
    """Shade multiplies light cloth; on dark cloth, where that would vanish, seams show as a lighter sheen instead."""
    dark = np.clip((92 - body @ np.array([0.3, 0.59, 0.11], np.float32)) / 60, 0, 1)[..., None]
    s = shade[..., None]
    return body * s * (1 - dark) + (body + (1 - np.minimum(s, 1.0)) * 90 + (s - 1) * 25) * dark


def _ground(cover: Plane, x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    """A light ground [H, W, 3] in 0..255 with the soft shadow of what lies on it."""
    height, width = x.shape
    base = np.array(GROUNDS[int(random.integers(len(GROUNDS)))], np.float32) + random.normal(0, 1.5, 3).astype(np.float32)
    fall = random.uniform(0, 0.06) * (((x / width - 0.5) ** 2) + ((y / height - 0.5) ** 2)) * 2
    down, side = int(random.integers(1, 4)) * max(1, height // 96), int(random.integers(-3, 4)) * max(1, width // 96)
    shadow = np.roll(_blurred(cover, height / 48), (down, side), (0, 1))
    plane: Plane = base * (1 - fall - random.uniform(0.05, 0.3) * shadow)[..., None].astype(np.float32)
    return plane


def _light(x: Plane, y: Plane, random: np.random.Generator) -> Plane:
    """Exposure times a gradient across the picture [H, W]."""
    angle, strength = random.uniform(0, 6.28), random.uniform(0, 0.14)
    along = np.cos(angle) * (x / x.shape[1] - 0.5) + np.sin(angle) * (y / x.shape[0] - 0.5)
    light: Plane = random.uniform(0.9, 1.06) * (1 + strength * along)
    return light
