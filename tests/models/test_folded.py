"""Folded norms are the layers they replace: values, gradients, names; and what can't be folded is left."""

from __future__ import annotations

import copy
import pickle

import pytest
import timm
import torch
from torch import Tensor, nn

from fashion_dml.config import Model
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.folded import CONVS, NORMS, FoldingConv, fold_norms

TRUNKS = {"tf_efficientnet_lite0": 49, "test_efficientnet": 13, "resnet18": 20, "mobilenetv3_small_050": 34}


def with_statistics(module: nn.Module) -> nn.Module:
    """The module in double, frozen, its norms with statistics and parameters of their own."""
    torch.manual_seed(3)
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.uniform_(part.bias, -0.5, 0.5)
            part.running_mean.uniform_(-0.5, 0.5)
            part.running_var.uniform_(0.5, 2)
    return module.double().eval()


def results(module: nn.Module, x: Tensor) -> list[Tensor]:
    leaf = x.clone().requires_grad_(True)
    y = module(leaf)
    weights = torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y)
    return [y, *torch.autograd.grad((y * weights).sum(), [leaf, *module.parameters()])]


def same(folded: nn.Module, plain: nn.Module, x: Tensor) -> None:
    for one, other in zip(results(folded, x), results(plain, x), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9 * max(1.0, float(other.detach().abs().max())))


@pytest.mark.parametrize("name", TRUNKS)
def test_values_and_gradients_are_those_of_both_layers(name: str) -> None:
    plain = with_statistics(timm.create_model(name, num_classes=0))
    folded = copy.deepcopy(plain)
    assert fold_norms(folded) == TRUNKS[name] == sum(isinstance(m, nn.BatchNorm2d) for m in plain.modules())
    x = torch.randn(2, 3, 40, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    same(folded, plain, x)
    same(pickle.loads(pickle.dumps(copy.deepcopy(folded))), plain, x)


def test_names_and_values_of_the_state_stay() -> None:
    plain = with_statistics(timm.create_model("test_efficientnet", num_classes=0))
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    assert list(folded.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in folded.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_a_bias_of_the_convolution_is_normalised_too() -> None:
    plain = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))
    folded = copy.deepcopy(plain)
    assert fold_norms(folded) == 1
    same(folded, plain, torch.randn(2, 3, 6, 5, dtype=torch.float64))


def test_statistics_of_the_batch_are_not_folded() -> None:
    plain = with_statistics(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))).train()
    folded = copy.deepcopy(plain)
    fold_norms(folded)
    same(folded, plain, torch.randn(2, 3, 6, 5, dtype=torch.float64))
    assert torch.equal(folded[1].running_mean, plain[1].running_mean)
    assert not any(type(m) in CONVS.values() for m in Embedder(Model(weights="none", batch_norm="live"), 32, 32).modules())


class Twice(nn.Module):
    """The convolution's output is read beside the norm, too."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        found: Tensor = self.norm(y) + y
        return found


class Again(Twice):
    """The same layers are used a second time."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(self.norm(self.conv(x))))  # type: ignore[no-any-return]


class ByValue(Twice):
    """What it does depends on the photos, so that no graph can be made."""

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x if x.sum() > 0 else -x))  # type: ignore[no-any-return]


@pytest.mark.parametrize("kind", [Twice, Again, ByValue])
def test_what_can_not_be_folded_is_left(kind: type[nn.Module]) -> None:
    module = kind()
    assert fold_norms(module) == 0
    assert type(module.conv) is nn.Conv2d


def test_an_embedder_with_frozen_norms_folds_all_of_them() -> None:
    embedder = Embedder(Model(weights="none"), 32, 32)
    assert all(type(m) in NORMS.values() for m in embedder.modules() if isinstance(m, nn.BatchNorm2d))
    assert any(type(m) is FoldingConv for m in embedder.modules())


def test_a_tapped_trunk_is_left_since_a_level_may_lie_before_a_norm() -> None:
    torch.manual_seed(0)
    embedder = Embedder(Model(trunk="ghostnet_100", weights="none", taps=(0, 2), dim=96), 64, 48).eval()
    assert not any(type(m) in CONVS.values() for m in embedder.modules())
    folded = copy.deepcopy(embedder)
    assert fold_norms(folded.trunk) > 0
    images = torch.rand(2, 3, 64, 48)
    assert not torch.allclose(folded.features(images), embedder.features(images))  # what would have come of it
