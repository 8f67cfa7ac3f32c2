"""A training step with our depthwise convolutions and folded norms over one with torch's layers, on one CPU core.

Rows `step_time_over_torch/HEIGHTxWIDTH`: forward and backward of EfficientNet-Lite0 with four frozen stages and a batch of 64, in
turns in one process, medians. Rows `depthwise_gradient_over_torch/CHANNELSxHEIGHTxWIDTH`: the gradient of the weights of its
5 x 5 convolutions alone. Empty where there is a GPU: nothing is changed there.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from fashion_dml.config import Model
from fashion_dml.models.depthwise import DepthwiseConv
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.folded import CONVS, NORMS, FoldingDepthwise
from jobs.benchmarks import Row

BATCH, TURNS = 64, 9
SIZES = ((96, 72), (128, 96), (160, 120))
MAPS = ((1152, 3, 3), (672, 6, 5), (480, 6, 5), (1152, 4, 3), (672, 8, 6))


def _as_torch(module: nn.Module) -> None:
    torchs = {ours: theirs for theirs, ours in (CONVS | NORMS).items()} | {FoldingDepthwise: nn.Conv2d}
    for part in module.modules():
        part.__class__ = torchs.get(type(part), type(part))


def _step(height: int, width: int, ours: bool) -> Callable[[], None]:
    torch.manual_seed(0)
    model = Embedder(Model(weights="none", frozen_stages=4), height, width).train().to(memory_format=torch.channels_last)
    if not ours:
        _as_torch(model)
    images = torch.rand(BATCH, 3, height, width).contiguous(memory_format=torch.channels_last)
    return lambda: model(images).sum().backward()


def _gradient(channels: int, height: int, width: int, ours: bool) -> Callable[[], Tensor]:
    kind: type[nn.Conv2d] = DepthwiseConv if ours else nn.Conv2d
    conv = kind(channels, channels, 5, padding=2, groups=channels, bias=False)
    x = torch.randn(BATCH, channels, height, width).contiguous(memory_format=torch.channels_last)
    y = conv(x)  # x asks for no gradient, so the backward pass is that of the weights
    return lambda: torch.autograd.grad(y, conv.weight, torch.ones_like(y), retain_graph=True)[0]


def in_turns(sides: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median seconds of each side."""
    found: dict[str, list[float]] = {side: [] for side in sides}
    for turn in range(TURNS + 1):
        for side, work in sides.items():
            began = time.perf_counter()
            work()
            if turn:
                found[side].append(time.perf_counter() - began)
    return {side: statistics.median(times) for side, times in found.items()}


def run(workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """All rows of `train`, and what they were computed from."""
    rows: list[Row] = []
    details: dict[str, Any] = {"batch": BATCH}
    if torch.cuda.is_available():
        return rows, details
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    cases: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
        f"step_time_over_torch/{h}x{w}": (_step, (h, w)) for h, w in SIZES
    }
    cases |= {f"depthwise_gradient_over_torch/{c}x{h}x{w}": (_gradient, (c, h, w)) for c, h, w in MAPS}
    try:
        for name, (make, arguments) in cases.items():
            times = in_turns({side: make(*arguments, side == "ours") for side in ("ours", "torch")})
            rows.append(Row(name, times["ours"] / times["torch"], "ratio", 1.0, "lower"))
            details[name] = times
    finally:
        torch.set_num_threads(threads)
    return rows, details
