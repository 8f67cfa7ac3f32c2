"""The rows of the generated catalogue, without pixels: what there is, in which split, with which attributes.

Product i of a vertical is a function of (seed, vertical, i) and of max_variants and test_share alone, so a catalogue can be
iterated at any size in constant memory, and a larger one begins with the products of the smaller one.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from fashion_dml.config import Generated
from fashion_dml.data.sources.generated.bags import BAGS
from fashion_dml.data.sources.generated.hats import HATS
from fashion_dml.data.sources.generated.lowers import SKIRTS, TROUSERS
from fashion_dml.data.sources.generated.shoes import SHOES
from fashion_dml.data.sources.generated.style import PRODUCT_STREAM, SPLIT_STREAM, Style, Vertical, draw_style, generator
from fashion_dml.data.sources.generated.swimwear import SWIMWEAR
from fashion_dml.data.sources.generated.uppers import DRESSES, TOPS
from fashion_dml.storage import UserError

VERTICALS: tuple[Vertical, ...] = (DRESSES, TOPS, TROUSERS, SKIRTS, SHOES, BAGS, HATS, SWIMWEAR)
MEAN_VARIANTS = 3.4
PRINTS = ("solid", "stripes", "dots", "check", "floral")
PRINT_SHARES = np.cumsum([0.44, 0.16, 0.13, 0.13, 0.14])
COLOURS: dict[str, tuple[int, int, int]] = {
    "black": (36, 36, 40),
    "white": (243, 242, 238),
    "grey": (142, 144, 148),
    "beige": (214, 192, 160),
    "brown": (112, 76, 52),
    "red": (190, 38, 44),
    "pink": (236, 158, 178),
    "orange": (228, 122, 48),
    "yellow": (238, 204, 84),
    "green": (52, 124, 76),
    "khaki": (122, 120, 82),
    "turquoise": (72, 172, 176),
    "blue": (74, 124, 190),
    "navy": (36, 48, 92),
    "purple": (126, 84, 152),
}
BLOCK, FIRST = 20, 4
IMAGE_ID = re.compile(r"gen-([a-z]+)-(\d{6,18})-(\d{1,2})")


@dataclass(frozen=True)
class CatalogueRow:
    """One image. `split` is train or test, the same for all images of a product; `attributes` maps column to value."""

    image_id: str
    product_id: str
    vertical: str
    split: str
    attributes: dict[str, str]


@dataclass(frozen=True)
class Variant:
    """What changes within a style: names of COLOURS, of PRINTS and of the vertical's fabrics."""

    colour: str
    second: str
    print: str
    fabric: str


@dataclass(frozen=True)
class Product:
    """A style and its variants in the order of their image ids."""

    style: Style
    variants: tuple[Variant, ...]


def product(number: int, index: int, max_variants: int, seed: int) -> Product:
    """Product `index` of VERTICALS[number]; its variants have pairwise different colours."""
    vertical, names = VERTICALS[number], list(COLOURS)
    draws = generator(seed, PRODUCT_STREAM, number, index, 1).random((4, len(names)))
    count = 2 + int(np.searchsorted(_variant_shares(max_variants), draws[0, 0], side="right"))
    order = np.argsort(draws[1]).tolist()
    variants = []
    for i in range(count):
        kind = PRINTS[min(int(np.searchsorted(PRINT_SHARES, draws[2, i], side="right")), len(PRINTS) - 1)]
        fabric = vertical.fabrics[int(draws[3, i] * len(vertical.fabrics))]
        variants.append(Variant(names[order[i]], names[order[(i + 5) % len(order)]], kind, fabric))
    return Product(draw_style(vertical, number, index, seed), tuple(variants))


@functools.cache
def _variant_shares(max_variants: int) -> np.ndarray:
    """Cumulative chances of 2, 3, ... max_variants images: geometric, its mean as near MEAN_VARIANTS as the limit allows."""
    extra = np.arange(max_variants - 1, dtype=np.float64)
    low, high = 0.0, 1.0
    for _ in range(50):
        middle = (low + high) / 2
        weights = middle**extra
        if 2 + float(weights @ extra) / float(weights.sum()) < MEAN_VARIANTS:
            low = middle
        else:
            high = middle
    weights = high**extra
    return np.cumsum(weights / weights.sum())[:-1]


@functools.lru_cache(maxsize=16)
def _block_is_test(number: int, block: int, test_share: float, seed: int) -> tuple[bool, ...]:
    """Which of the BLOCK products from index block * BLOCK on are test products: the share's worth, in seeded places.

    Every vertical's first FIRST products are two of either kind, unless the share is exactly 0 or 1.
    """
    wanted = round((block + 1) * BLOCK * test_share) - round(block * BLOCK * test_share)
    random = generator(seed, SPLIT_STREAM, number, block).random(BLOCK)
    flags = np.zeros(BLOCK, dtype=bool)
    if block == 0 and 0 < test_share < 1:
        flags[np.argsort(random[:FIRST])[:2]] = True
        rest = min(max(wanted - 2, 0), BLOCK - FIRST)
        flags[FIRST + np.argsort(random[FIRST:])[:rest]] = True
    else:
        flags[np.argsort(random)[:wanted]] = True
    return tuple(flags.tolist())


def catalogue(settings: Generated, seed: int) -> Iterator[CatalogueRow]:
    """All images, vertical by vertical and product by product, lazily and without pixels."""
    for number, vertical in enumerate(VERTICALS[: settings.verticals]):
        for index in range(settings.products_per_vertical):
            test = _block_is_test(number, index // BLOCK, settings.test_share, seed)[index % BLOCK]
            made = product(number, index, settings.max_variants, seed)
            name = f"gen-{vertical.name}-{index:06d}"
            fixed = {"category": vertical.category(made.style), **{k: made.style.detail[k] for k in vertical.shown}}
            for i, variant in enumerate(made.variants):
                looks = {"colour": variant.colour, "print": variant.print, "fabric": variant.fabric}
                yield CatalogueRow(f"{name}-{i}", name, vertical.name, "test" if test else "train", {**looks, **fixed})


def find(image_id: str, settings: Generated, seed: int) -> tuple[int, int, int, Product]:
    """The vertical's number, the product's index, the variant's number and the product of an image id.

    Raises UserError for an id that the catalogue of these settings doesn't hold.
    """
    parsed = IMAGE_ID.fullmatch(image_id)
    names = [v.name for v in VERTICALS[: settings.verticals]]
    if parsed and parsed[1] in names and int(parsed[2]) < settings.products_per_vertical:
        number, index, i = names.index(parsed[1]), int(parsed[2]), int(parsed[3])
        made = product(number, index, settings.max_variants, seed)
        if i < len(made.variants) and image_id == f"gen-{parsed[1]}-{index:06d}-{i}":
            return number, index, i, made
    raise UserError(
        f"The generated catalogue has no image {image_id!r}: it holds {settings.products_per_vertical} products of each of "
        f"{', '.join(names)}, of at most {settings.max_variants} images."
    )
