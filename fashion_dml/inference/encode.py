"""One process that turns images into embeddings: used by the service, by the embedding actors and by tests."""

from __future__ import annotations

import numpy as np
import torch

from fashion_dml.data.decode import decode
from fashion_dml.evaluation.color_histogram import color_histogram
from fashion_dml.inference.runtime import Runtime, forward_of
from fashion_dml.inference.version import HISTOGRAM, model_version
from fashion_dml.models.store import load_model
from fashion_dml.storage import Location


class Encoder:
    """A model ready for inference: a model directory, `timm:NAME` (pooled ImageNet features) or `color-histogram`.

    `height` and `width` are for models that bring no input size of their own; `runtime` runs the forward pass.
    Attributes: dim (D), height and width of the input in pixels, sha256 (the model's version).
    """

    def __init__(
        self, model: str | Location, *, device: str = "cpu", threads: int = 0, height: int = 128, width: int = 96,
        runtime: Runtime = "auto",
    ) -> None:  # fmt: skip
        if threads:
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        if model == HISTOGRAM:
            self._module = None
            self.sha256, self.height, self.width = model_version(model, height, width), height, width
            self.dim = color_histogram(np.zeros((1, 1, 1, 3), np.uint8)).shape[1]
            return
        loaded = load_model(model, height=height, width=width)
        self.sha256, self.dim, self.height, self.width = loaded.sha256, loaded.dim, loaded.height, loaded.width
        self._module = loaded.module.eval()
        self._forward = forward_of(self._module, self.device, runtime, threads)

    def size(self) -> tuple[int, int]:
        """(parameters, bytes of weights and buffers)."""
        if self._module is None:
            return 0, 0
        tensors = [*self._module.parameters(), *self._module.buffers()]
        return sum(p.numel() for p in self._module.parameters()), sum(t.numel() * t.element_size() for t in tensors)

    def pixels(self, data: bytes) -> np.ndarray:
        """Encoded image bytes to this model's input, uint8 [H, W, 3]. Raises UnreadableImage."""
        return decode(data, self.height, self.width)

    def embed(self, pixels: np.ndarray, *, mirror: bool = False) -> np.ndarray:
        """uint8 [B, H, W, 3] to unit embeddings, float32 [B, D]; mirror: the mean of each image's and its mirror image's."""
        if self._module is None:
            return color_histogram(pixels)  # the same of a mirror image
        found = self._forward(pixels)
        if mirror:
            found = found + self._forward(np.ascontiguousarray(pixels[:, :, ::-1]))
        return np.ascontiguousarray(found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12), np.float32)

    def encode(self, images: list[bytes], *, mirror: bool = False) -> np.ndarray:
        """Encoded images to unit embeddings as `embed`, float32 [B, D]. Raises UnreadableImage."""
        return self.embed(np.stack([self.pixels(data) for data in images]), mirror=mirror)
