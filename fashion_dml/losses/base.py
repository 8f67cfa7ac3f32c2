"""What every loss of metric learning has in common."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fashion_dml.losses.memory import MemoryBank


def promote(x: Tensor) -> Tensor:
    """Float32, or float64 where it comes so (tests compare in it)."""
    return x if x.dtype == torch.float64 else x.float()


class MetricLoss(nn.Module):
    """Base of the losses: embeddings and labels of the whole batch to a dict with "loss" and detached named parts.

    Under several workers each of them calls it with the same rows in the same order (training/gather.py), so whatever a
    loss draws or remembers must follow from its inputs and its buffers alone.
    """

    needs_attributes = False
    needs_features = False
    wants_centres = False  # whether `start` is to be called

    def __init__(self, memory: MemoryBank | None = None) -> None:
        super().__init__()
        self.memory = memory

    def forward(
        self, embeddings: Tensor, labels: Tensor, attributes: Tensor | None = None, extra: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Unit embeddings [B, D] and labels int64 [B] to {"loss", named parts}, float32, also under autocast.

        attributes: int8 [B, A], 1 has it, -1 has it not, 0 unknown; asked for by `needs_attributes`.
        extra: what `local` returned, gathered over the workers, [B, ...].
        A batch without positives or without negatives gives loss 0 with gradient 0; NaN gives NaN.
        """
        with torch.autocast(embeddings.device.type, enabled=False):
            return self.compute(promote(embeddings), labels, attributes, extra)

    def compute(self, x: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None) -> dict[str, Tensor]:
        """`forward`, for a subclass to fill in: x is float32 (or float64) and autocast is off."""
        raise TypeError(f"{type(self).__name__} has no compute")

    def local(self, features: Tensor) -> Tensor | None:
        """What a worker computes from its own images' pooled features [n, F] before gathering; None: nothing."""
        return None

    def rate_multipliers(self) -> dict[str, float]:
        """Learning rate over the trunk's, by parameter name; names not in it get the optimiser's head_multiplier."""
        return {}

    def class_vectors(self) -> tuple[Tensor, Tensor] | None:
        """(labels int64 [C], sorted; unit vectors [C, D]): where the classes are, if the loss knows; batches may ask for it."""
        return None

    def start(self, centres: Tensor) -> None:
        """Told before the first step where the classes are: mean embeddings [C, D] under the initial model; 0: unknown."""

    def recall(self, x: Tensor, labels: Tensor) -> tuple[Tensor | None, Tensor]:
        """(reference [R, D] or None where it is the batch itself, its labels [R]); stores the batch for later ones."""
        return (None, labels) if self.memory is None else self.memory.recall(x, labels)
