"""Means of weights: a moving average over a training, steadier than its last step, and the mean of several models."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from fashion_dml.models.embedder import Embedder


class Average:
    """The average of an embedder's weights over its training, as a model of its own (`embedder`, in eval mode).

    Of each step's weights w it keeps a <- d a + (1 - d) w, where d is `decay`, and less in the first steps,
    (1 + t) / (10 + t), so that the start is soon forgotten. Counts of batches and the like are copied.
    """

    def __init__(self, embedder: Embedder, decay: float, state: dict[str, Tensor] | None = None) -> None:
        """state: what an interrupted training had, from `state_dict` of `embedder`."""
        self.decay = decay
        self.embedder = copy.deepcopy(embedder).eval().requires_grad_(False)
        if state is not None:
            self.embedder.load_state_dict(state)

    @torch.no_grad()
    def update(self, embedder: Embedder, step: int) -> None:
        """Take in the weights after `step` steps (1, 2, ...)."""
        kept = min(self.decay, (1 + step) / (10 + step))
        current = embedder.state_dict()
        for name, mine in self.embedder.state_dict().items():
            if mine.is_floating_point():
                mine.lerp_(current[name], 1 - kept)
            else:
                mine.copy_(current[name])


@torch.no_grad()
def mean_of(first: Embedder, *others: Embedder) -> Embedder:
    """`first`, in place, with the mean of all their weights; counts stay its own.

    For models of which one was trained from the other, or that were trained from one start: between those, weights are often better
    than at the ends (Wortsman 2022, Model soups, arXiv 2203.05482; half of the way as in WiSE-FT, arXiv 2109.01903).
    """
    theirs = [other.state_dict() for other in others]
    for name, mine in first.state_dict().items():
        if mine.is_floating_point():
            for state in theirs:
                mine.add_(state[name])
            mine.div_(1 + len(theirs))
    return first
