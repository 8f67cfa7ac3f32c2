"""One learned unit vector a product, and the losses on them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fashion_dml.losses.rows import over_rows
from fashion_dml.losses.soft import log1p_sum_exp


class Proxies(nn.Module):
    """Proxies [C, D] of the training products with these labels, normalised where they are used."""

    classes: Tensor

    def __init__(self, classes: Tensor, dim: int) -> None:
        """classes: int64 [C], sorted and unique. Raises ValueError otherwise."""
        super().__init__()
        if len(classes) < 2 or bool((classes[1:] <= classes[:-1]).any()):
            raise ValueError("proxies need at least two classes, sorted and unique")
        self.register_buffer("classes", classes.clone())
        self.proxies = nn.Parameter(F.normalize(torch.randn(len(classes), dim), dim=1))

    @torch.no_grad()
    def start(self, centres: Tensor) -> None:
        """Put the proxies at centres [C, D], but for those that are 0."""
        known = centres.norm(dim=1) > 0
        self.proxies[known] = F.normalize(centres[known], dim=1).to(self.proxies)

    def _load_from_state_dict(self, state_dict: dict[str, Any], prefix: str, *rest: Any) -> None:
        stored = state_dict.get(prefix + "classes")
        if stored is not None and not torch.equal(stored.to(self.classes.device), self.classes):
            rest[-1].append(
                f"{len(stored)} proxies were stored for other products than the {len(self.classes)} trained on now."
            )
            return
        super()._load_from_state_dict(state_dict, prefix, *rest)

    def forward(self, x: Tensor) -> Tensor:
        """Unit proxies [C, D] in the dtype of x."""
        return F.normalize(self.proxies.to(x.dtype), dim=1)

    def find(self, labels: Tensor) -> Tensor:
        """Indices int64 of labels into the proxies; raises ValueError for a label that has none."""
        index = torch.searchsorted(self.classes, labels).clamp_(max=len(self.classes) - 1)
        if bool((wrong := self.classes[index] != labels).any()):
            raise ValueError(
                f"label {int(labels[wrong][0])} has no proxy; there are {len(self.classes)}, of the training products"
            )
        return index


def proxy_anchor(x: Tensor, proxies: Tensor, index: Tensor, margin: float, alpha: float) -> Tensor:
    """Proxy-Anchor (Kim 2020, arXiv 2003.13911, equation 4) of unit x [B, D], unit proxies [C, D] and index int64 [B].

    The mean over the batch's classes of log(1 + sum over their images of exp(-alpha (S - margin))), plus the mean over
    all C proxies of log(1 + sum over the other images of exp(alpha (S + margin))).
    """
    present = torch.zeros(len(proxies), dtype=torch.bool, device=x.device)
    present[index] = True
    classes = present.sum().to(x.dtype)
    images = torch.arange(len(x), device=x.device)

    def term(s: Tensor, rows: slice) -> tuple[tuple[Tensor, ...], Tensor]:
        here = images[(index >= rows.start) & (index < rows.stop)]
        at = index[here] - rows.start, here
        own = s[at]
        s[at] = -torch.inf
        push, gradient = log1p_sum_exp(s.add_(margin).mul_(alpha))
        gradient.mul_(alpha / len(proxies))
        held, place = torch.unique(at[0], return_inverse=True)
        alone = own.new_full((len(held), len(here)), -torch.inf)
        mine = place, torch.arange(len(here), device=x.device)
        alone[mine] = -alpha * (own - margin)
        pull, back = log1p_sum_exp(alone)
        gradient[at] = back[mine] * (-alpha / classes)
        return (pull.sum() / classes + push.sum() / len(proxies),), gradient

    (loss,) = over_rows(term, proxies, x)
    return loss


def proxy_proxy(proxies: Tensor, index: Tensor, near: int, centre: float, beta: float) -> Tensor:
    """How near the batch's classes' proxies are to other proxies; ours.

    For each class c of the batch (1 / b') log(1 + sum over its `near` nearest other classes of exp(b' (cos - lam'))),
    mean over these classes. proxies: unit [C, D] of all classes; index: int64 [B], classes of the batch.
    """
    chosen = torch.unique(index)

    def term(s: Tensor, rows: slice) -> tuple[tuple[Tensor, ...], Tensor]:
        itself = chosen[rows, None]
        s.scatter_(1, itself, -torch.inf)
        nearest = s.topk(min(near, len(proxies) - 1), 1)
        value, gradient = log1p_sum_exp((nearest.values - centre) * beta)
        scale = 1 / len(chosen)
        return (value.sum() * (scale / beta),), torch.zeros_like(s).scatter_(1, nearest.indices, gradient.mul_(scale))

    (loss,) = over_rows(term, proxies[chosen], proxies)
    return loss
