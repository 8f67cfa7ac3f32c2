"""Losses by name: ours, those of pytorch-metric-learning, and what is told of unknown ones."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from loss_helpers import LABELS, loss_of, vectors
from pytorch_metric_learning import losses, miners
from torch.nn import functional as F

from fashion_dml.config import Loss
from fashion_dml.losses import LOSSES, MetricLoss, create_loss
from fashion_dml.losses.pml import PmlLoss
from fashion_dml.storage import UserError


@pytest.mark.parametrize("name", LOSSES)
def test_every_loss_is_made_by_its_name(name: str) -> None:
    loss = loss_of([0, 1, 2], name=name)
    assert isinstance(loss, MetricLoss)
    assert set(loss.rate_multipliers()) <= set(dict(loss.named_parameters()))


def test_the_triplet_loss_needs_nothing() -> None:
    assert float(create_loss(Loss())(F.normalize(vectors(6), dim=1), torch.arange(6) // 2)["loss"]) > 0


def test_unknown_loss_lists_the_known_ones() -> None:
    told = r"'tripplet' is not known; known are triplet, hard_triplet, granularity, multi_objective, cascade, focus_ranking, pml:NAME"
    with pytest.raises(UserError, match=told):
        create_loss(Loss(name="tripplet"))


def test_pml_with_miner_and_arguments_is_the_librarys() -> None:
    labels, x = LABELS["even"], F.normalize(vectors(12, seed=1), dim=1).float()
    chosen: dict[str, Any] = {"arguments": {"alpha": 3, "base": 0.4}, "miner_arguments": {"epsilon": 0.3}}
    ours = loss_of(labels, name="pml:MultiSimilarityLoss", miner="MultiSimilarityMiner", **chosen)
    theirs, miner = losses.MultiSimilarityLoss(alpha=3, base=0.4), miners.MultiSimilarityMiner(epsilon=0.3)
    y = torch.tensor(labels)
    torch.testing.assert_close(ours(x, y)["loss"], theirs(x, y, miner(x, y)))
    with torch.autocast("cpu", torch.bfloat16):
        assert ours(x, y)["loss"].dtype == torch.float32


def test_pml_losses_with_classes_get_them() -> None:
    loss = loss_of([700, 30, 5], name="pml:ProxyAnchorLoss")
    assert isinstance(loss, PmlLoss)
    assert dict(loss.named_parameters())["inner.proxies"].shape == (3, 6)
    x = F.normalize(vectors(4), dim=1)
    expected = loss.inner(x, torch.tensor([2, 2, 0, 1]))
    torch.testing.assert_close(loss(x, torch.tensor([700, 700, 5, 30]))["loss"], expected)
    with pytest.raises(ValueError, match="label 6 is not among the 3 training products"):
        loss(x, torch.tensor([700, 700, 6, 30]))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "pml:MultiSimilartyLoss"}, r"has no 'MultiSimilartyLoss'; near are MultiSimilarityLoss"),
        ({"name": "pml:qqqq"}, r"has no 'qqqq'; known are AngularLoss"),
        (
            {"name": "pml:ContrastiveLoss", "miner": "HDC"},
            r"loss.miner: pytorch-metric-learning has no 'HDC'; near are HDCMiner",
        ),
        ({"name": "pml:ContrastiveLoss", "arguments": {"wrong": 1}}, r"ContrastiveLoss can't be made with \{'wrong': 1\}"),
        ({"name": "pml:ProxyAnchorLoss", "arguments": {"num_classes": 9}}, r"num_classes is filled in; leave it out"),
        ({"name": "triplet", "miner": "HDCMiner"}, r"goes with loss.name = pml:NAME only"),
    ],
)
def test_what_is_wrong_is_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        loss_of([0, 1], **settings)


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pytorch_metric_learning", None)
    with pytest.raises(UserError, match=r"pip install 'fashion-dml\[bench\]'"):
        loss_of([0, 1], name="pml:ContrastiveLoss")
    loss_of([0, 1], name="triplet")
