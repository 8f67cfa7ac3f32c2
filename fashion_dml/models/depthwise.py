"""Depthwise convolutions of 5 x 5 and more whose weights' gradient takes a fraction of the time on a CPU.

torch's takes a good part of a small trunk's backward pass on small photos (`python -m jobs.benchmark train`). With so few places
every place's product with every other, summed over the images, is one batched matrix product; each weight's gradient is the sum
of those whose places lie its distance apart. Forward pass and the input's gradient are torch's.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

SMALLEST_KERNEL = 5  # torch is fast below
MOST_PLACES = 64  # of an input; the products grow with their square


class DepthwiseConv(nn.Conv2d):
    """A depthwise convolution of stride 1 with the same parameters and values as torch's."""

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """[N, C, H, W] to the same shape; what nn.Conv2d.forward calls."""
        places = input.shape[2] * input.shape[3]
        wanted = input.device.type == "cpu" and weight.requires_grad and torch.is_grad_enabled()
        if not wanted or places > MOST_PLACES or torch.is_autocast_enabled("cpu"):
            return super()._conv_forward(input, weight, bias)
        found: Tensor = _Depthwise.apply(input, weight)
        return found if bias is None else found + bias.view(1, -1, 1, 1)


def use_fast_depthwise(module: nn.Module) -> None:
    """Turn the convolutions of a module that can be into DepthwiseConv, in place; parameters and their names stay."""
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d) and _fits(conv):
            conv.__class__ = DepthwiseConv


def _fits(conv: nn.Conv2d) -> bool:
    side = conv.kernel_size[0]
    return (
        type(conv) is nn.Conv2d
        and conv.groups == conv.in_channels == conv.out_channels
        and conv.kernel_size == (side, side)
        and side >= SMALLEST_KERNEL
        and side % 2 == 1
        and conv.stride == conv.dilation == (1, 1)
        and conv.padding == (side // 2, side // 2)
        and conv.padding_mode == "zeros"
    )


class _Depthwise(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return F.conv2d(x, weight, padding=weight.shape[-1] // 2, groups=len(weight))

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None]:
        x, weight = ctx.saved_tensors
        to_x = to_weight = None
        if ctx.needs_input_grad[0]:  # the convolution of the gradient with the kernel turned round
            to_x = F.conv2d(gradient, weight.flip(2, 3), padding=weight.shape[-1] // 2, groups=len(weight))
        if ctx.needs_input_grad[1]:
            n, channels, height, width = x.shape
            inputs, outputs = (_channels_first(t).view(channels, n, height * width) for t in (x, gradient))
            products = torch.bmm(inputs.transpose(1, 2), outputs).view(channels, -1)
            to_weight = (products @ _distances(height, width, weight.shape[-1]).to(x.dtype)).view_as(weight)
        return to_x, to_weight


def _channels_first(x: Tensor) -> Tensor:
    """[C, N * H * W], contiguous."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).t().contiguous()


@lru_cache(maxsize=64)
def _distances(height: int, width: int, side: int) -> Tensor:
    """0 or 1, float32 [places * places, side * side]: which weight joins an input place (slow) and an output place."""
    y, x = (t.flatten() for t in torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"))
    down, right = y[:, None] - y[None] + side // 2, x[:, None] - x[None] + side // 2
    weight = torch.where((down >= 0) & (down < side) & (right >= 0) & (right < side), down * side + right, side * side)
    return F.one_hot(weight.flatten(), side * side + 1)[:, :-1].float()
