"""Binomial deviance whose pairs are weighed by how alike their attributes are."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_dml.config import Granularity
from fashion_dml.losses.attributes import AttributeHead, Likeness, likeness
from fashion_dml.losses.base import MetricLoss
from fashion_dml.losses.memory import MemoryBank
from fashion_dml.losses.pairs import Pairs, find_pairs
from fashion_dml.losses.rows import over_rows
from fashion_dml.losses.soft import softplus


class GranularityLoss(MetricLoss):
    """Soft-binomial deviance with an attribute head.

    After the idea of SGML (Manandhar 2019, arXiv 1911.06047); this form is ours. Of the binomial deviance
    log(1 + exp(-b1 (S - b2) M)), M = 1 for positives and -C for negatives, the mean over positive pairs plus the mean
    over negative pairs, weighed by the likeness g in [0, 1] of the two images' attributes:

    - deviance: no weights;
    - A: w_N = 1 - g, so near-duplicate designs are pushed less;
    - B: A and w_P = 1 + g, so close variants are pulled more;
    - C: negatives are labelled y = g: y log(1 + exp(-b1 (S - b2))) + (1 - y) log(1 + exp(C b1 (S - b2))).

    g is from the labels, predicted by the head (no gradient goes through it), or shuffled: from the labels of other
    images of the batch, a control under which any gain of g must vanish. Unknown attributes are masked out.
    """

    words: Tensor
    draws: Tensor

    def __init__(self, settings: Granularity, words: list[bool], features: int, memory: MemoryBank | None = None) -> None:
        """`words`: for each of the A attribute words, whether it makes g; `features`: F, of the attribute head."""
        super().__init__(memory)
        self.settings = settings
        self.register_buffer("words", torch.tensor(words, dtype=torch.bool), persistent=False)
        self.every_word = all(words)
        self.register_buffer("draws", torch.zeros((), dtype=torch.int64))  # seeds the shuffle; the same on every worker
        self.head = AttributeHead(features, len(words)) if settings.head_weight else None
        weighed = settings.form != "deviance"
        self.needs_features = self.head is not None
        self.needs_attributes = self.head is not None or (weighed and settings.g != "predicted")

    def local(self, features: Tensor) -> Tensor | None:
        """Attribute logits [n, A] of pooled features [n, F]."""
        return None if self.head is None else self.head(features)

    def compute(self, x: Tensor, labels: Tensor, attributes: Tensor | None, extra: Tensor | None) -> dict[str, Tensor]:
        """{"loss", "pair", "attributes"}; extra: logits [B, A]."""
        if self.needs_attributes and (attributes is None or attributes.shape != (len(x), len(self.words))):
            found = None if attributes is None else tuple(attributes.shape)
            raise ValueError(f"attributes must be int8 [{len(x)}, {len(self.words)}], found {found}")
        if self.head is not None and (extra is None or extra.shape != (len(x), len(self.words))):
            raise ValueError(f"extra must be the logits of `local`, [{len(x)}, {len(self.words)}]")
        reference, all_labels = self.recall(x, labels)
        pairs = find_pairs(labels, all_labels)
        alike = self._likeness(x, attributes, extra)
        both = pairs.positives > 0 and pairs.negatives > 0
        share = (1 / pairs.positives, 1 / pairs.negatives) if both else (0.0, 0.0)
        (pair,) = over_rows(lambda s, rows: self._deviance(s, rows, pairs, share, alike), x, reference, depth=2, symmetric=True)
        if self.head is None or extra is None or attributes is None:
            return {"loss": pair, "pair": pair.detach()}
        predicted = self.head.loss(extra.to(x.dtype), attributes)
        loss = pair + self.settings.head_weight * predicted
        return {"loss": loss, "pair": pair.detach(), "attributes": predicted.detach()}

    @torch.no_grad()
    def _likeness(self, x: Tensor, attributes: Tensor | None, logits: Tensor | None) -> Likeness | None:
        kind = self.settings.likeness
        if self.settings.form == "deviance":
            return None
        if self.settings.g == "predicted":
            assert logits is not None
            return likeness(logits.to(x.dtype).sigmoid()[:, self.words], None, kind)
        assert attributes is not None
        if self.settings.g == "shuffled":
            generator = torch.Generator().manual_seed(int(self.draws))
            attributes = attributes[torch.randperm(len(x), generator=generator).to(x.device)]
            self.draws += self.training
        if not self.every_word:
            attributes = attributes[:, self.words]
        known = attributes != 0
        return likeness((attributes > 0).to(x.dtype), None if known.all() else known.to(x.dtype), kind)

    def _deviance(
        self, s: Tensor, rows: slice, pairs: Pairs, share: tuple[float, float], alike: Likeness | None
    ) -> tuple[tuple[Tensor, ...], Tensor]:
        form, centre = self.settings.form, self.settings.centre
        slope = self.settings.slope
        push = self.settings.negative_weight * slope
        z = s.gather(1, pairs.positive[rows]).sub_(centre).mul_(-slope)
        soft = s.sub(centre).mul_(-slope) if form == "C" else None
        scratch = torch.empty_like(s)
        torch.add(s.new_tensor(-push * centre), s, alpha=push, out=s)
        pushed, gradient = softplus(s, -push * (1 + centre), push * (1 - centre), scratch)
        g = None if alike is None else alike(rows, scratch)
        pull_weight = pairs.valid[rows].to(z.dtype).mul_(share[0])
        if form == "B" and g is not None:
            pull_weight *= 1 + g.gather(1, pairs.positive[rows])
        total = (pull_weight * F.softplus(z, threshold=40)).sum()
        pull = pull_weight.mul_(z.sigmoid_()).mul_(-slope)  # d total / d S of the positives
        # The row's own group is weighed by 0 rather than left out; NaN stays NaN.
        scale = push * share[1]
        kept = None if form == "C" else g
        weight = torch.full_like(pushed, scale) if g is None else torch.sub(s.new_tensor(scale), g, alpha=scale, out=kept)
        weight.scatter_(1, pairs.group[rows], 0)
        lost = torch.dot(weight.flatten(), pushed.flatten()) / push
        gradient.mul_(weight)
        if soft is not None and g is not None:
            g.scatter_(1, pairs.group[rows], 0)
            pulled, back = softplus(soft, -slope * (1 - centre), slope * (1 + centre))
            lost += share[1] * torch.dot(g.flatten(), pulled.flatten())
            gradient -= back.mul_(g.mul_(slope * share[1]))
        gradient.scatter_add_(1, pairs.positive[rows], pull)
        return (total + lost,), gradient
