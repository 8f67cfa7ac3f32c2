"""Pairs, proxies and the proxies' own distances in one objective."""

from __future__ import annotations

import torch
from torch import Tensor

from fashion_dml.config import MultiObjective
from fashion_dml.losses.base import MetricLoss
from fashion_dml.losses.memory import MemoryBank
from fashion_dml.losses.pairs import Pairs, find_pairs
from fashion_dml.losses.proxies import Proxies, proxy_anchor, proxy_proxy
from fashion_dml.losses.rows import over_rows
from fashion_dml.losses.soft import log1p_sum_exp

NEVER = 4.0  # beyond any cosine and epsilon


class MultiObjectiveLoss(MetricLoss):
    """l1 L_pair + l2 L_proxy + l3 L_pp.

    After the idea of Lee & Roh (CVPR-W CVFAD 2020); this form is ours. L_pair is Multi-Similarity with its mining
    (Wang 2019, arXiv 1904.06627), L_proxy is Proxy-Anchor, L_pp keeps proxies of near classes apart (losses/proxies.py).
    A term whose weight is 0 is not computed; proxies exist only where a term uses them.

    A batch without positives or without negatives makes the pair term 0. The proxy terms still teach: a product's proxy
    is a positive of each of its images, and all other proxies are negatives.
    """

    def __init__(self, settings: MultiObjective, classes: Tensor, dim: int, memory: MemoryBank | None = None) -> None:
        """classes: int64 [C], sorted labels of the training products; dim: D."""
        super().__init__(memory)
        self.settings = settings
        self.products = Proxies(classes, dim) if settings.proxy_weight or settings.proxy_proxy_weight else None

    @property
    def wants_centres(self) -> bool:  # type: ignore[override]
        return self.products is not None and self.settings.proxy_start == "photos"

    def start(self, centres: Tensor) -> None:
        """Proxies begin at their products' photos."""
        assert self.products is not None
        self.products.start(centres)

    def rate_multipliers(self) -> dict[str, float]:
        """The proxies' own learning rate."""
        return {} if self.products is None else {"products.proxies": self.settings.proxy_rate}

    def class_vectors(self) -> tuple[Tensor, Tensor] | None:
        """The proxies."""
        return None if self.products is None else (self.products.classes, self.products(self.products.proxies))

    def compute(self, x: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None) -> dict[str, Tensor]:
        """{"loss", "pair", "proxy", "proxy_proxy"}, the parts before their weights, those of weight 0 left out."""
        o = self.settings
        loss, parts = x.new_zeros(()), {}
        if o.pair_weight:
            reference, all_labels = self.recall(x, labels)
            pairs = find_pairs(labels, all_labels)
            (pair,) = over_rows(lambda s, rows: self._multi_similarity(s, rows, pairs), x, reference)
            parts["pair"], loss = pair.detach(), loss + o.pair_weight * pair
        if self.products is not None:
            proxies, index = self.products(x), self.products.find(labels)
            if o.proxy_weight:
                proxy = proxy_anchor(x, proxies, index, o.proxy_margin, o.proxy_alpha)
                parts["proxy"], loss = proxy.detach(), loss + o.proxy_weight * proxy
            if o.proxy_proxy_weight:
                apart = proxy_proxy(proxies, index, o.near_classes, o.proxy_proxy_centre, o.proxy_proxy_beta)
                parts["proxy_proxy"], loss = apart.detach(), loss + o.proxy_proxy_weight * apart
        return {"loss": loss, **parts}

    def _multi_similarity(self, s: Tensor, rows: slice, pairs: Pairs) -> tuple[tuple[Tensor, ...], Tensor]:
        """(1/B) sum_i (1/a) log[1 + sum_P e^(-a (S - lam))] + (1/b) log[1 + sum_N e^(b (S - lam))] over the mined pairs."""
        o, batch = self.settings, len(pairs.valid)
        positive = pairs.of(s, rows, NEVER)
        s.scatter_(1, pairs.group[rows], -torch.inf)
        hardest_negative = s.amax(1, keepdim=True)
        # So written, a NaN is kept, and shows in the loss.
        easy = positive >= hardest_negative + o.pair_epsilon
        z = positive.sub(o.pair_centre).mul_(-o.pair_alpha).masked_fill_(easy | ~pairs.valid[rows], -torch.inf)
        pull, back = log1p_sum_exp(z)
        hardest_positive = positive.amin(1, keepdim=True) if pairs.width else torch.full_like(hardest_negative, NEVER)
        least = (hardest_positive - o.pair_epsilon).clamp_(-NEVER, NEVER)
        s = torch.threshold_(s.sub_(least), 0, -torch.inf)  # negatives above `least`: one pass, where a mask takes four
        push, gradient = log1p_sum_exp(s.add_(least - o.pair_centre).mul_(o.pair_beta))
        gradient.scatter_add_(1, pairs.positive[rows], -back)
        return ((pull.sum() / o.pair_alpha + push.sum() / o.pair_beta) / batch,), gradient.div_(batch)
