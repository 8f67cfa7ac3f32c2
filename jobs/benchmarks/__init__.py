"""What `jobs.benchmark` can measure: one file a subject, each returning rows of a fixed shape."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Row:
    """One figure. `name` is stable over time; `goal` is what we aim at, `better` which way."""

    name: str
    value: float
    unit: str
    goal: float | None
    better: Literal["lower", "higher"]
