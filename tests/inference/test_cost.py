"""What serving takes: each model once, however many verticals it serves."""

from __future__ import annotations

from pathlib import Path

import torch

from fashion_dml.config import Model
from fashion_dml.inference.cost import cost
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location


def test_every_model_is_counted_once(tmp_path: Path) -> None:
    models = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        save_model(
            Location.of(tmp_path / str(seed)), Embedder(Model(trunk="test_efficientnet", weights="none", dim=16), 32, 32)
        )
        models.append(str(tmp_path / str(seed)))
    one, both = cost(models[:1] * 3, 32, 32), cost([*models, models[0]], 32, 32)
    module = load_model(models[0]).module
    assert one.parameters == sum(p.numel() for p in module.parameters())
    stored = sum(v.numel() * v.element_size() for v in module.state_dict().values())
    assert stored <= one.bytes <= stored + 100  # and mean and deviation of the pixels
    assert (one.models, both.models) == (1, 2)
    assert (both.parameters, both.bytes) == (2 * one.parameters, 2 * one.bytes)
    assert one.ms_per_image > 0
    assert cost(["color-histogram"], 32, 32).parameters == 0
