"""Which model a name stands for, without loading it where its manifest tells; without torch then."""

from __future__ import annotations

import hashlib
from functools import lru_cache

from fashion_dml.storage import Location, read_manifest

HISTOGRAM = "color-histogram"


def _loaded_version(model: str, height: int, width: int) -> str:
    from fashion_dml.models.store import load_model  # torch: a manifest says it without

    return load_model(model, height=height, width=width).sha256


_hub_version = lru_cache(maxsize=64)(_loaded_version)


def model_version(model: str, height: int, width: int) -> str:
    """What `Encoder(model).sha256` will be, without loading a model directory's weights. Raises UserError if it is none."""
    if model == HISTOGRAM:
        return hashlib.sha256(f"{HISTOGRAM} {height}x{width}".encode()).hexdigest()
    if model.startswith("timm:"):
        return _hub_version(model, height, width)
    manifest = read_manifest(Location.of(model))  # not cached: a directory may hold another model later
    if manifest is None or manifest.get("kind") != "model":
        return _loaded_version(model, height, width)
    return str(manifest["sha256"])
