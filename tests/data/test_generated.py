"""The generated catalogue: deterministic, lazy, split by product, and a task of shape rather than of colour."""

from __future__ import annotations

import hashlib
import itertools
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fashion_dml.config import Generated
from fashion_dml.data.sources.generated import CatalogueRow, catalogue, render
from fashion_dml.data.sources.generated.catalogue import VERTICALS, find
from fashion_dml.data.sources.generated.picture import posed
from fashion_dml.data.sources.generated.style import IMAGE_STREAM, generator
from fashion_dml.storage import UserError

SMALL = Generated(products_per_vertical=6, verticals=8)
DIGEST = """
import hashlib
from fashion_dml.config import Generated
from fashion_dml.data.sources.generated import catalogue, render
settings = Generated(products_per_vertical=2, verticals=8)
digest = hashlib.sha256()
for row in catalogue(settings, 7):
    digest.update(repr(row).encode() + render(row, settings, 7).tobytes())
print(digest.hexdigest())
"""


def test_another_process_draws_the_same_bytes() -> None:
    settings = Generated(products_per_vertical=2, verticals=8)
    digest = hashlib.sha256()
    for row in reversed(list(catalogue(settings, 7))):
        render(row.image_id, settings, 7)  # another order and nothing remembered: each image stands alone
    for row in catalogue(settings, 7):
        digest.update(repr(row).encode() + render(row, settings, 7).tobytes())
    told = subprocess.run([sys.executable, "-c", DIGEST], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == digest.hexdigest()


@pytest.mark.parametrize(("height", "width"), [(192, 128), (64, 64), (45, 130), (400, 300), (1, 1)])
def test_pictures_have_the_size_asked_for(height: int, width: int) -> None:
    settings = Generated(products_per_vertical=1, verticals=8, image_height=height, image_width=width)
    for row in catalogue(settings, 3):
        picture = render(row, settings, 3)
        assert (picture.mode, picture.size) == ("RGB", (width, height))


def test_rows_name_products_and_their_variants_differ_in_colour() -> None:
    rows = list(catalogue(SMALL, 0))
    assert len({row.image_id for row in rows}) == len(rows)
    assert [v.name for v in VERTICALS] == list(dict.fromkeys(row.vertical for row in rows))
    for product_id, group in itertools.groupby(rows, key=lambda row: row.product_id):
        images = list(group)
        assert [row.image_id for row in images] == [f"{product_id}-{i}" for i in range(len(images))]
        assert 2 <= len(images) <= SMALL.max_variants
        assert len({row.attributes["colour"] for row in images}) == len(images)
        assert len({row.attributes["category"] for row in images}) == 1
    assert {"colour", "print", "fabric", "category"} <= set(rows[0].attributes)


@pytest.mark.parametrize(("limit", "mean"), [(2, 2.0), (3, 2.5), (5, 3.4), (12, 3.4)])
def test_products_have_about_three_and_a_half_images(limit: int, mean: float) -> None:
    settings = Generated(products_per_vertical=600, verticals=1, max_variants=limit)
    assert sum(1 for _ in catalogue(settings, 1)) / 600 == pytest.approx(mean, abs=0.25)


@pytest.mark.parametrize("share", [0.01, 0.35, 0.5, 0.99])
def test_split_is_by_product_near_the_share_and_never_without_either(share: float) -> None:
    for products in (4, 7, 200):
        settings = Generated(products_per_vertical=products, verticals=3, test_share=share)
        split: dict[str, set[str]] = {}
        for row in catalogue(settings, 5):
            split.setdefault(row.product_id, set()).add(row.split)
        assert all(len(s) == 1 for s in split.values())
        for vertical in VERTICALS[:3]:
            kinds = [next(iter(s)) for p, s in split.items() if p.startswith(f"gen-{vertical.name}-")]
            assert kinds.count("train") >= 2
            assert kinds.count("test") >= 2
            if products == 200:
                assert kinds.count("test") / products == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize(("share", "only"), [(0.0, "train"), (1.0, "test")])
def test_an_extreme_share_is_kept_to_the_letter(share: float, only: str) -> None:
    assert {row.split for row in catalogue(Generated(test_share=share, verticals=2), 0)} == {only}


def test_ten_million_products_begin_at_once_and_like_a_small_catalogue() -> None:
    rows = list(itertools.islice(catalogue(Generated(products_per_vertical=10_000_000), 0), 40))
    assert rows == list(itertools.islice(catalogue(Generated(products_per_vertical=60), 0), 40))
    last = Generated(products_per_vertical=10_000_000)
    assert render("gen-tops-9999999-1", last, 0).size == (128, 192)


@pytest.mark.parametrize(
    "wrong", ["", "gen-dresses-000006-0", "gen-dresses-000000-9", "gen-dresses-0000001-0", "gen-cars-000000-0", "x.jpg"]
)
def test_an_id_outside_the_catalogue_is_refused(wrong: str) -> None:
    with pytest.raises(UserError, match="has no image"):
        render(wrong, SMALL, 0)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(UserError, match="seed is -1"):
        next(catalogue(SMALL, -1))


def test_the_seed_changes_styles_and_looks() -> None:
    first, second = next(catalogue(SMALL, 0)), next(catalogue(SMALL, 1))
    assert np.asarray(render(first, SMALL, 0)).tolist() != np.asarray(render(second, SMALL, 1)).tolist()


def _silhouette(row: CatalogueRow, settings: Generated, seed: int) -> np.ndarray:
    """Coverage of the drawing as its picture shows it, blurred a little to forgive the pose; float [48 * 32], unit length."""
    number, index, i, made = find(row.image_id, settings, seed)
    weights, _ = posed(VERTICALS[number], made.style, 192, 128, generator(seed, IMAGE_STREAM, number, index, i))
    mask = Image.fromarray((weights.sum(axis=-1).clip(0, 1) * 255).astype(np.uint8))
    small = np.asarray(mask.filter(ImageFilter.BoxBlur(3)).resize((32, 48)), dtype=np.float64).ravel()
    return np.asarray(small / np.linalg.norm(small))


def _same_style_first(vectors: np.ndarray, labels: np.ndarray) -> float:
    """R@1 by inner product, the query itself left out."""
    similarity = vectors @ vectors.T
    np.fill_diagonal(similarity, -np.inf)
    return float((labels[similarity.argmax(axis=1)] == labels).mean())


def test_silhouettes_tell_the_style_better_than_chance_and_verticals_apart() -> None:
    settings = Generated(products_per_vertical=10, verticals=8)
    rows = list(catalogue(settings, 0))
    vectors = np.stack([_silhouette(row, settings, 0) for row in rows])
    product = np.array([row.product_id for row in rows])
    vertical = np.array([row.vertical for row in rows])
    similarity = vectors @ vectors.T
    same, related = product[:, None] == product, vertical[:, None] == vertical
    other = ~np.eye(len(rows), dtype=bool)
    for name in dict.fromkeys(vertical.tolist()):
        of = vertical == name
        near = similarity[of][:, of][(same & other)[of][:, of]].mean()
        far = similarity[of][:, of][~same[of][:, of]].mean()
        assert near > far + 0.01, f"{name}: {near:.3f} against {far:.3f}"
    assert similarity[related & other].mean() > similarity[~related].mean() + 0.1
    assert _same_style_first(vectors, vertical) > 0.9


@pytest.mark.parametrize("vertical", [0, 5])
def test_a_colour_histogram_does_not_find_the_style(vertical: int) -> None:
    settings = Generated(products_per_vertical=30, verticals=8)
    rows = [row for row in catalogue(settings, 0) if row.vertical == VERTICALS[vertical].name]
    histograms = []
    for row in rows:
        bins = np.asarray(render(row, settings, 0)).reshape(-1, 3) // 32 @ np.array([64, 8, 1])
        counts = np.sqrt(np.bincount(bins, minlength=512).astype(np.float64))
        histograms.append(counts / np.linalg.norm(counts))
    found = _same_style_first(np.stack(histograms), np.array([row.product_id for row in rows]))
    assert found < 0.25, f"R@1 of colour histograms is {found:.3f}"
