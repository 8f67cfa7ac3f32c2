"""Hard triplets on distances: against a loop, against pytorch-metric-learning, and where they must be silent."""

from __future__ import annotations

import pytest
import torch
from loss_helpers import (
    LABELS,
    assert_equal,
    assert_float32_under_autocast,
    assert_nan_shows,
    assert_silent,
    gradcheck,
    largest_tensor,
    loss_of,
    negatives,
    positives,
    vectors,
)
from pytorch_metric_learning.losses import TripletMarginLoss
from pytorch_metric_learning.miners import BatchHardMiner
from torch.nn import functional as F

from fashion_dml.config import Loss, Memory
from fashion_dml.losses import create_loss


def hardest(x: torch.Tensor, labels: list[int], margin: float) -> tuple[torch.Tensor, int]:
    """(mean over violated triplets, how many), from (a - b).norm(), one anchor after the other."""
    terms = []
    for a in range(len(labels)):
        mine, others = positives(labels, a), negatives(labels, a)
        if mine and others:
            far = max(((x[a] - x[p]).norm() for p in mine), key=torch.Tensor.item)
            near = min(((x[a] - x[n]).norm() for n in others), key=torch.Tensor.item)
            if (margin + far - near).item() > 0:
                terms.append(margin + far - near)
    return (torch.stack(terms).mean() if terms else x.sum() * 0), len(terms)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("margin", [0.2, 1.0])
def test_equals_the_loop(margin: float, labels: list[int]) -> None:
    raw, loss = vectors(len(labels), seed=7, spread=0.7), loss_of(labels, name="hard_triplet", margin=margin)
    assert_equal(lambda x: loss(x, torch.tensor(labels))["loss"], lambda x: hardest(x, labels, margin)[0], raw)
    assert gradcheck(lambda x: loss(x, torch.tensor(labels))["loss"], raw)
    x = F.normalize(raw, dim=1)
    assert int(loss(x, torch.tensor(labels))["triplets"]) == hardest(x, labels, margin)[1] > 0


@pytest.mark.parametrize("seed", range(5))
def test_equals_pytorch_metric_learning(seed: int) -> None:
    """Its default distance is the plain one, its default reducer leaves out triplets without a loss."""
    labels, raw = LABELS["mixed with a single"], vectors(12, seed=seed)
    y = torch.tensor(labels)
    leaf = raw.clone().requires_grad_(True)
    expected = TripletMarginLoss(margin=0.2)(leaf, y, BatchHardMiner()(leaf, y))
    expected.backward()
    ours = raw.clone().requires_grad_(True)
    found = loss_of(labels, name="hard_triplet")(F.normalize(ours, dim=1), y)["loss"]
    found.backward()
    torch.testing.assert_close(found.detach(), expected.detach(), rtol=1e-6, atol=1e-9)
    torch.testing.assert_close(ours.grad, leaf.grad, rtol=1e-5, atol=1e-8)


def test_the_same_photo_twice_has_a_loss_and_no_infinite_gradient() -> None:
    x = F.normalize(vectors(6).float(), dim=1)
    x[1], x[4] = x[0], x[2]  # a pair of one product that is one photo, and one photo under two products
    leaf = x.clone().requires_grad_(True)
    create_loss(Loss(name="hard_triplet"))(leaf, torch.tensor([0, 0, 1, 1, 2, 2]))["loss"].backward()
    assert leaf.grad is not None
    assert bool(leaf.grad.isfinite().all())
    assert float(leaf.grad.abs().max()) < 10


@pytest.mark.parametrize("labels", [[4, 4, 4, 4], [0, 1, 2, 3], [0]])
def test_silent_without_triplets(labels: list[int]) -> None:
    assert_silent(create_loss(Loss(name="hard_triplet")), labels)


def test_silent_where_all_is_well() -> None:
    leaf = torch.eye(4)[[0, 0, 1, 1]].requires_grad_(True)
    found = create_loss(Loss(name="hard_triplet"))(leaf, torch.tensor([0, 0, 1, 1]))
    found["loss"].backward()
    assert (float(found["loss"].detach()), int(found["triplets"])) == (0, 0)
    assert leaf.grad is not None
    assert not bool(leaf.grad.any())


def test_stays_in_float32_and_shows_nan() -> None:
    loss = create_loss(Loss(name="hard_triplet"))
    assert_float32_under_autocast(loss, LABELS["even"])
    assert_nan_shows(loss, LABELS["even"])


def test_past_batches_are_further_candidates() -> None:
    """With a bank: the hardest of batch and bank together, for the anchors of the batch."""
    labels = torch.tensor([0, 0, 1, 1])
    first, second = (F.normalize(vectors(4, seed=s), dim=1) for s in (1, 2))
    loss = loss_of([0, 1], name="hard_triplet", memory=Memory(size=8))
    loss(first, labels)
    found = loss(second, labels)
    both, y = torch.cat([second, first]), [0, 0, 1, 1] * 2
    terms = []
    for a in range(4):
        far = max(float((both[a] - both[p]).norm()) for p in positives(y, a))
        near = min(float((both[a] - both[n]).norm()) for n in negatives(y, a))
        terms.append(max(0.0, 0.2 + far - near))
    kept = [t for t in terms if t > 0]
    assert float(found["loss"]) == pytest.approx(sum(kept) / len(kept), rel=1e-6)


def test_a_large_batch_makes_no_tensor_of_the_whole_matrix() -> None:
    assert largest_tensor(create_loss(Loss(name="hard_triplet")), torch.arange(2048) // 4) <= 2048**2 / 4
