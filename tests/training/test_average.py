"""Averages of weights: against the formula written out, and as what a training validates and publishes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from train_helpers import embedder, recipe, run_training

from fashion_dml.config import Optim
from fashion_dml.data.schema import Dataset
from fashion_dml.models.store import load_model
from fashion_dml.training.average import Average, mean_of


@pytest.mark.parametrize("decay", [0.5, 0.99])
def test_average_is_the_formula(decay: float, small: Dataset) -> None:
    model = embedder(small)
    average = Average(model, decay)
    assert not average.embedder.training
    expected = {n: v.double().clone() for n, v in model.state_dict().items()}
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        for value in model.state_dict().values():
            if value.is_floating_point():
                value += torch.randn(value.shape, generator=generator)
            else:
                value += 1
        average.update(model, step)
        kept = min(decay, (1 + step) / (10 + step))
        for name, value in model.state_dict().items():
            expected[name] = kept * expected[name] + (1 - kept) * value if value.is_floating_point() else value.double().clone()
    for name, value in average.embedder.state_dict().items():
        torch.testing.assert_close(value.double(), expected[name], rtol=1e-5, atol=1e-5)


def test_the_average_is_published_and_the_weights_go_on(small: Dataset, tmp_path: Path) -> None:
    made = recipe(optim=Optim(learning_rate=1e-3, average=0.9), checkpoint_every=12)
    run_training(small, tmp_path, made)
    plain = recipe(optim=Optim(learning_rate=1e-3), checkpoint_every=12)
    run_training(small, tmp_path / "plain", plain)
    last, model, without = (
        load_model(str(p)).module.state_dict()["head.weight"]
        for p in (tmp_path / "last", tmp_path / "model", tmp_path / "plain" / "model")
    )
    assert torch.equal(last, without)
    assert not torch.equal(model, last)
    state = torch.load(tmp_path / "last" / "state.pt", weights_only=True)
    assert torch.equal(state["progress"]["average"]["head.weight"], model)


def test_mean_of_models_keeps_the_counts_of_the_first(small: Dataset) -> None:
    models = [embedder(small, seed=seed) for seed in range(3)]
    for count, module in enumerate(models):
        module.register_buffer("count", torch.tensor(3 + count))
    before = [{n: v.clone() for n, v in m.state_dict().items()} for m in models]
    found = mean_of(*models)
    assert found is models[0]
    for name, value in found.state_dict().items():
        wanted = sum(state[name] for state in before) / 3 if value.is_floating_point() else before[0][name]
        torch.testing.assert_close(value, wanted)
    for module, state in zip(models[1:], before[1:], strict=True):
        assert all(torch.equal(value, state[name]) for name, value in module.state_dict().items())
