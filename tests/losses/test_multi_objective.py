"""Pair, proxy and proxy-proxy terms against loops and against pytorch-metric-learning."""

from __future__ import annotations

import math
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
    value_and_gradients,
    vectors,
)
from pydantic import ValidationError
from pytorch_metric_learning.losses import MultiSimilarityLoss, ProxyAnchorLoss
from pytorch_metric_learning.miners import MultiSimilarityMiner
from torch import Tensor
from torch.nn import functional as F

from fashion_dml.config import MultiObjective
from fashion_dml.losses import MetricLoss
from fashion_dml.losses.multi_objective import MultiObjectiveLoss
from fashion_dml.losses.proxies import Proxies
from fashion_dml.losses.soft import log1p_sum_exp, softplus

OTHERS = [20, 30, 40, 50, 60]  # classes of the training split that no batch here holds
PAIR = {"proxy_weight": 0, "proxy_proxy_weight": 0}
PROXY = {"pair_weight": 0, "proxy_proxy_weight": 0}
APART = {"pair_weight": 0, "proxy_weight": 0, "near_classes": 3, "proxy_proxy_centre": -0.2, "proxy_proxy_beta": 5.0}


def multi(labels: list[int], **settings: Any) -> MultiObjectiveLoss:
    loss = loss_of(labels + OTHERS, name="multi_objective", multi_objective=settings)
    assert isinstance(loss, MultiObjectiveLoss)
    return loss


def proxies_of(loss: MultiObjectiveLoss) -> tuple[Tensor, list[int]]:
    assert loss.products is not None
    return loss.products.proxies, loss.products.classes.tolist()


def pair_loop(x: Tensor, labels: list[int], a: float = 2, b: float = 50, lam: float = 0.5, eps: float = 0.1) -> Tensor:
    s, terms = cosines(x), []
    for i in range(len(labels)):
        p, n = positives(labels, i), negatives(labels, i)
        kept_p = [k for k in p if n and s[i][k].item() < max(s[i][j].item() for j in n) + eps]
        kept_n = [k for k in n if p and s[i][k].item() > min(s[i][j].item() for j in p) - eps]
        pull = torch.log1p(sum((torch.exp(-a * (s[i][k] - lam)) for k in kept_p), torch.zeros(()).double()))
        push = torch.log1p(sum((torch.exp(b * (s[i][k] - lam)) for k in kept_n), torch.zeros(()).double()))
        terms.append(pull / a + push / b)
    return mean(terms)


def proxy_loop(x: Tensor, labels: list[int], raw: Tensor, classes: list[int], margin: float = 0.1, alpha: float = 32) -> Tensor:
    p = F.normalize(raw, dim=1)
    pull, push = [], []
    for c, label in enumerate(classes):
        s = [(x[i] * p[c]).sum() for i in range(len(labels))]
        own = [torch.exp(-alpha * (s[i] - margin)) for i in range(len(labels)) if labels[i] == label]
        other = [torch.exp(alpha * (s[i] + margin)) for i in range(len(labels)) if labels[i] != label]
        if own:
            pull.append(torch.log1p(torch.stack(own).sum()))
        push.append(torch.log1p(torch.stack(other).sum()) if other else x.sum() * 0)
    return mean(pull) + mean(push)


def apart_loop(labels: list[int], raw: Tensor, classes: list[int], near: int, lam: float, b: float) -> Tensor:
    s, terms = cosines(F.normalize(raw, dim=1)), []
    for c in sorted({classes.index(label) for label in labels}):
        others = sorted((s[c][k] for k in range(len(classes)) if k != c), key=lambda t: -t.item())[:near]
        terms.append(torch.log1p(torch.stack([torch.exp(b * (t - lam)) for t in others]).sum()) / b)
    return mean(terms)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize("term", ["pair", "proxy", "proxy_proxy", "all"])
def test_equals_the_loop(term: str, labels: list[int]) -> None:
    chosen = {"pair": PAIR, "proxy": PROXY, "proxy_proxy": APART, "all": {**APART, "pair_weight": 0.5, "proxy_weight": 2}}[term]
    loss = multi(labels, **chosen)
    y, raw = torch.tensor(labels), vectors(len(labels), seed=1)
    if term == "pair":
        assert_equal(lambda x: loss(x, y)["loss"], lambda x: pair_loop(x, labels), raw)
        assert gradcheck(lambda x: loss(x, y)["loss"], raw)
        return
    p, classes = proxies_of(loss)

    def reference(x: Tensor) -> Tensor:
        apart = apart_loop(labels, p, classes, 3, -0.2, 5.0)
        if term == "proxy_proxy":
            return apart
        proxy = proxy_loop(x, labels, p, classes)
        return proxy if term == "proxy" else 0.5 * pair_loop(x, labels) + 2 * proxy + apart

    assert_equal(lambda x: loss(x, y)["loss"], reference, raw, (p,))
    x = F.normalize(raw, dim=1).requires_grad_(True)
    assert torch.autograd.gradcheck(lambda a, _: loss(a, y)["loss"], (x, p), eps=1e-6, atol=1e-6, fast_mode=True)


@pytest.mark.parametrize("epsilon", [0.1, 0.4])
@pytest.mark.parametrize("seed", range(3))
def test_pair_term_equals_pytorch_metric_learning(seed: int, epsilon: float) -> None:
    labels = LABELS["mixed with a single"]
    loss, y, raw = multi(labels, **PAIR, pair_epsilon=epsilon), torch.tensor(labels), vectors(12, seed=seed)
    oracle, miner = MultiSimilarityLoss(alpha=2, beta=50, base=0.5), MultiSimilarityMiner(epsilon=epsilon)
    ours, gradient = value_and_gradients(lambda x: loss(x, y)["loss"], raw)
    theirs, other = value_and_gradients(lambda x: oracle(x, y, miner(x, y)), raw)
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient[0], other[0], rtol=1e-8, atol=1e-12)


def test_proxy_term_equals_pytorch_metric_learning() -> None:
    labels = LABELS["mixed with a single"]
    loss, raw = multi(labels, **PROXY), vectors(12, seed=1)
    p, classes = proxies_of(loss)
    oracle = ProxyAnchorLoss(num_classes=len(classes), embedding_size=6, margin=0.1, alpha=32).double()
    oracle.proxies.data = p.detach().clone()
    ours, gradient = value_and_gradients(lambda x: loss(x, torch.tensor(labels))["loss"], raw, (p,))
    index = torch.tensor([classes.index(label) for label in labels])
    theirs, other = value_and_gradients(lambda x: oracle(x, index), raw, (oracle.proxies,))
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradient, other, rtol=1e-8, atol=1e-12)


def test_the_sum_of_exponentials_does_not_overflow() -> None:
    z = torch.tensor([[3000.0, 2999.0], [-3000.0, -torch.inf], [1e-12, -torch.inf]], dtype=torch.float64)
    value, gradient = log1p_sum_exp(z.clone())
    expected = [3000 + math.log(1 + math.exp(-1)), 0.0, math.log1p(math.exp(1e-12))]
    torch.testing.assert_close(value, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)
    torch.testing.assert_close(gradient[0].sum(), torch.ones((), dtype=torch.float64))


@pytest.mark.parametrize("labels", [[4, 4, 4], [0, 1, 2, 3], [3]], ids=["no negative", "no positive", "one image"])
def test_without_pairs_the_pair_term_is_silent(labels: list[int]) -> None:
    assert_silent(multi(labels, **PAIR), labels)
    loss = multi(labels)
    assert_silent(loss, labels, part="pair")
    assert float(loss(F.normalize(vectors(len(labels)), dim=1), torch.tensor(labels))["proxy"].detach()) > 0


@pytest.mark.parametrize("chosen", [PAIR, PROXY, {}], ids=["pair", "proxy", "all"])
def test_nan_shows_and_autocast_does_not(chosen: dict[str, Any]) -> None:
    loss = multi(LABELS["even"], **chosen)
    assert_nan_shows(loss, LABELS["even"])
    assert_float32_under_autocast(loss, LABELS["even"])


def test_no_tensor_of_the_whole_matrix() -> None:
    labels = torch.arange(2048) // 2
    loss = loss_of(labels.tolist(), name="multi_objective").float()
    assert largest_tensor(loss, labels) <= 2048**2 / 8


def test_softplus_is_exact_everywhere() -> None:
    z = torch.linspace(-59, 79, 4001, dtype=torch.float64)
    value, slope = softplus(z.clone(), -80, 80)
    torch.testing.assert_close(value, torch.log1p(torch.exp(-z.abs())) + z.clamp_min(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(slope, torch.sigmoid(z), rtol=1e-14, atol=0)
    single, _ = softplus(z.float(), -80, 80)
    torch.testing.assert_close(single.double(), value, rtol=1e-5, atol=0)
    far, _ = softplus(torch.tensor([-300.0, 300.0, torch.nan], dtype=torch.float64), -300, 400)
    assert (far[1].item(), math.isnan(far[2])) == (300.0, True)
    far, _ = softplus(torch.tensor([-300.0, torch.nan], dtype=torch.float64), -300, 80)
    assert far[0] < 1e-25
    assert math.isnan(far[1])


def test_proxies_are_in_the_state_and_have_their_rate() -> None:
    loss = multi([0, 1], proxy_rate=7.0)
    assert loss.rate_multipliers() == {"products.proxies": 7.0}
    assert dict(loss.named_parameters())["products.proxies"].shape == (7, 6)
    assert (multi([0, 1], **PAIR).rate_multipliers(), list(multi([0, 1], **PAIR).parameters())) == ({}, [])


def test_proxies_of_other_classes_are_refused() -> None:
    stored = multi([0, 1, 2]).state_dict()
    for labels in ([0, 1], [0, 1, 3]):
        with pytest.raises(RuntimeError, match=r"8 proxies were stored for other products than the [78] trained on now"):
            multi(labels).load_state_dict(stored)
    with pytest.raises(ValueError, match="label 9 has no proxy; there are 7"):
        multi([0, 1])(torch.eye(2, 6), torch.tensor([0, 9]))
    for classes in ([3], [3, 3], [4, 3]):
        with pytest.raises(ValueError, match="at least two classes, sorted and unique"):
            Proxies(torch.tensor(classes), 4)


def test_where_the_classes_are_is_told_by_unit_proxies_in_the_order_of_labels() -> None:
    loss = multi([30, 10, 20])
    found = loss.class_vectors()
    assert found is not None
    labels, places = found
    assert labels.tolist() == sorted({10, 20, 30, *OTHERS})
    assert torch.allclose(places.norm(dim=1), torch.ones(len(labels), dtype=places.dtype))
    assert multi([0, 1], proxy_weight=0, proxy_proxy_weight=0).class_vectors() is None


def test_each_term_alone_lowers_what_it_says() -> None:
    """Proxies that begin in one place: the proxy-proxy term alone drives them apart."""
    loss = multi([0, 1], **APART)
    p, _ = proxies_of(loss)
    p.data = F.normalize(torch.ones_like(p) + 0.1 * p.data, dim=1)
    optimizer = torch.optim.Adam([p], 0.05)
    x, y = F.normalize(vectors(2), dim=1), torch.tensor([0, 1])
    first = float(loss(x, y)["loss"].detach())
    for _ in range(50):
        optimizer.zero_grad()
        value = loss(x, y)["loss"]
        value.backward()
        optimizer.step()
    assert float(value.detach()) < 0.5 * first


def test_all_weights_zero_is_refused() -> None:
    with pytest.raises(ValidationError, match="all three weights are 0"):
        MultiObjective(pair_weight=0, proxy_weight=0, proxy_proxy_weight=0)


def test_is_a_metric_loss() -> None:
    assert isinstance(multi([0, 1]), MetricLoss)
