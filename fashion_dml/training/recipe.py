"""What one training depends on, and whether it is done. Without torch: settings are checked and listed in processes that train nothing."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from fashion_dml.config import Augment, Data, Optim, Tracking
from fashion_dml.storage import Location, read_manifest


@dataclass(frozen=True)
class Recipe:
    """Everything a training depends on beside its data; `key` digests it with the inputs.

    tracking is no part of the key. refresh: steps between looks at where products are, for batches of hard classes.
    """

    name: str
    steps: int
    seed: int
    optim: Optim
    augment: Augment
    data: Data
    validate_every: int
    checkpoint_every: int
    keep: str
    key: str
    config: dict[str, Any]
    inputs: dict[str, str]
    refresh: int = 1
    tracking: Tracking = field(default_factory=Tracking)


def finished(output: Location, key: str) -> dict[str, Any] | None:
    """The manifest of a training that is complete and unchanged, else None."""
    manifest = read_manifest(output / "model")
    return manifest if manifest is not None and manifest.get("key") == key else None
