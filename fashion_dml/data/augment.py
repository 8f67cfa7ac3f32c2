"""Random changes of training images, on the device: one affine map for geometry, one for colour, one grid_sample.

The colour map matters here: images of one product are its colour variants, so hue, saturation and lightness must not
count. All numbers are drawn from (seed, epoch, step, lane), so they don't depend on how lanes are spread over workers.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_dml.config import Augment

AUGMENT = 4  # stream of random numbers, beside those of the plan
DRAWS = 20
LUMA = (0.299, 0.587, 0.114)
PADDING = {"border": "border", "reflect": "reflection"}


def draws(lane: Tensor, row: Tensor, *, seed: int, epoch: int, step: int) -> np.ndarray:
    """Uniform numbers in [0, 1), float64 [n, DRAWS], for rows given by int64 [n] lane and row."""
    out = np.empty((len(lane), DRAWS))
    lanes, rows = lane.numpy(), row.numpy()
    for one in np.unique(lanes):
        mine = lanes == one
        table = np.random.default_rng([seed, AUGMENT, epoch, step, int(one)]).random((int(rows[mine].max()) + 1, DRAWS))
        out[mine] = table[rows[mine]]
    return out


def augment(images: Tensor, settings: Augment, uniform: np.ndarray) -> Tensor:
    """uint8 [n, H, W, 3] and draws [n, DRAWS] to float32 [n, 3, H, W] in [0, 1], on the images' device."""
    u = torch.from_numpy(uniform).to(images.device, torch.float32)
    pixels = images.permute(0, 3, 1, 2).float() / 255
    pixels = _move(pixels, settings, u)
    pixels = _colour(pixels, settings, u)
    pixels = _shade(pixels, settings, u)
    return _erase(pixels, settings, u)


def _signed(u: Tensor, most: float) -> Tensor:
    return (2 * u - 1) * most


def _move(pixels: Tensor, s: Augment, u: Tensor) -> Tensor:
    """Zoom, aspect, shift, rotation and flips as one sampling grid."""
    n, _, height, width = pixels.shape
    zoom = s.scale[0] + (s.scale[1] - s.scale[0]) * u[:, 0]
    aspect = torch.exp(_signed(u[:, 1], math.log1p(s.aspect)))
    angle = _signed(u[:, 2], math.radians(s.rotate))
    mirror = torch.where(u[:, 3] < s.flip, -1.0, 1.0)
    upside = torch.where(u[:, 17] < s.flip_vertical, -1.0, 1.0)
    sx, sy = zoom * aspect, zoom / aspect  # in output coordinates: above 1 shows more than the image
    cos, sin, ratio = torch.cos(angle), torch.sin(angle), height / width
    theta = torch.zeros(n, 2, 3, device=pixels.device)
    theta[:, 0, 0], theta[:, 0, 1], theta[:, 0, 2] = mirror * sx * cos, -sy * sin * ratio, _signed(u[:, 4], 2 * s.shift)
    theta[:, 1, 0], theta[:, 1, 1], theta[:, 1, 2] = mirror * sx * sin / ratio, sy * cos, _signed(u[:, 5], 2 * s.shift)
    theta[:, 1, :2] *= upside[:, None]
    grid = F.affine_grid(theta, [n, 3, height, width], align_corners=False)
    return F.grid_sample(pixels, grid, mode="bilinear", padding_mode=PADDING[s.padding], align_corners=False)


def _colour(pixels: Tensor, s: Augment, u: Tensor) -> Tensor:
    """Hue rotation, saturation, greyscale, inversion, contrast and brightness as one affine map of RGB per image."""
    n = len(pixels)
    device = pixels.device
    luma = torch.tensor(LUMA, device=device)
    grey = torch.ones(3, 1, device=device) * luma
    eye = torch.eye(3, device=device)
    # Rotation of RGB about the grey axis (Rodrigues): hue changes, greys stay.
    turn = 2 * math.pi * u[:, 6]
    k = torch.tensor([[0.0, -1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 1.0, 0.0]], device=device) / math.sqrt(3)
    hue = eye + torch.sin(turn).view(n, 1, 1) * k + (1 - torch.cos(turn)).view(n, 1, 1) * (k @ k)
    saturation = (0.2 + 1.4 * u[:, 7]).view(n, 1, 1)
    recoloured = (grey + saturation * (eye - grey)) @ hue
    matrix = torch.where((u[:, 8] < s.colour).view(n, 1, 1), recoloured, eye.expand(n, 3, 3))
    matrix = torch.where((u[:, 9] < s.grey).view(n, 1, 1), grey.expand(n, 3, 3), matrix)
    contrast = 1 + _signed(u[:, 10], s.light)
    invert = torch.where(u[:, 11] < s.invert, -1.0, 1.0)
    matrix = matrix * (contrast * invert).view(n, 1, 1)
    offset = 0.5 * (1 - contrast * invert) + _signed(u[:, 12], s.light / 2)
    moved = torch.einsum("nij,njhw->nihw", matrix, pixels) + offset.view(n, 1, 1, 1)
    return moved.clamp_(0, 1)


def _shade(pixels: Tensor, s: Augment, u: Tensor) -> Tensor:
    """Light from one side: brightness changes linearly across the image, in a random direction."""
    if not s.shade:
        return pixels
    height, width = pixels.shape[2:]
    angle = 2 * math.pi * u[:, 18]
    y = torch.linspace(-1, 1, height, device=pixels.device)[None, :, None] * torch.sin(angle)[:, None, None]
    x = torch.linspace(-1, 1, width, device=pixels.device)[None, None, :] * torch.cos(angle)[:, None, None]
    slope = (s.shade * u[:, 19])[:, None, None] * (x + y) / math.sqrt(2)
    return (pixels * (1 + slope)[:, None]).clamp_(0, 1)


def _erase(pixels: Tensor, s: Augment, u: Tensor) -> Tensor:
    """A grey rectangle of a quarter to a half of each side, somewhere."""
    n, _, height, width = pixels.shape
    side = 0.25 + 0.25 * u[:, 13]
    y = torch.arange(height, device=pixels.device) / height
    x = torch.arange(width, device=pixels.device) / width
    top, left = (1 - side) * u[:, 14], (1 - side) * u[:, 15]
    rows = (y >= top[:, None]) & (y < (top + side)[:, None])
    columns = (x >= left[:, None]) & (x < (left + side)[:, None])
    chosen = u[:, 16] < s.erase
    mask = rows[:, None, :, None] & columns[:, None, None, :] & chosen.view(n, 1, 1, 1)
    return torch.where(mask, 0.5, pixels)
