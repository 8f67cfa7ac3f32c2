"""More weight to verticals where the student is behind its teacher, as seen on validation products."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


def numbered(classes: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Sorted labels int64 [C] of all verticals, and the number int64 [C] of each one's vertical; of two verticals, the first.

    classes: vertical -> labels int64 of its products.
    """
    place: dict[int, int] = {}
    for number, labels in enumerate(classes.values()):
        for label in labels.tolist():
            place.setdefault(label, number)
    known = sorted(place)
    return torch.tensor(known, dtype=torch.int64), torch.tensor([place[label] for label in known], dtype=torch.int64)


class LagWeights(nn.Module):
    """A weight for every image by its vertical: 1 + strength x max(0, teacher's R@1 - student's R@1). This form is ours.

    All are 1 before the first validation, and those of verticals that can't be validated stay 1.
    """

    weight: Tensor
    labels: Tensor
    vertical: Tensor

    def __init__(self, classes: Mapping[str, Tensor], teacher: Mapping[str, float], strength: float) -> None:
        """classes: vertical -> labels int64 [C] of its products (one of two verticals counts for the first of them);
        teacher: vertical -> its R@1 on validation products."""
        super().__init__()
        self.names, self.teacher, self.strength = list(classes), dict(teacher), strength
        known, vertical = numbered(classes)
        self.register_buffer("labels", known, persistent=False)
        self.register_buffer("vertical", vertical, persistent=False)
        self.register_buffer("weight", torch.ones(len(self.names)))

    def forward(self, labels: Tensor) -> Tensor:
        """Weights float32 [B] of images by their labels int64 [B]."""
        return self.weight[self.vertical[torch.searchsorted(self.labels, labels)]]

    def update(self, student: Mapping[str, float]) -> None:
        """Take the student's R@1 of each vertical."""
        for number, name in enumerate(self.names):
            if name in student and name in self.teacher:
                self.weight[number] = 1 + self.strength * max(0.0, self.teacher[name] - student[name])
