"""Frozen batch norm inside the convolution before it: a pass over the activations less, forward and backward.

With its statistics fixed, batch norm is a factor s = weight / sqrt(var + eps) and a shift for each channel, and

    norm(conv(x; w)) = conv(x; s w) + bias - s mean.

The parameters stay those of the two layers, with their names and gradients; s w is made anew in every pass, which costs no more
than the weights have numbers. On a CPU only, where it was measured (`python -m jobs.benchmark train`).
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.fx
from timm.layers import BatchNormAct2d
from timm.layers.conv2d_same import Conv2dSame, conv2d_same
from torch import Tensor, nn

from fashion_dml.models.depthwise import DepthwiseConv

# What torch.fx raises where a trunk's path depends on values: in an if, in int() or range(), in len(). All other errors are real ones.
UNTRACEABLE = (torch.fx.proxy.TraceError, TypeError, RuntimeError)


def _applies(x: Tensor, norm: nn.BatchNorm2d) -> bool:
    return x.device.type == "cpu" and not norm.training


class _Folding(nn.Conv2d):
    """A convolution that also does what the norm after it does."""

    norm: nn.BatchNorm2d  # in __dict__: its parameters belong to the trunk, not to this layer too

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W] to [N, C', H', W']; normalised where `_applies`."""
        if not _applies(x, self.norm):
            return super().forward(x)
        norm = self.norm
        assert norm.running_mean is not None
        assert norm.running_var is not None
        scale = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
        shift = norm.bias - norm.running_mean * scale
        if self.bias is not None:
            shift = shift + self.bias * scale
        return self.convolve(x, self.weight * scale[:, None, None, None], shift)

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """The convolution with other parameters than its own."""
        return self._conv_forward(x, weight, bias)


class FoldingConv(_Folding):
    """nn.Conv2d that folds."""


class FoldingDepthwise(_Folding, DepthwiseConv):
    """DepthwiseConv that folds."""


class FoldingSame(_Folding, Conv2dSame):
    """TensorFlow's padding, as in the tf_ trunks of timm."""

    def convolve(self, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        """As _Folding."""
        found: Tensor = conv2d_same(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)  # type: ignore[arg-type]
        return found


class FoldedNorm(nn.BatchNorm2d):
    """A norm whose convolution has done its part."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W], unchanged where `_applies`."""
        return x if _applies(x, self) else super().forward(x)


class FoldedNormAct(BatchNormAct2d):
    """A norm with an activation; the activation is left."""

    def forward(self, x: Tensor) -> Tensor:
        """[N, C, H, W]."""
        if not _applies(x, self):
            return super().forward(x)
        found: Tensor = self.act(self.drop(x))
        return found


CONVS: dict[type, type] = {nn.Conv2d: FoldingConv, DepthwiseConv: FoldingDepthwise, Conv2dSame: FoldingSame}
NORMS: dict[type, type] = {nn.BatchNorm2d: FoldedNorm, BatchNormAct2d: FoldedNormAct}


def fold_norms(trunk: nn.Module) -> int:
    """Let convolutions do the work of the norms behind them, in place; how many do. Names and parameters stay.

    A pair is folded where the norm is all that reads the convolution's output and both are used once. A trunk that torch.fx
    can't follow is left as it is.
    """
    pairs = _pairs(trunk)
    for conv, norm in pairs:
        conv.__dict__["norm"] = norm
        conv.__class__, norm.__class__ = CONVS[type(conv)], NORMS[type(norm)]
    return len(pairs)


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return type(m) in CONVS or type(m) in NORMS or super().is_leaf_module(m, module_qualified_name)


def _pairs(trunk: nn.Module) -> list[tuple[nn.Conv2d, nn.BatchNorm2d]]:
    try:
        nodes = [n for n in _Tracer().trace(trunk).nodes if n.op == "call_module"]
    except UNTRACEABLE:
        return []
    modules, used = dict(trunk.named_modules()), Counter(str(n.target) for n in nodes)
    found = []
    for node in nodes:
        before = node.args[0] if node.args else None
        if not isinstance(before, torch.fx.Node) or before.op != "call_module" or len(before.users) != 1:
            continue
        conv, norm = modules[str(before.target)], modules[str(node.target)]
        once = used[str(before.target)] == used[str(node.target)] == 1
        if once and type(conv) in CONVS and type(norm) in NORMS and norm.affine and norm.track_running_stats:
            found.append((conv, norm))
    return found
