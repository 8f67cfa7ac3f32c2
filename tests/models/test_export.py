"""Exports: timm and onnxruntime give the embeddings that the model itself gives; the card says what was measured."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import timm
import torch

from fashion_dml.config import Model
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.export import model_card, onnx_bytes, timm_files
from fashion_dml.storage import UserError


def embedder(trunk: str = "tf_efficientnet_lite0", dim: int = 24, taps: tuple[int, ...] = ()) -> Embedder:
    torch.manual_seed(0)
    return Embedder(Model(trunk=trunk, weights="none", dim=dim, taps=taps), 64, 48).eval()


def photos(count: int) -> torch.Tensor:
    return torch.randint(0, 256, (count, 64, 48, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(count))


@pytest.mark.parametrize("trunk", ["tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224"])
def test_timm_gives_the_same_embeddings(trunk: str, tmp_path: Path) -> None:
    made = embedder(trunk)
    for name, data in timm_files(made).items():
        (tmp_path / name).write_bytes(data)
    loaded = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(loaded)
    assert tuple(config["input_size"]) == (3, 64, 48)
    pixels = photos(3).permute(0, 3, 1, 2).float() / 255
    mean, std = (torch.tensor(config[name]).view(1, 3, 1, 1) for name in ("mean", "std"))
    with torch.inference_mode():
        found = torch.nn.functional.normalize(loaded((pixels - mean) / std), dim=1)
        expected = made(photos(3).permute(0, 3, 1, 2))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("taps", [(), (2, 3)])
def test_onnx_gives_the_same_embeddings_for_any_number_of_photos(taps: tuple[int, ...]) -> None:
    made = embedder("test_efficientnet", taps=taps)
    session = onnxruntime.InferenceSession(onnx_bytes(made), providers=["CPUExecutionProvider"])
    for count in (1, 5):
        (found,) = session.run(["embeddings"], {"images": photos(count).numpy()})
        with torch.inference_mode():
            expected = made(photos(count).permute(0, 3, 1, 2)).numpy()
        assert found.shape == (count, 24)
        np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


def test_a_cascade_has_no_form_in_timm() -> None:
    with pytest.raises(UserError, match=r"with taps \[2, 3\] has no form that timm knows; export it as ONNX alone"):
        timm_files(embedder(taps=(2, 3)))


def test_the_card_says_what_was_measured_or_that_nothing_was() -> None:
    manifest: dict[str, Any] = {
        "name": "unified", "dim": 24, "code": "0.1.0", "steps": 1200, "images": 76_800, "seconds": 61.4, "sha256": "abc",
        "config": {"model": {"trunk": "resnet18"}},
    }  # fmt: skip
    value = {"value": 0.7, "low": 0.65, "high": 0.75}
    by = {"overall": {"R@1": value, "R@10": value, "mAP": {"value": None, "low": None, "high": None}}, "queries": 1234,
          "verticals": {"shoes": {"R@1": value}}}  # fmt: skip
    evaluation = json.loads(json.dumps({"models": {"unified": {"separate": by, "merged": by}}}))
    card = model_card(manifest, {"verticals": {"shoes": {"train": {"images": 4321}}}}, evaluation)
    assert "| separate | 1,234 | 70.0 (65.0-75.0) | 70.0 (65.0-75.0) | – |" in card
    assert "shoes 4,321" in card
    assert "1,200 steps, 76,800 images" in card
    bare = model_card(manifest, None, None)
    assert "Not measured" in bare
    assert "by vertical" not in bare
