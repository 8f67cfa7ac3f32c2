"""Cross-batch memory: embeddings of past batches as further positives and negatives."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from fashion_dml.config import Memory


class MemoryBank(nn.Module):
    """The last `size` embeddings and their labels, first in, first out (Wang 2020, arXiv 1912.06798).

    A loss compares the anchors of the batch with the batch AND the bank: pairs within the batch have their gradient in
    both rows, pairs with the bank in the anchor only, for the bank is constant. The batch enters the bank after it was
    compared, so an image never meets itself of the same step; it meets its older self if the bank outlasts an epoch,
    so choose `size` below the number of training images. (The authors add a loss of the bank to that of the batch;
    one loss over both is ours.)

    Bank and counters are buffers: checkpointed, and the same on every worker, since each stores the gathered batch.
    In evaluation mode the bank is neither used nor filled.
    """

    embeddings: Tensor
    labels: Tensor
    seen: Tensor
    steps: Tensor

    def __init__(self, settings: Memory, dim: int) -> None:
        super().__init__()
        self.start = settings.start
        self.register_buffer("embeddings", torch.zeros(settings.size, dim))
        self.register_buffer("labels", torch.zeros(settings.size, dtype=torch.int64))
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))  # rows ever stored
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    def recall(self, x: Tensor, labels: Tensor) -> tuple[Tensor | None, Tensor]:
        """Batch [B, D], then the bank [M, D], as one reference [B + M, D] with labels; stores the batch.

        Returns (None, labels), for the batch alone, while the bank is empty, young or not in training.
        """
        if not self.training:
            return None, labels
        filled = min(int(self.seen), len(self.labels))
        reference, all_labels = None, labels
        if filled and int(self.steps) >= self.start:
            reference = torch.cat([x, self.embeddings[:filled].to(x)])
            all_labels = torch.cat([labels, self.labels[:filled]])
        self.store(x, labels)
        return reference, all_labels

    @torch.no_grad()
    def store(self, x: Tensor, labels: Tensor) -> None:
        """Put [B, D] over the oldest rows; of a batch larger than the bank, its last rows."""
        size = len(self.labels)
        kept = min(len(labels), size)
        first = self.seen + len(labels) - kept
        slots = (first + torch.arange(kept, device=labels.device)) % size
        self.embeddings[slots] = x[len(x) - kept :].detach().to(self.embeddings)
        self.labels[slots] = labels[len(labels) - kept :]
        self.seen += len(labels)
        self.steps += 1
