"""Fast depthwise convolutions are torch's: values, gradients, parameters, and where they don't apply."""

from __future__ import annotations

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fashion_dml.config import Model
from fashion_dml.models.depthwise import DepthwiseConv, use_fast_depthwise
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.folded import FoldingConv


def pair(channels: int, side: int, bias: bool = False) -> tuple[nn.Conv2d, nn.Conv2d]:
    torch.manual_seed(channels)
    plain = nn.Conv2d(channels, channels, side, padding=side // 2, groups=channels, bias=bias).double()
    fast = copy.deepcopy(plain)
    use_fast_depthwise(fast)
    assert type(fast) is DepthwiseConv
    return plain, fast


@settings(deadline=None, max_examples=60)
@given(
    st.integers(1, 5), st.integers(1, 6), st.integers(1, 9), st.integers(1, 8), st.sampled_from([5, 7]), st.booleans(), st.booleans()
)  # fmt: skip
def test_values_and_gradients_are_torchs(n: int, c: int, h: int, w: int, side: int, bias: bool, last: bool) -> None:
    plain, fast = pair(c, side, bias)
    x = torch.randn(n, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    if last:
        x = x.contiguous(memory_format=torch.channels_last)
    outgoing = torch.randn(n, c, h, w, dtype=torch.float64, generator=torch.Generator().manual_seed(w))
    found = []
    for conv in (plain, fast):
        leaf = x.clone().requires_grad_(True)
        y = conv(leaf)
        found.append((y, *torch.autograd.grad(y, [leaf, *conv.parameters()], outgoing)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-10)


def test_gradcheck() -> None:
    _, fast = pair(3, 5)
    x = torch.randn(2, 3, 4, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: torch.func.functional_call(fast, {"weight": w}, (x,)), (x, fast.weight))


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(4, 4, 3, padding=1, groups=4),
        nn.Conv2d(4, 4, 5, padding=2),
        nn.Conv2d(4, 8, 5, padding=2, groups=4),
        nn.Conv2d(4, 4, 5, stride=2, padding=2, groups=4),
        nn.Conv2d(4, 4, 5, padding=4, dilation=2, groups=4),
        nn.Conv2d(4, 4, 5, padding=0, groups=4),
        nn.Conv2d(4, 4, (5, 7), padding=(2, 3), groups=4),
        nn.Conv2d(4, 4, 5, padding=2, groups=4, padding_mode="reflect"),
    ],
    ids=str,
)
def test_others_stay_as_they_are(conv: nn.Conv2d) -> None:
    use_fast_depthwise(conv)
    assert type(conv) is nn.Conv2d


@pytest.mark.parametrize("case", ["large", "autocast", "frozen", "inference"])
def test_where_it_would_not_help_torch_does_it(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import fashion_dml.models.depthwise as module

    plain, fast = pair(4, 5)
    plain, fast = plain.float(), fast.float()
    fast.weight.requires_grad_(case != "frozen")
    x = torch.randn(2, 4, *((9, 9) if case == "large" else (4, 4)))
    monkeypatch.setattr(module._Depthwise, "apply", lambda *args: pytest.fail("torch was to do it"))
    with torch.autocast("cpu", torch.bfloat16, enabled=case == "autocast"), torch.set_grad_enabled(case != "inference"):
        assert torch.equal(fast(x), plain(x))


def test_a_trunk_has_them_under_the_same_names() -> None:
    model = Embedder(Model(weights="none"), 64, 48)
    fast = [name for name, m in model.trunk.named_modules() if isinstance(m, DepthwiseConv)]
    assert len(fast) == 7
    plain = Embedder(Model(weights="none"), 64, 48)
    for conv in plain.modules():
        if isinstance(conv, DepthwiseConv):
            conv.__class__ = FoldingConv
    plain.load_state_dict(model.state_dict())
    images = torch.rand(3, 3, 64, 48)
    gradients = []
    for made in (model, plain):
        made.train()
        (made(images) * torch.arange(128)).sum().backward()
        gradients.append(torch.cat([p.grad.flatten() for p in made.parameters() if p.grad is not None]))
    assert float((gradients[0] - gradients[1]).norm() / gradients[1].norm()) < 1e-5
