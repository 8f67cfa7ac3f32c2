"""One process that turns images into embeddings: used by the service, by the embedding actors and by tests."""

from __future__ import annotations

import numpy as np
import torch

from fashion_dml.data.decode import decode
from fashion_dml.models.store import load_model
from fashion_dml.storage import Location


class Encoder:
    """A model ready for inference.

    Attributes: dim (D), height and width of the input in pixels, sha256 of the weights (the model's version).
    """

    def __init__(self, model: str | Location, *, device: str = "cpu", threads: int = 0) -> None:
        if threads:
            torch.set_num_threads(threads)
        self.device = torch.device(device)
        loaded = load_model(model)
        self.sha256, self.dim, self.height, self.width = loaded.sha256, loaded.dim, loaded.height, loaded.width
        self._module = loaded.module.to(self.device, memory_format=torch.channels_last).eval()

    def pixels(self, data: bytes) -> np.ndarray:
        """Encoded image bytes to this model's input, uint8 [H, W, 3]. Raises UnreadableImage."""
        return decode(data, self.height, self.width)

    @torch.inference_mode()
    def embed(self, pixels: np.ndarray) -> np.ndarray:
        """uint8 [B, H, W, 3] to unit embeddings, float32 [B, D]."""
        images = torch.from_numpy(pixels).to(self.device).permute(0, 3, 1, 2)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            found = self._module(images)
        return np.ascontiguousarray(found.float().cpu().numpy())

    def encode(self, images: list[bytes]) -> np.ndarray:
        """Encoded images to unit embeddings, float32 [B, D]. Raises UnreadableImage."""
        return self.embed(np.stack([self.pixels(data) for data in images]))
