"""What a style is: continuous cut parameters and discrete details, drawn from a vertical's table.

Styles come in families of FAMILY consecutive products that share most details and about half of the cut, as the
products of one brand do: so every style has a few near neighbours that only its exact silhouette tells apart.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from fashion_dml.data.sources.generated.pen import Pen
from fashion_dml.storage import UserError

FAMILY = 5
KEEP_CUT, KEEP_DETAIL = 0.5, 0.65
"""Chance that a product keeps its family's value of one cut parameter, of one detail."""

FAMILY_STREAM, PRODUCT_STREAM, SPLIT_STREAM, IMAGE_STREAM = 1, 2, 3, 4


@dataclass(frozen=True)
class Style:
    """One drawn style: `cut` holds lengths in drawing units and shares, `detail` names."""

    cut: Mapping[str, float]
    detail: Mapping[str, str]


@dataclass(frozen=True)
class Vertical:
    """A kind of product: ranges of its cut, choices of its details, and how it is drawn.

    `draw(pen, style, arm)` draws in its own units, and a picture usually shows `half` of them above and below its middle.
    `arm` in [-1, 1] is the free pose: the angle of sleeves, legs or handles.
    `shown` are the details that become attributes; the others are left for the eye.
    """

    name: str
    cuts: Mapping[str, tuple[float, float]]
    details: Mapping[str, tuple[str, ...]]
    shown: tuple[str, ...]
    fabrics: tuple[str, ...]
    half: float
    category: Callable[[Style], str]
    draw: Callable[[Pen, Style, float], None]


def generator(seed: int, stream: int, *numbers: int) -> np.random.Generator:
    """The Philox generator of one thing; equal on every machine and in every process."""
    if seed < 0:
        raise UserError(f"The generated catalogue's seed is {seed}; give an integer of at least 0.")
    return np.random.Generator(np.random.Philox(np.random.SeedSequence([stream, *numbers, seed])))


def draw_style(vertical: Vertical, number: int, index: int, seed: int) -> Style:
    """The style of product `index` of the vertical with this number."""
    cuts, details = len(vertical.cuts), len(vertical.details)
    family = generator(seed, FAMILY_STREAM, number, index // FAMILY).random(cuts + details)
    own = generator(seed, PRODUCT_STREAM, number, index, 0).random((2, cuts + details))
    keep = own[1] < np.concatenate([np.full(cuts, KEEP_CUT), np.full(details, KEEP_DETAIL)])
    share = np.where(keep, family, own[0]).tolist()
    cut = {k: low + u * (high - low) for (k, (low, high)), u in zip(vertical.cuts.items(), share[:cuts], strict=True)}
    detail = {k: names[int(u * len(names))] for (k, names), u in zip(vertical.details.items(), share[cuts:], strict=True)}
    return Style(cut, detail)
