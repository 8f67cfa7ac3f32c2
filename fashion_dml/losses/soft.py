"""Logarithms of one plus exponentials, with their slopes, in place and without overflow."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def softplus(z: Tensor, smallest: float, largest: float, scratch: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(log(1 + e^z), its slope 1 / (1 + e^-z)) of smallest <= z <= largest; overwrites z, and `scratch` of its shape.

    torch's softplus takes eight times as long where z is below -20, as that of most negative pairs is. With u = 1 + e^z
    rounded, log u + (e^z - (u - 1)) / u is exact also where u is 1. Below -80 z counts as -80, or numbers turn denormal.
    """
    if largest > 80:  # e^z could overflow
        return F.softplus(z, threshold=40), z.sigmoid_()
    e = (z.clamp_min_(-80) if smallest < -80 else z).exp_()
    u = torch.add(e, 1, out=scratch)
    rest = torch.rsub(u, 1).add_(e).div_(u)
    slope = e.div_(u)
    return rest.add_(u.log_()), slope


def log1p_sum_exp(z: Tensor) -> tuple[Tensor, Tensor]:
    """(log(1 + sum_j exp z_ij) [b], its gradient [b, R]) of z [b, R], which is overwritten; -inf takes no part."""
    if z.shape[1] == 0:
        return z.new_zeros(len(z)), z
    top = z.amax(1, keepdim=True).clamp_min_(0)  # 0: the 1 in the sum
    total = z.sub_(top).exp_().sum(1, keepdim=True)
    value = top.squeeze(1) + torch.log1p(total + torch.expm1(-top)).squeeze(1)
    return value, z.div_(total + torch.exp(-top))
