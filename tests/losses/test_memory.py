"""The memory bank: what it holds, what a loss sees of it, and that workers and restarts agree."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from loss_helpers import LABELS, loss_of, negatives, positives, value_and_gradients, vectors
from test_focus_ranking import loop as focus_loop
from torch import Tensor
from torch.nn import functional as F

from fashion_dml.config import Memory
from fashion_dml.losses.memory import MemoryBank
from fashion_dml.storage import UserError

WITH_MEMORY: dict[str, dict[str, Any]] = {
    "triplet": {"name": "triplet", "margin": 0.5},
    "batch-hard": {"name": "triplet", "margin": 0.5, "mining": "batch-hard"},
    "deviance": {"name": "granularity", "granularity": {"form": "deviance", "head_weight": 0}},
    "multi_similarity": {"name": "multi_objective", "multi_objective": {"proxy_weight": 0, "proxy_proxy_weight": 0}},
    "focus_ranking": {"name": "focus_ranking"},
}


def batch(seed: int) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return F.normalize(vectors(8, seed=seed), dim=1), torch.randint(4, (8,), generator=rng)


def test_first_in_first_out() -> None:
    bank = MemoryBank(Memory(size=5), 6)
    seen: list[tuple[int, Tensor]] = []
    for step, size in enumerate([2, 3, 4, 1, 9, 5]):
        x, labels = F.normalize(vectors(size, seed=step), dim=1).float(), torch.arange(size) + 10 * step
        reference, all_labels = bank.recall(x, labels)
        if seen:
            assert reference is not None
            assert torch.equal(reference[:size], x)
            assert sorted(all_labels[size:].tolist()) == sorted(label for label, _ in seen[-5:])
            for row, label in zip(reference[size:], all_labels[size:].tolist(), strict=True):
                assert torch.equal(row, dict(seen)[label])
        else:
            assert reference is None
        seen += list(zip(labels.tolist(), x, strict=True))
    assert int(bank.seen) == 24


@pytest.mark.parametrize("settings", WITH_MEMORY.values(), ids=WITH_MEMORY)
def test_the_bank_counts_and_is_constant(settings: dict[str, Any]) -> None:
    """The bank changes the value, and is constant: the gradient is that of finite differences of the batch's rows."""
    loss = loss_of([0, 1, 2, 3], memory={"size": 20}, **settings)
    for seed in (1, 2):
        loss(*batch(seed))
    state = {k: v.clone() for k, v in loss.state_dict().items()}
    _, labels = batch(3)
    raw = vectors(8, seed=3)

    def fresh(x: Tensor) -> Tensor:
        loss.load_state_dict(state)
        value: Tensor = loss(x, labels)["loss"]
        return value

    with_bank, _ = value_and_gradients(fresh, raw)
    alone = loss_of([0, 1, 2, 3], **settings)(F.normalize(raw, dim=1), labels)["loss"]
    assert float(with_bank) != float(alone)
    leaf = raw.clone().requires_grad_(True)
    assert torch.autograd.gradcheck(lambda t: fresh(F.normalize(t, dim=1)), leaf, fast_mode=True, atol=1e-6)


def test_value_with_a_bank_equals_the_loop() -> None:
    """Semi-hard triplets: anchors of the batch; positives and negatives of batch and bank."""
    loss = loss_of([0, 1, 2, 3], name="triplet", margin=0.5, memory={"size": 20})
    rows, names = zip(*(batch(seed) for seed in (1, 2, 3)), strict=True)
    for x, labels in zip(rows, names, strict=True):
        parts = loss(x, labels)
    x, labels = torch.cat([rows[2], rows[0], rows[1]]), torch.cat([names[2], names[0], names[1]]).tolist()
    d = torch.cdist(x, x).square()
    terms = [
        0.5 + d[a, p] - d[a, n]
        for a in range(8)
        for p in positives(labels, a)
        for n in negatives(labels, a)
        if d[a, p] < d[a, n] < d[a, p] + 0.5
    ]
    assert int(parts["triplets"]) == len(terms)
    torch.testing.assert_close(parts["loss"], torch.stack(terms).mean(), rtol=1e-9, atol=0)


def test_a_bank_of_nothing_changes_nothing() -> None:
    x, labels = F.normalize(vectors(12), dim=1), LABELS["even"]
    loss = loss_of(labels, name="focus_ranking", memory={"size": 12})
    torch.testing.assert_close(loss(x, torch.tensor(labels))["loss"], focus_loop(x, labels, "hinge"), rtol=1e-9, atol=0)


def test_starts_late_and_rests_in_evaluation() -> None:
    loss = loss_of([0, 1, 2, 3], name="focus_ranking", memory={"size": 64, "start": 2})
    plain = loss_of([0, 1, 2, 3], name="focus_ranking")
    same = [torch.equal(loss(*batch(seed))["loss"], plain(*batch(seed))["loss"]) for seed in range(4)]
    assert same == [True, True, False, False]
    loss.eval()
    assert torch.equal(loss(*batch(5))["loss"], plain(*batch(5))["loss"])
    assert loss.memory is not None
    assert int(loss.memory.seen) == 32


def test_a_restart_goes_on_as_if_there_had_been_none() -> None:
    one, two = (loss_of([0, 1, 2, 3], name="focus_ranking", memory={"size": 13}) for _ in range(2))
    for seed in range(3):
        one(*batch(seed))
    two.load_state_dict(one.state_dict())
    for seed in range(3, 6):
        assert torch.equal(one(*batch(seed))["loss"], two(*batch(seed))["loss"])


@pytest.mark.parametrize(
    "settings", [{"name": "cascade"}, {"name": "pml:ContrastiveLoss"}], ids=lambda settings: settings["name"]
)
def test_losses_without_memory_say_so(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"loss\.memory doesn't go with loss\.name"):
        loss_of([0, 1], memory={"size": 4}, **settings)
