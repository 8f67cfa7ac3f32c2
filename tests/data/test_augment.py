"""Augmentation: seeded by (seed, epoch, step, lane, row) alone, and each change does what its setting says."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from drawn import photo

from fashion_dml.config import Augment
from fashion_dml.data.augment import DRAWS, augment, draws

NOTHING = Augment(scale=(1, 1), aspect=0, shift=0, rotate=0, flip=0, light=0, colour=0, grey=0, invert=0, erase=0)
ALL = Augment()


def pictures(n: int, height: int = 48, width: int = 32) -> torch.Tensor:
    return torch.from_numpy(np.stack([np.asarray(photo(i, height, width)) for i in range(n)]))


def plain(images: torch.Tensor) -> torch.Tensor:
    return images.permute(0, 3, 1, 2).float() / 255


@dataclass(frozen=True)
class Rows:
    lane: torch.Tensor
    row: torch.Tensor

    def draws(self, seed: int = 3, epoch: int = 2, step: int = 7) -> np.ndarray:
        return draws(self.lane, self.row, seed=seed, epoch=epoch, step=step)


def rows(*lanes: int, each: int = 4) -> Rows:
    return Rows(torch.tensor(lanes).repeat_interleave(each), torch.arange(each).repeat(len(lanes)))


def some(n: int) -> np.ndarray:
    return rows(0, each=n).draws()


def changed(**settings: object) -> Augment:
    return NOTHING.model_copy(update=settings)


def test_the_same_place_in_training_is_changed_the_same_way() -> None:
    images = pictures(8)
    once, again = (augment(images, ALL, rows(0, 1).draws()) for _ in range(2))
    assert torch.equal(once, again)
    assert (once.shape, once.dtype) == ((8, 3, 48, 32), torch.float32)
    assert once.min() >= 0
    assert once.max() <= 1


@pytest.mark.parametrize("change", [{"seed": 4}, {"epoch": 3}, {"step": 8}])
def test_seed_epoch_and_step_change_every_draw(change: dict[str, int]) -> None:
    assert not np.isclose(rows(0, 1).draws(), rows(0, 1).draws(**change)).any()


def test_lane_and_row_change_every_draw() -> None:
    told = rows(0, 1).draws()
    assert told.shape == (8, DRAWS)
    assert len(np.unique(told)) == told.size
    assert told.min() >= 0
    assert told.max() < 1


def test_how_lanes_are_put_together_does_not_count() -> None:
    images = pictures(12)
    whole = augment(images, ALL, rows(0, 1, 2).draws())
    for lanes in ((0, 2), (1,), (2, 1, 0)):
        mine = torch.cat([torch.arange(4) + 4 * lane for lane in lanes])
        part = augment(images[mine], ALL, rows(*lanes).draws())
        assert torch.allclose(part, whole[mine], atol=1e-6)
    few = Rows(torch.tensor([1, 1]), torch.tensor([3, 1]))  # rows of a lane in another order, and not all
    assert np.array_equal(few.draws(), rows(0, 1, 2).draws()[[7, 5]])


def test_without_changes_the_image_comes_back() -> None:
    images = pictures(4)
    assert torch.allclose(augment(images, NOTHING, some(4)), plain(images), atol=1e-5)


def test_flip_mirrors() -> None:
    images = pictures(4)
    assert torch.allclose(augment(images, changed(flip=1), some(4)), plain(images).flip(-1), atol=1e-5)


def test_flip_happens_as_often_as_it_says() -> None:
    images = pictures(1).expand(400, -1, -1, -1)
    told = augment(images, changed(flip=0.25), some(400))
    mirrored = (told - plain(images).flip(-1)).abs().amax((1, 2, 3)) < 1e-4
    straight = (told - plain(images)).abs().amax((1, 2, 3)) < 1e-4
    assert (mirrored | straight).all()
    assert 60 < mirrored.sum() < 140


def test_greys_stay_grey_under_every_hue_and_saturation() -> None:
    level = torch.arange(0, 256, 4, dtype=torch.uint8).view(1, 8, 8, 1).expand(50, -1, -1, 3)
    assert torch.allclose(augment(level, changed(colour=1), some(50)), plain(level), atol=1e-5)


def test_colours_change_and_images_differ_from_each_other() -> None:
    red = torch.tensor([200, 40, 60], dtype=torch.uint8).expand(50, 8, 8, 3)
    told = augment(red, changed(colour=1), some(50))
    assert ((told - plain(red)).abs().amax((1, 2, 3)) > 0.02).float().mean() > 0.9
    assert len(torch.unique(told[:, :, 0, 0], dim=0)) == 50
    assert torch.allclose(told, told[:, :, :1, :1].expand_as(told), atol=1e-5)  # one map for all pixels of an image


def test_grey_gives_luma_and_invert_turns_lightness_round() -> None:
    images = pictures(4)
    luma = (plain(images) * torch.tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)).sum(1, keepdim=True)
    assert torch.allclose(augment(images, changed(grey=1), some(4)), luma.expand(-1, 3, -1, -1), atol=1e-5)
    assert torch.allclose(augment(images, changed(invert=1), some(4)), 1 - plain(images), atol=1e-5)


def test_light_stays_in_its_range() -> None:
    middle = torch.full((200, 4, 4, 3), 128, dtype=torch.uint8)
    told = augment(middle, changed(light=0.4), some(200))[:, 0, 0, 0] - 128 / 255
    assert told.abs().max() <= 0.2 + 1e-2
    assert told.min() < -0.1
    assert told.max() > 0.1


def test_a_shift_moves_by_at_most_its_share_of_the_side() -> None:
    images = torch.full((60, 40, 40, 3), 255, dtype=torch.uint8)
    images[:, 18:22, 18:22] = 0
    dark = 1 - augment(images, changed(shift=0.2), some(60))[:, 0]
    at = torch.arange(40) + 0.5
    mass = dark.sum((1, 2))
    moved = torch.stack([(dark.sum(2) * at).sum(1) / mass, (dark.sum(1) * at).sum(1) / mass]) - 20
    assert moved.abs().max() <= 8.05
    assert moved.abs().amax(1).min() > 4


def test_zoom_shows_more_above_one_and_less_below() -> None:
    images = torch.full((1, 40, 40, 3), 255, dtype=torch.uint8)
    images[:, 14:26, 14:26] = 0
    for zoom in (0.5, 2.0):
        dark = 1 - augment(images, changed(scale=(zoom, zoom)), some(1))[0, 0]
        assert dark.sum().item() == pytest.approx(144 / zoom**2, rel=0.02)


def test_rotation_keeps_shape_in_an_image_that_is_not_square() -> None:
    images = torch.full((30, 90, 60, 3), 255, dtype=torch.uint8)
    images[:, 30:60, 20:40] = 0
    dark = 1 - augment(images, changed(rotate=90), some(30))[:, 0]
    y, x = torch.meshgrid(torch.arange(90) + 0.5 - 45, torch.arange(60) + 0.5 - 30, indexing="ij")
    second = torch.stack([(dark * y * y).sum((1, 2)), (dark * x * x).sum((1, 2))]).sum(0) / dark.sum((1, 2))
    assert torch.allclose(second, torch.full((30,), (30**2 + 20**2) / 12), rtol=0.02)  # distances to the centre stay
    assert dark[:, 45, 17].max() > 0.9  # beyond the upright patch: some images were turned


def test_erased_rectangles_are_a_quarter_to_a_half_of_each_side() -> None:
    images = torch.zeros((50, 40, 80, 3), dtype=torch.uint8)
    grey = augment(images, changed(erase=1), some(50))[:, 0] == 0.5
    assert ((grey.any(2).sum(1) - 40 * 0.375).abs() <= 40 * 0.125 + 1).all()
    assert ((grey.any(1).sum(1) - 80 * 0.375).abs() <= 80 * 0.125 + 1).all()
    assert (grey.sum((1, 2)) == grey.any(2).sum(1) * grey.any(1).sum(1)).all()


def test_a_vertical_flip_turns_upside_down() -> None:
    images = pictures(4)
    told = augment(images, changed(flip_vertical=1), some(4))
    assert torch.allclose(told, plain(images).flip(-2), atol=1e-5)
    assert torch.allclose(augment(images, changed(flip_vertical=1, flip=1), some(4)), plain(images).flip(-1, -2), atol=1e-5)


def test_beyond_the_photo_comes_its_border_or_its_mirror_image() -> None:
    """Zoomed out to twice the side, the middle half is the photo; a fabric goes on as in a mirror."""
    stripes = (torch.arange(40) // 5 % 2 * 255).to(torch.uint8)[None, None, :, None].expand(1, 40, 40, 3).contiguous()
    border, reflect = (augment(stripes, changed(scale=(2, 2), padding=p), some(1))[0, 0, 20] for p in ("border", "reflect"))
    assert torch.allclose(border[10:30], reflect[10:30])
    assert border[:9].unique().numel() == 1
    assert torch.allclose(reflect[:10], reflect[10:20].flip(0), atol=1e-5)


def test_shade_is_a_slope_of_light() -> None:
    level = torch.full((60, 40, 40, 3), 100, dtype=torch.uint8)
    told = augment(level, changed(shade=0.5), some(60))[:, 0] / (100 / 255)
    assert torch.allclose(told.mean((1, 2)), torch.ones(60), atol=1e-4)
    assert told.max() <= 1.5 + 1e-4
    assert told.amax((1, 2)).max() > 1.3
    step = told[:, 1:] - told[:, :-1]
    assert torch.allclose(step, step[:, :1, :1].expand_as(step), atol=1e-4)


@pytest.mark.parametrize("scale", [(0.0, 1.0), (1.2, 0.8), (0.5, 9.0)])
def test_a_range_of_scale_that_does_not_rise_is_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match=r"scale is from .* to .*; it must rise within 0 to 4"):
        Augment(scale=scale)
