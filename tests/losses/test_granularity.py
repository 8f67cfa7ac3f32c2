"""Soft-binomial deviance against loops over pairs and attribute words."""

from __future__ import annotations

import math
from itertools import product
from typing import Any

import pytest
import torch
from loss_helpers import (
    LABELS,
    WORDS,
    assert_equal,
    assert_float32_under_autocast,
    assert_nan_shows,
    assert_silent,
    attributes,
    cosines,
    gradcheck,
    largest_tensor,
    loss_of,
    mean,
    negatives,
    positives,
    softplus,
    vectors,
)
from pydantic import ValidationError
from torch import Tensor
from torch.nn import functional as F

from fashion_dml.config import Granularity, Loss
from fashion_dml.losses import create_loss
from fashion_dml.losses.attributes import likeness
from fashion_dml.losses.granularity import GranularityLoss
from fashion_dml.storage import UserError

FORMS = ("deviance", "A", "B", "C")
SETTINGS: dict[str, Any] = {"head_weight": 0.0, "slope": 2.0, "centre": 0.5, "negative_weight": 25.0}


def loop_likeness(a: list[float], b: list[float], known: list[bool], kind: str) -> float:
    """Of two images' attribute values in [0, 1], over the words known to both."""
    shared = sum(x * y for x, y, k in zip(a, b, known, strict=True) if k)
    own = sum(x * x for x, k in zip(a, known, strict=True) if k)
    other = sum(y * y for y, k in zip(b, known, strict=True) if k)
    below = math.sqrt(own * other) if kind == "cosine" else own + other - shared
    return shared / below if below else 0.0


def loop_g(table: Tensor, kind: str, words: range = range(len(WORDS))) -> list[list[float]]:
    rows = table.tolist()
    has = [[float(r[w] > 0) for w in words] for r in rows]
    known = [[r[w] != 0 for w in words] for r in rows]
    n = range(len(rows))
    return [
        [loop_likeness(has[i], has[j], [p and q for p, q in zip(known[i], known[j], strict=True)], kind) for j in n] for i in n
    ]


def loop(
    x: Tensor, labels: list[int], form: str, g: list[list[float]], b1: float = 2, b2: float = 0.5, c: float = 25
) -> Tensor:
    s, n = cosines(x), range(len(labels))
    pull = [(1 + g[i][j] if form == "B" else 1) * softplus(-b1 * (s[i][j] - b2)) for i in n for j in positives(labels, i)]
    push = []
    for i in n:
        for j in negatives(labels, i):
            away = softplus(c * b1 * (s[i][j] - b2))
            if form == "C":
                push.append(g[i][j] * softplus(-b1 * (s[i][j] - b2)) + (1 - g[i][j]) * away)
            else:
                push.append((1 - g[i][j] if form in "AB" else 1) * away)
    return mean(pull) + mean(push)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
@pytest.mark.parametrize(("form", "kind"), product(FORMS, ("cosine", "jaccard")))
def test_equals_the_loop(form: str, kind: str, labels: list[int]) -> None:
    table, raw = attributes(len(labels)), vectors(len(labels), seed=2)
    loss = loss_of(labels, name="granularity", granularity=SETTINGS | {"form": form, "likeness": kind})
    assert_equal(
        lambda x: loss(x, torch.tensor(labels), table)["loss"], lambda x: loop(x, labels, form, loop_g(table, kind)), raw
    )
    if kind == "cosine":
        assert gradcheck(lambda x: loss(x, torch.tensor(labels), table)["loss"], raw)


@pytest.mark.parametrize("kind", ["cosine", "jaccard"])
@pytest.mark.parametrize("case", ["labels", "all known", "predicted"])
def test_likeness_equals_the_loop(case: str, kind: str) -> None:
    table = attributes(9, unknown=0.4)
    if case == "all known":
        table = torch.where(table == 0, -1, table)
    if case == "predicted":
        p = torch.rand(9, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        expected = torch.tensor([[loop_likeness(a, b, [True] * 6, kind) for b in p.tolist()] for a in p.tolist()]).double()
        found = likeness(p, None, kind)(slice(0, 9), None)
    else:
        known = None if case == "all known" else (table != 0).double()
        found = likeness((table > 0).double(), known, kind)(slice(0, 9), torch.empty(9, 9, dtype=torch.float64))
        expected = torch.tensor(loop_g(table, kind), dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-7)
    assert 0 <= float(found.min()) < float(found.max()) <= 1 + 1e-12


def test_jaccard_of_ones_and_zeros_is_shared_over_united() -> None:
    has = torch.tensor([[1.0, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]])
    found = likeness(has, torch.ones_like(has), "jaccard")(slice(0, 3), None)
    torch.testing.assert_close(found, torch.tensor([[1, 0.25, 0], [0.25, 1, 0], [0, 0, 0]]))


def test_only_the_chosen_columns_make_g() -> None:
    labels = LABELS["even"]
    table, raw = attributes(12), vectors(12, seed=1)
    loss = loss_of(labels, name="granularity", granularity=SETTINGS | {"columns": ("colour",)})
    g = loop_g(table, "cosine", range(3))
    assert_equal(lambda x: loss(x, torch.tensor(labels), table)["loss"], lambda x: loop(x, labels, "A", g), raw)
    with pytest.raises(UserError, match=r"no attribute column 'size'; known are colour, print, sleeveless"):
        loss_of(labels, name="granularity", granularity={"columns": ("size",)})


def test_the_attribute_head_masks_the_unknown() -> None:
    labels, table = LABELS["even"], attributes(12, unknown=0.5)
    loss = loss_of(labels, name="granularity", granularity={"form": "deviance", "head_weight": 0.7})
    features = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    logits = loss.local(features)
    assert logits is not None
    assert (loss.needs_attributes, loss.needs_features, tuple(logits.shape)) == (True, True, (12, 6))
    x = F.normalize(vectors(12), dim=1)
    parts = loss(x, torch.tensor(labels), table, logits)
    terms = [softplus(-z if a > 0 else z) for z, a in zip(logits.flatten(), table.flatten().tolist(), strict=True) if a]
    torch.testing.assert_close(parts["attributes"], mean(terms).detach(), rtol=1e-9, atol=0)
    torch.testing.assert_close(parts["loss"].detach(), parts["pair"] + 0.7 * parts["attributes"], rtol=1e-12, atol=0)
    parts["loss"].backward()
    assert features.grad is not None
    assert float(features.grad.abs().sum()) > 0
    weight = loss.state_dict(keep_vars=True)["head.linear.weight"]
    assert torch.autograd.gradcheck(
        lambda w, b: loss(x, torch.tensor(labels), table, features.detach() @ w.T + b)["loss"],
        (weight, loss.state_dict(keep_vars=True)["head.linear.bias"]),
    )


def test_g_predicted_follows_the_head_without_gradient() -> None:
    labels, raw = LABELS["even"], vectors(12, seed=1)
    loss = loss_of(labels, name="granularity", granularity={"g": "predicted", "head_weight": 1e-9})
    logits = torch.randn(12, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).requires_grad_(True)
    p = logits.detach().sigmoid().tolist()
    g = [[loop_likeness(a, b, [True] * 6, "cosine") for b in p] for a in p]
    nothing = torch.zeros(12, 6, dtype=torch.int8)
    assert_equal(lambda x: loss(x, torch.tensor(labels), nothing, logits)["loss"], lambda x: loop(x, labels, "A", g), raw)
    loss(F.normalize(raw, dim=1), torch.tensor(labels), nothing, logits)["loss"].backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0


def test_shuffled_g_is_the_labels_g_of_other_images() -> None:
    labels, table, x = LABELS["even"], attributes(12), F.normalize(vectors(12, seed=1), dim=1)
    chosen = SETTINGS | {"g": "shuffled"}
    loss, twin = (loss_of(labels, name="granularity", granularity=chosen) for _ in range(2))
    y = torch.tensor(labels)
    for step in range(3):
        order = torch.randperm(12, generator=torch.Generator().manual_seed(step))
        value = loss(x, y, table)["loss"]
        torch.testing.assert_close(value, loop(x, labels, "A", loop_g(table[order], "cosine")), rtol=1e-9, atol=0)
        assert torch.equal(twin(x, y, table)["loss"], value)  # another worker
    resumed = loss_of(labels, name="granularity", granularity=chosen)
    resumed.load_state_dict(loss.state_dict())
    assert torch.equal(resumed(x, y, table)["loss"], loss(x, y, table)["loss"])
    loss.eval()
    assert torch.equal(loss(x, y, table)["loss"], loss(x, y, table)["loss"])


@pytest.mark.parametrize("labels", [[4, 4, 4], [0, 1, 2, 3], [3]], ids=["no negative", "no positive", "one image"])
@pytest.mark.parametrize("form", FORMS)
def test_without_pairs_it_is_silent(form: str, labels: list[int]) -> None:
    assert_silent(loss_of(labels, name="granularity", granularity=SETTINGS | {"form": form}), labels, attributes(len(labels)))


@pytest.mark.parametrize("form", FORMS)
def test_attributes_all_unknown_are_plain_deviance(form: str) -> None:
    labels, nothing = LABELS["even"], torch.zeros(12, 6, dtype=torch.int8)
    loss = loss_of(labels, name="granularity", granularity={"form": form})
    x = F.normalize(vectors(12, seed=1), dim=1)
    logits = torch.randn(12, 6, dtype=torch.float64).requires_grad_(True)
    parts = loss(x, torch.tensor(labels), nothing, logits)
    assert float(parts["attributes"]) == 0
    parts["loss"].backward()
    assert logits.grad is not None
    assert float(logits.grad.abs().max()) == 0
    torch.testing.assert_close(parts["pair"], loop(x, labels, "deviance", [[0.0] * 12] * 12), rtol=1e-9, atol=0)


@pytest.mark.parametrize("form", FORMS)
def test_nan_shows_and_autocast_does_not(form: str) -> None:
    loss = loss_of(LABELS["even"], name="granularity", granularity=SETTINGS | {"form": form})
    assert_nan_shows(loss, LABELS["even"], attributes(12))
    assert_float32_under_autocast(loss, LABELS["even"], attributes(12))


def test_no_tensor_of_the_whole_matrix() -> None:
    loss = loss_of([0, 1], name="granularity", granularity=SETTINGS | {"form": "C"})
    assert largest_tensor(loss.float(), torch.arange(2048) // 4, attributes(2048)) <= 2048**2 / 8


@pytest.mark.parametrize(
    ("chosen", "needs"),
    [
        ({"form": "deviance", "head_weight": 0}, (False, False)),
        ({"form": "deviance"}, (True, True)),
        ({"form": "A", "head_weight": 0}, (True, False)),
        ({"form": "A", "g": "predicted"}, (True, True)),
    ],
)
def test_says_what_it_needs(chosen: dict[str, Any], needs: tuple[bool, bool]) -> None:
    loss = loss_of([0, 1], name="granularity", granularity=chosen)
    assert isinstance(loss, GranularityLoss)
    assert (loss.needs_attributes, loss.needs_features) == needs
    if needs[0]:
        with pytest.raises(ValueError, match=r"attributes must be int8 \[2, 6\], found None"):
            loss(torch.eye(2), torch.tensor([0, 1]))
    if needs[1]:
        with pytest.raises(ValueError, match="extra must be the logits"):
            loss(torch.eye(2), torch.tensor([0, 1]), attributes(2))


def test_bad_settings_are_named() -> None:
    with pytest.raises(ValidationError, match="g = predicted needs the attribute head"):
        Granularity(g="predicted", head_weight=0)
    with pytest.raises(UserError, match="needs attributes and the dataset has none"):
        create_loss(Loss(name="granularity"), dim=8, features=4)
    with pytest.raises(UserError, match="gives no features"):
        create_loss(Loss(name="granularity"), dim=8, attributes=WORDS)
    with pytest.raises(UserError, match=r"loss\.memory keeps no attributes"):
        loss_of([0, 1], name="granularity", granularity={"form": "A"}, memory={"size": 4})
