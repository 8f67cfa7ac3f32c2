"""A model directory: model.safetensors, config.json, manifest.json; and the names that stand for ready models."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import safetensors.torch
from safetensors import SafetensorError

from fashion_dml.config import Model
from fashion_dml.models.embedder import Embedder
from fashion_dml.storage import Location, UserError, publish, read_manifest, write_manifest

WEIGHTS = "model.safetensors"
CONFIG = "config.json"


@dataclass(frozen=True)
class LoadedModel:
    """A model in eval mode with what identifies it; `sha256` is of its weights file."""

    module: Embedder
    sha256: str
    dim: int
    height: int
    width: int


def model_config(embedder: Embedder) -> dict[str, Any]:
    """What is needed to build the module again before its weights are loaded."""
    return {
        "model": embedder.settings.model_dump(mode="json"),
        "height": embedder.height,
        "width": embedder.width,
        "dim": embedder.dim,
    }


def weights_bytes(module: Embedder) -> bytes:
    """The module's tensors as safetensors."""
    return safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in module.state_dict().items()})


def save_model(
    directory: Location, embedder: Embedder, *, config: Any = None, inputs: dict[str, str] | None = None,
    files: dict[str, bytes] | None = None, seconds: float = 0.0, **more: Any,
) -> str:  # fmt: skip
    """Publish a model directory atomically, with further `files` in it; returns the sha256 of its weights."""
    weights = weights_bytes(embedder)
    digest = hashlib.sha256(weights).hexdigest()
    with publish(directory) as draft:
        (draft / WEIGHTS).write_bytes(weights)
        (draft / CONFIG).write_json(model_config(embedder))
        for name, data in (files or {}).items():
            (draft / name).write_bytes(data)
        write_manifest(
            draft, kind="model", config=config, inputs=inputs or {}, seconds=seconds, sha256=digest, dim=embedder.dim, **more
        )  # fmt: skip
    return digest


def load_model(model: str | Location, *, height: int = 128, width: int = 96) -> LoadedModel:
    """A model directory, or `timm:NAME` (pooled ImageNet features at height x width). Raises UserError.

    The weights of a directory must have the sha256 that its manifest names. `timm:NAME@FILE.safetensors` takes the
    trunk's weights from a file, where there is no hub.
    """
    if isinstance(model, str) and model.startswith("timm:"):
        name, _, file = model.removeprefix("timm:").partition("@")
        settings = Model(trunk=name, weights=file or "auto")
        pretrained = Embedder(settings, height, width, headless=True).eval()
        digest = hashlib.sha256(weights_bytes(pretrained) + f"{height}x{width}".encode()).hexdigest()
        return LoadedModel(pretrained, digest, pretrained.dim, height, width)
    directory = Location.of(model)
    manifest = read_manifest(directory)
    if manifest is None or manifest.get("kind") != "model":
        raise UserError(
            f"{str(model)!r} is no model: give a directory with {WEIGHTS} and a manifest, timm:NAME, or color-histogram."
        )
    try:
        weights = (directory / WEIGHTS).read_bytes()
        config = (directory / CONFIG).read_json()
    except (FileNotFoundError, ValueError) as error:
        raise UserError(f"The model {directory} is damaged ({type(error).__name__}); restore or train it again.") from error
    digest = hashlib.sha256(weights).hexdigest()
    if digest != manifest["sha256"]:
        raise UserError(
            f"{directory / WEIGHTS} has sha256 {digest[:12]}..., its manifest says {manifest['sha256'][:12]}...: restore or train it again."
        )
    settings = Model(**{**config["model"], "weights": "none"})
    embedder = Embedder(settings, config["height"], config["width"])
    try:
        embedder.load_state_dict(safetensors.torch.load(weights))
    except (SafetensorError, RuntimeError) as error:
        raise UserError(
            f"The weights in {directory} don't fit its config.json ({type(error).__name__}); train it again."
        ) from error
    embedder.settings = Model(**config["model"])
    return LoadedModel(embedder.eval(), digest, embedder.dim, embedder.height, embedder.width)
