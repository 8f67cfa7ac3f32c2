"""Focus ranking against loops over queries, positives and negatives, and its two reductions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_helpers import (
    LABELS,
    assert_equal,
    assert_float32_under_autocast,
    assert_nan_shows,
    assert_silent,
    cosines,
    gradcheck,
    largest_tensor,
    loss_of,
    mean,
    negatives,
    positives,
    softplus,
    value_and_gradients,
    vectors,
)
from pydantic import ValidationError
from pytorch_metric_learning.losses import NTXentLoss
from torch import Tensor

from fashion_dml.config import FocusRanking

FORMS: dict[str, dict[str, Any]] = {
    "hinge": {"form": "hinge", "margin": 0.3},
    "hinge, ranks": {"form": "hinge", "margin": 0.3, "rank_weight": True},
    "softplus": {"form": "softplus", "margin": 0.1, "temperature": 0.2},
    "softplus, ranks": {"form": "softplus", "rank_weight": True},
    "info-nce": {"form": "info-nce", "margin": 0.2, "temperature": 0.1},
}


def loop(
    x: Tensor, labels: list[int], form: str, margin: float = 0.1, temperature: float = 1.0, rank_weight: bool = False
) -> Tensor:
    s, units = cosines(x), []
    for q in range(len(labels)):
        disorders = []
        for p in positives(labels, q):
            z = [margin + s[q][n] - s[q][p] for n in negatives(labels, q)]
            if not z:
                continue
            if form == "info-nce":
                disorders.append(torch.log(1 + sum(torch.exp(t / temperature) for t in z)))
                continue
            disorder = sum(t.clamp_min(0) if form == "hinge" else softplus(t / temperature) for t in z)
            r = sum(t.item() > 0 for t in z)
            disorders.append(disorder * (sum(1 / t for t in range(1, r + 1)) / r if rank_weight and r else 1))
        if disorders:
            units.append(mean(disorders))
    return mean(units)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("settings", FORMS.values(), ids=FORMS)
def test_equals_the_loop(settings: dict[str, Any], labels: list[int]) -> None:
    loss = loss_of(labels, name="focus_ranking", focus_ranking=settings)
    raw = vectors(len(labels), seed=3)
    assert_equal(lambda x: loss(x, torch.tensor(labels))["loss"], lambda x: loop(x, labels, **settings), raw)
    assert gradcheck(lambda x: loss(x, torch.tensor(labels))["loss"], raw)


def test_one_positive_and_one_negative_is_the_triplet_loss() -> None:
    """A unit of three images. Squared distances are twice the similarities' differences: d = 2 - 2 s."""
    labels = torch.tensor([0, 0, 1])
    focus = loss_of([0, 1], name="focus_ranking", focus_ranking={"margin": 0.4})
    triplet = loss_of([0, 1], name="triplet", mining="all", margin=0.8)
    worked = 0
    for seed in range(20):
        raw = vectors(3, seed=seed)
        ours, gradient = value_and_gradients(lambda x: focus(x, labels)["loss"], raw)
        s = cosines(torch.nn.functional.normalize(raw, dim=1))
        on_similarities = mean([(0.4 + s[q][2] - s[0][1]).clamp_min(0) for q in (0, 1)])
        torch.testing.assert_close(ours, on_similarities, rtol=1e-12, atol=1e-15)
        parts = triplet(torch.nn.functional.normalize(raw, dim=1), labels)
        if int(parts["triplets"]) == 2:  # our triplets' mean leaves out those without violation
            worked += 1
            other, other_gradient = value_and_gradients(lambda x: triplet(x, labels)["loss"] / 2, raw)
            torch.testing.assert_close(ours, other, rtol=1e-12, atol=1e-15)
            torch.testing.assert_close(gradient[0], other_gradient[0], rtol=1e-12, atol=1e-15)
    assert worked > 3


def test_softplus_of_the_summed_terms_is_info_nce() -> None:
    """-log(e^(s_p/t) / (e^(s_p/t) + sum_n e^(s_n/t))), as pytorch-metric-learning has it; with t = 1 it is N-pair's."""
    labels = LABELS["even"]
    for temperature in (1.0, 0.1):
        chosen = {"form": "info-nce", "margin": 0, "temperature": temperature}
        loss = loss_of(labels, name="focus_ranking", focus_ranking=chosen)
        oracle = NTXentLoss(temperature=temperature)
        raw = vectors(len(labels), seed=1)
        ours, gradient = value_and_gradients(lambda x, f=loss: f(x, torch.tensor(labels))["loss"], raw)
        theirs, other = value_and_gradients(lambda x, f=oracle: f(x, torch.tensor(labels)), raw)
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
        torch.testing.assert_close(gradient[0], other[0], rtol=1e-8, atol=1e-12)


def test_the_head_of_the_list_weighs_more() -> None:
    """To climb one place costs 1/r: from 2 to 1 half, from 10 to 9 a tenth."""
    harmonic = [sum(1 / t for t in range(1, r + 1)) for r in range(11)]
    labels = [0, 0, *range(1, 11)]
    loss = loss_of(labels, name="focus_ranking", focus_ranking={"margin": 0.0, "rank_weight": True})
    for r in (1, 2, 9, 10):
        x = torch.zeros(12, 6, dtype=torch.float64)
        x[0, 0] = 1
        x[1] = torch.tensor([0.6, 0.8, 0, 0, 0, 0])
        x[2:, 0], x[2:, 2] = 0, 1
        x[2 : 2 + r] = torch.tensor([0.8, -0.6, 0, 0, 0, 0])  # these stand before the positive, each by 0.2
        # The second image is a query as well, and none stands before its positive.
        value = loss(x, torch.tensor(labels))["loss"]
        assert value.item() == pytest.approx(harmonic[r] * 0.2 / 2, rel=1e-6)


@pytest.mark.parametrize("settings", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("labels", [[4, 4, 4], [0, 1, 2, 3], [3]], ids=["no negative", "no positive", "one image"])
def test_without_pairs_it_is_silent(settings: dict[str, Any], labels: list[int]) -> None:
    assert_silent(loss_of(labels, name="focus_ranking", focus_ranking=settings), labels)


@pytest.mark.parametrize("settings", FORMS.values(), ids=FORMS)
def test_nan_shows_and_autocast_does_not(settings: dict[str, Any]) -> None:
    loss = loss_of(LABELS["even"], name="focus_ranking", focus_ranking=settings)
    assert_nan_shows(loss, LABELS["even"])
    assert_float32_under_autocast(loss, LABELS["even"])


def test_no_tensor_of_the_whole_matrix() -> None:
    loss = loss_of([0, 1], name="focus_ranking")
    assert largest_tensor(loss, torch.arange(2048) // 4) <= 2048**2 / 8


def test_counts_what_stands_before() -> None:
    labels = [0, 0, 1]
    x = torch.tensor([[1.0, 0], [0.6, 0.8], [0.8, 0.6]]).double()
    parts = loss_of(labels, dim=2, name="focus_ranking", focus_ranking={"margin": 0.0})(x, torch.tensor(labels))
    assert float(parts["before"]) == 1.0  # 0.8 > 0.6 for the first query, 0.96 > 0.6 for the second


def test_rank_weight_and_summed_terms_exclude_each_other() -> None:
    with pytest.raises(ValidationError, match="rank_weight has no meaning with form = info-nce"):
        FocusRanking(form="info-nce", rank_weight=True)
