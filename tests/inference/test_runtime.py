"""ONNX Runtime and torch give the same embeddings; where one can't be had the other is taken, and that is said."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
import torch

import fashion_dml.inference.runtime as runtime
from fashion_dml.config import Model
from fashion_dml.inference.runtime import AGREE, forward_of
from fashion_dml.models.embedder import Embedder
from fashion_dml.storage import UserError

CPU = torch.device("cpu")
TRUNKS = ("tf_efficientnet_lite0", "resnet18", "vit_tiny_patch16_224", "test_efficientnet")


def embedder(trunk: str = "test_efficientnet", taps: tuple[int, ...] = (), seed: int = 0) -> Embedder:
    torch.manual_seed(seed)
    made = Embedder(Model(trunk=trunk, weights="none", dim=24, taps=taps), 64, 48)
    with torch.no_grad():  # statistics and offsets as a trained model has: folding them must change nothing
        for name, value in made.state_dict().items():
            if name.endswith(("running_mean", "bias")):
                value.normal_(0, 0.1)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 2)
    return made.eval()


def photos(count: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, 64, 48, 3), dtype=np.uint8)


@pytest.mark.parametrize("trunk", TRUNKS)
def test_both_say_the_same(trunk: str) -> None:
    module = embedder(trunk)
    fast, plain = forward_of(module, CPU, "onnx"), forward_of(module, CPU, "torch")
    for count in (1, 2, 7):
        found, expected = fast(photos(count)), plain(photos(count))
        assert found.dtype == expected.dtype == np.float32
        assert found.shape == (count, 24)
        assert np.abs(found - expected).max() <= AGREE
    assert np.abs(plain(photos(2))[0] - plain(photos(2))[1]).max() > 1e-3


def test_auto_takes_onnx_runtime_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    made = runtime._by_onnx

    def noting(*args: Any) -> runtime.Forward:
        used.append("onnx")
        return made(*args)

    monkeypatch.setattr(runtime, "_by_onnx", noting)
    module = embedder()
    forward_of(module, CPU, "torch")
    assert used == []
    forward_of(module, CPU)
    assert used == ["onnx"]


@pytest.mark.parametrize("case", ["isn't installed", "no ONNX form", "differ from torch's"])
def test_torch_does_it_where_onnx_runtime_cannot(
    case: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    module = embedder(taps=(2, 3) if case == "no ONNX form" else ())  # pools of odd sizes can't be written the fast way
    expected = forward_of(module, CPU, "torch")(photos(2))
    if case == "isn't installed":
        monkeypatch.setattr(runtime, "PACKAGES", ("onnx", "a_package_that_nobody_has"))
    elif case == "differ from torch's":
        other = runtime.serving_graph(embedder(seed=1))
        monkeypatch.setattr(runtime, "serving_graph", lambda _: other)
    with caplog.at_level(logging.WARNING):
        found = forward_of(module, CPU)(photos(2))
    np.testing.assert_array_equal(found, expected)
    assert case in caplog.text
    with pytest.raises(UserError, match=case):
        forward_of(module, CPU, "onnx")


def test_onnx_runtime_is_for_cpus() -> None:
    with pytest.raises(UserError, match="is for CPUs here, and the device is meta"):
        runtime._by_onnx(embedder(), torch.device("meta"), 1)
