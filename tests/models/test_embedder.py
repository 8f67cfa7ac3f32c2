"""The embedder: unit vectors, whitened start of the head, frozen stages and batch norm."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fashion_dml.config import Model
from fashion_dml.models.embedder import BATCH_NORMS, Embedder
from fashion_dml.models.head import CascadeHead, pca_head
from fashion_dml.storage import UserError


def tiny(**settings: object) -> Embedder:
    torch.manual_seed(0)
    return Embedder(Model(**{"trunk": "test_efficientnet", "weights": "none", "dim": 8, **settings}), 32, 32)


def images(n: int = 6, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def correlated(n: int = 400, dim: int = 12) -> torch.Tensor:
    """Features with a mean and a few directions that dominate."""
    g = torch.Generator().manual_seed(4)
    return torch.randn(n, dim, generator=g) @ torch.diag(2.0 ** -torch.arange(dim)) @ torch.randn(dim, dim, generator=g) + 3


def train_steps(embedder: Embedder, steps: int = 3) -> None:
    embedder.train()
    optimizer = torch.optim.SGD([p for p in embedder.parameters() if p.requires_grad], 0.1)
    for step in range(steps):
        optimizer.zero_grad()
        embedder(images(seed=step)).square()[:, 0].sum().backward()
        optimizer.step()


def statistics(module: nn.Module) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in module.state_dict().items() if "running" in k or "num_batches" in k}


def test_maps_to_unit_vectors_in_float32_also_under_autocast() -> None:
    embedder = tiny().eval()
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        found = embedder(images())
    assert found.shape == (6, 8)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.norm(dim=1), torch.ones(6))


def test_bytes_and_floats_are_the_same_image() -> None:
    embedder = tiny().eval()
    with torch.no_grad():
        torch.testing.assert_close(embedder(images()), embedder(images().float() / 255))


def test_headless_gives_the_trunk_s_features() -> None:
    torch.manual_seed(0)
    embedder = Embedder(Model(trunk="test_efficientnet", weights="none"), 32, 32, headless=True).eval()
    with torch.no_grad():
        features = embedder.features(images())
        assert embedder.dim == features.shape[1] == 256
        torch.testing.assert_close(embedder(images()), nn.functional.normalize(features, dim=1))


def test_pca_head_whitens() -> None:
    features = correlated()
    head = nn.Linear(12, 5)
    pca_head(head, features, shrink=0)
    with torch.no_grad():
        projected = head(features)
    torch.testing.assert_close(projected.mean(0), torch.zeros(5), atol=1e-4, rtol=0)
    torch.testing.assert_close(torch.cov(projected.T), torch.eye(5), atol=1e-3, rtol=0)


def test_pca_head_shrinks_small_directions() -> None:
    """Variance v of a kept direction becomes v / (v + shrink * mean of the kept v), so the order stays and noise is not blown up."""
    features = correlated()
    values = torch.linalg.eigvalsh(torch.cov(features.double().T)).flip(0)[:5]
    head = nn.Linear(12, 5)
    pca_head(head, features, shrink=0.1)
    with torch.no_grad():
        covariance = torch.cov(head(features).double().T)
    torch.testing.assert_close(covariance, torch.diag(values / (values + 0.1 * values.mean())), atol=1e-4, rtol=1e-3)


def test_pca_head_fixes_the_signs_of_its_directions() -> None:
    """The largest entry of every direction is positive, whatever signs the solver returns; so row order doesn't matter either."""
    features = correlated()
    one, other = nn.Linear(12, 5), nn.Linear(12, 5)
    pca_head(one, features)
    pca_head(other, features[torch.randperm(len(features), generator=torch.Generator().manual_seed(0))])
    largest = one.weight.gather(1, one.weight.abs().argmax(1, keepdim=True))
    assert (largest > 0).all()
    torch.testing.assert_close(one.weight, other.weight, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(one.bias, other.bias, rtol=1e-4, atol=1e-4)


def test_pca_head_takes_fewer_images_than_directions() -> None:
    head = nn.Linear(12, 10)
    pca_head(head, correlated(n=4))
    assert torch.isfinite(head.weight).all()
    assert head(correlated(n=4)).abs().max() < 100


def test_pca_head_refuses_more_directions_than_features() -> None:
    with pytest.raises(UserError, match=r"The head has 13 dimensions, more than the 12 features before it; lower model.dim"):
        pca_head(nn.Linear(12, 13), correlated())


def test_frozen_stages_get_no_gradient_and_do_not_move() -> None:
    embedder = tiny(frozen_stages=3)
    before = copy.deepcopy(embedder.state_dict())
    train_steps(embedder)
    frozen = [n for n, p in embedder.named_parameters() if not p.requires_grad]
    moved = [n for n, p in embedder.named_parameters() if not torch.equal(p, before[n])]
    assert frozen
    assert all(p.grad is None for p in embedder.parameters() if not p.requires_grad)
    assert not set(frozen) & set(moved)
    assert {"head.weight", "head.bias"} <= set(moved)


def test_frozen_batch_norm_keeps_its_statistics() -> None:
    embedder = tiny(batch_norm="frozen")
    before = statistics(embedder)
    train_steps(embedder)
    assert before
    assert all(torch.equal(v, before[k]) for k, v in statistics(embedder).items())


def test_live_batch_norm_learns_its_statistics() -> None:
    embedder = tiny(batch_norm="live")
    before = statistics(embedder)
    train_steps(embedder)
    assert all(not torch.equal(v, before[k]) for k, v in statistics(embedder).items())


def test_frozen_batch_norm_stays_frozen_when_training_goes_on_after_a_validation() -> None:
    embedder = tiny(batch_norm="frozen")
    embedder.eval()
    embedder.train()
    norms = [m for m in embedder.modules() if isinstance(m, BATCH_NORMS)]
    assert norms
    assert not any(m.training for m in norms)
    assert embedder.training
    assert embedder.trunk.training


@pytest.mark.parametrize("trunk", ["test_efficientnet", "resnet18", "vit_tiny_patch16_224"])
def test_a_cascade_has_levels_of_equal_length(trunk: str) -> None:
    settings = Model(trunk=trunk, weights="none", dim=24, taps=(2, 3))
    made = Embedder(settings, 32, 32).eval()
    images = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8)
    with torch.no_grad():
        features, embedded = made.features(images), made(images)
    assert features.shape == (5, sum(made.widths))
    assert made.widths[-1] == made.trunk.head_hidden_size
    assert embedded.shape == (5, 24)
    lengths = embedded.view(5, 3, 8).norm(dim=2)
    assert torch.allclose(lengths, torch.full((5, 3), 3**-0.5), atol=1e-5)
    with torch.no_grad():
        plain = made.trunk(((images.float() / 255) - made.mean) / made.std)
    assert torch.allclose(features[:, -made.widths[-1] :], plain, atol=1e-5)


def test_pca_starts_every_level_of_a_cascade_by_itself() -> None:
    head = CascadeHead([6, 10], 8)
    features = torch.randn(200, 16, generator=torch.Generator().manual_seed(0)) * torch.linspace(1, 5, 16)
    pca_head(head, features)
    for level, part in zip(head.levels, features.split([6, 10], dim=1), strict=True):
        alone = torch.nn.Linear(part.shape[1], 4)
        pca_head(alone, part)
        assert torch.equal(level.weight, alone.weight)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"taps": (3, 2), "dim": 24}, r"taps are \(3, 2\); give each level once, from the input on"),
        ({"taps": (2, 3), "dim": 128}, "dim is 128 and can't be shared equally by 3 levels"),
    ],
)
def test_cascades_that_cannot_be(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Model.model_validate(settings)


def test_a_level_that_is_not_there_is_refused() -> None:
    with pytest.raises(UserError, match=r"model\.taps names level 9, but this trunk has the levels 0 to 4"):
        Embedder(Model(trunk="test_efficientnet", weights="none", dim=24, taps=(9,)), 32, 32)
