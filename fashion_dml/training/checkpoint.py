"""Checkpoints: everything a training needs to go on as if it had never stopped."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from typing import Any

import safetensors.torch
import torch
from torch import nn

from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import WEIGHTS, save_model
from fashion_dml.storage import Location, UserError, read_manifest, require_manifest

STATE = "state.pt"


@dataclass
class Progress:
    """What a training has done so far."""

    step: int = 0
    best: float = -1.0
    best_step: int = 0
    seconds: float = 0.0
    validations: list[dict[str, Any]] = field(default_factory=list)
    curve: dict[str, torch.Tensor] | None = None
    near: dict[str, torch.Tensor] | None = None
    average: dict[str, torch.Tensor] | None = None


def _slots(directory: Location) -> list[Location]:
    """Where a checkpoint may lie. An object store can't rename, so there two places take turns: a save in progress
    never touches the checkpoint that is to be resumed if it fails."""
    return [directory] if directory.is_local else [directory, directory.parent / f"{directory.name}-other"]


def _step(slot: Location, key: str) -> int:
    """The step of the complete checkpoint of this key in a slot; -1 if there is none."""
    manifest = read_manifest(slot)
    return int(manifest["step"]) if manifest is not None and manifest["key"] == key else -1


def save(
    directory: Location, embedder: Embedder, loss: nn.Module, optimizer: torch.optim.Optimizer, progress: Progress, key: str
) -> None:
    """Publish a checkpoint atomically: a model directory with state.pt beside the weights.

    `key` digests the settings and inputs; a checkpoint of another key isn't resumed.
    """
    buffer = io.BytesIO()
    torch.save({"optimizer": optimizer.state_dict(), "loss": loss.state_dict(), "progress": vars(progress)}, buffer)
    state = buffer.getvalue()
    slot = min(_slots(directory), key=lambda s: _step(s, key))
    save_model(slot, embedder, files={STATE: state}, key=key, step=progress.step, state=hashlib.sha256(state).hexdigest())


def load(
    directory: Location, embedder: Embedder, loss: nn.Module, optimizer: torch.optim.Optimizer, key: str
) -> Progress | None:
    """Restore a checkpoint of this key; None if there is none. Raises UserError if its files are damaged."""
    directory = max(_slots(directory), key=lambda s: _step(s, key))
    if _step(directory, key) < 0:
        return None
    manifest = require_manifest(directory, made_by="the training")
    try:
        weights, state_bytes = (directory / WEIGHTS).read_bytes(), (directory / STATE).read_bytes()
        if [hashlib.sha256(data).hexdigest() for data in (weights, state_bytes)] != [manifest["sha256"], manifest.get("state")]:
            raise ValueError("a file has another sha256 than the manifest says")
        embedder.load_state_dict(safetensors.torch.load(weights))
        state = torch.load(io.BytesIO(state_bytes), map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, ValueError, safetensors.SafetensorError) as error:
        raise UserError(
            f"The checkpoint {directory} is damaged ({type(error).__name__}); delete it to train from the start."
        ) from error
    loss.load_state_dict(state["loss"])
    optimizer.load_state_dict(state["optimizer"])
    return Progress(**state["progress"])
