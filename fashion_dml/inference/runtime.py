"""What runs a model's forward pass: torch, or on a CPU ONNX Runtime, which takes a third of the time (docs/serve-speed.md).

All who embed go through here (service, embedding actors, evaluation), so photos and queries meet the same arithmetic.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from importlib.util import find_spec
from typing import Literal

import numpy as np
import torch

from fashion_dml.models.embedder import Embedder
from fashion_dml.models.export import serving_graph
from fashion_dml.storage import UserError

logger = logging.getLogger(__name__)

Runtime = Literal["auto", "torch", "onnx"]
Forward = Callable[[np.ndarray], np.ndarray]
"""uint8 [B, H, W, 3] to float32 [B, D]."""

AGREE = 1e-5  # largest difference of a number of an embedding between torch and ONNX Runtime
PACKAGES = ("onnx", "onnxruntime")


def forward_of(module: Embedder, device: torch.device, runtime: Runtime = "auto", threads: int = 0) -> Forward:
    """The forward pass of a module in eval mode, on `device`; threads of ONNX Runtime, 0: as many as torch's.

    auto: ONNX Runtime on a CPU where it is installed and agrees with torch to 1e-5 on a trial, else torch.
    Raises UserError for `onnx` where that can't be.
    """
    plain = _by_torch(module.to(device).to(memory_format=torch.channels_last), device)
    if runtime == "torch" or (runtime == "auto" and device.type != "cpu"):
        return plain
    try:
        fast = _by_onnx(module, device, threads)
        _check(fast, plain, module)
    except UserError as error:
        if runtime == "onnx":
            raise
        logger.warning("Embedding with torch: %s", error)
        return plain
    return fast


def _by_torch(module: Embedder, device: torch.device) -> Forward:
    @torch.inference_mode()
    def forward(pixels: np.ndarray) -> np.ndarray:
        images = torch.from_numpy(pixels).to(device).permute(0, 3, 1, 2)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            found = module(images).float()
        return np.asarray(found.cpu().numpy())

    return forward


def _by_onnx(module: Embedder, device: torch.device, threads: int) -> Forward:
    """Raises UserError where the packages are missing, the device is no CPU or the graph can't be made."""
    if device.type != "cpu":
        raise UserError(f"ONNX Runtime is for CPUs here, and the device is {device}; use torch.")
    if missing := [name for name in PACKAGES if find_spec(name) is None]:
        raise UserError(
            f"the package {missing[0]} isn't installed: pip install 'fashion-dml[cpu]' makes it about three times as fast."
        )
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or torch.get_num_threads()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # idle threads would take the others' cores
    options.log_severity_level = 3
    graph = serving_graph(module)
    try:
        session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own classes derive from Exception alone
        raise UserError(f"ONNX Runtime can't run this model ({type(error).__name__}).") from error

    def forward(pixels: np.ndarray) -> np.ndarray:
        return np.asarray(session.run(None, {"images": pixels})[0])

    return forward


def _check(fast: Forward, plain: Forward, module: Embedder) -> None:
    """Raises UserError unless both say the same of a few images, of another number than the graph was made with."""
    images = np.random.default_rng(0).integers(0, 256, (3, module.height, module.width, 3), dtype=np.uint8)
    images[0] = 255  # as the ground of product photos
    try:
        differ = float(np.abs(fast(images) - plain(images)).max())
    except Exception as error:  # ONNX Runtime's classes derive from Exception alone
        raise UserError(f"ONNX Runtime failed on this model ({type(error).__name__}).") from error
    if not differ <= AGREE:
        raise UserError(f"ONNX Runtime's embeddings of this model differ from torch's by {differ:.1e}, more than {AGREE:g}.")
