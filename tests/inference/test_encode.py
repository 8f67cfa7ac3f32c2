"""The encoder: what the service, the embedding actors and the tests turn photos into vectors with."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import encoded, photo

from fashion_dml.config import Model
from fashion_dml.data.decode import UnreadableImage, decode
from fashion_dml.evaluation.color_histogram import color_histogram
from fashion_dml.inference.encode import Encoder, model_version
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location, UserError


@pytest.fixture
def model(tmp_path: Path) -> str:
    torch.manual_seed(0)
    save_model(Location.of(tmp_path / "model"), Embedder(Model(trunk="test_efficientnet", weights="none", dim=16), 48, 32))
    return str(tmp_path / "model")


def photos(n: int) -> list[bytes]:
    return [encoded(photo(i, 60 + i, 40)) for i in range(n)]


def test_vectors_are_those_of_the_module(model: str) -> None:
    encoder = Encoder(model)
    assert (encoder.dim, encoder.height, encoder.width) == (16, 48, 32)
    data = photos(3)
    pixels = np.stack([decode(d, 48, 32) for d in data])
    torch.manual_seed(0)
    module = Embedder(Model(trunk="test_efficientnet", weights="none", dim=16), 48, 32).eval()
    with torch.inference_mode():
        expected = module(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
    found = encoder.encode(data)
    assert found.dtype == np.float32
    assert found.flags["C_CONTIGUOUS"]
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("name", ["model", "color-histogram"])
def test_mirror_takes_both_sides_of_a_photo(name: str, model: str) -> None:
    encoder = Encoder(model if name == "model" else name, height=48, width=32)
    pixels = np.stack([decode(d, 48, 32) for d in photos(3)])
    turned = np.ascontiguousarray(pixels[:, :, ::-1])
    both = encoder.embed(pixels) + encoder.embed(turned)
    found = encoder.embed(pixels, mirror=True)
    np.testing.assert_allclose(found, both / np.linalg.norm(both, axis=1, keepdims=True), atol=1e-5)
    np.testing.assert_allclose(encoder.embed(turned, mirror=True), found, atol=1e-5)


@pytest.mark.parametrize("name", ["model", "color-histogram"])
def test_a_vector_does_not_depend_on_its_company(name: str, model: str) -> None:
    encoder = Encoder(model if name == "model" else name, height=48, width=32)
    data = photos(9)
    together = encoder.encode(data)
    alone = np.concatenate([encoder.encode([d]) for d in data])
    turned = encoder.encode(data[::-1])[::-1]
    assert np.abs(together - alone).max() <= 1e-5
    assert np.abs(together - turned).max() <= 1e-5
    assert np.abs(together[0] - together[1]).max() > 1e-3  # though different photos differ


def test_color_histogram() -> None:
    encoder = Encoder("color-histogram", height=40, width=30)
    data = photos(2)
    pixels = np.stack([decode(d, 40, 30) for d in data])
    found = encoder.encode(data)
    assert found.shape == (2, encoder.dim)
    np.testing.assert_array_equal(found, color_histogram(pixels))
    assert encoder.sha256 != Encoder("color-histogram", height=30, width=30).sha256


def test_versions_are_known_without_loading_the_weights(model: str) -> None:
    """The version is that of the manifest: reading it must not need the weights."""
    expected = hashlib.sha256((Path(model) / "model.safetensors").read_bytes()).hexdigest()
    assert Encoder(model).sha256 == model_version(model, 128, 96) == expected
    (Path(model) / "model.safetensors").unlink()
    assert model_version(model, 128, 96) == expected
    assert model_version("color-histogram", 48, 32) == Encoder("color-histogram", height=48, width=32).sha256


def test_version_follows_a_directory_that_gets_another_model(model: str) -> None:
    before = model_version(model, 128, 96)
    torch.manual_seed(1)
    save_model(Location.of(model), Embedder(Model(trunk="test_efficientnet", weights="none", dim=16), 48, 32))
    assert model_version(model, 128, 96) == Encoder(model).sha256 != before


def test_unreadable_bytes_are_refused(model: str) -> None:
    with pytest.raises(UnreadableImage):
        Encoder(model).encode([*photos(1), b"no photo"])


@pytest.mark.parametrize("given", ["/nowhere", "timm:nonsense", ""])
def test_what_is_no_model_is_refused(given: str) -> None:
    for use in (lambda: Encoder(given), lambda: model_version(given, 48, 32)):
        with pytest.raises(UserError):
            use()
