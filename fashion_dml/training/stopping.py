"""How a run is stopped so that nothing is lost: trainings look whether they are asked to save, or to save and stop."""

from __future__ import annotations

from typing import Literal

Ask = Literal["", "save", "stop"]
"""What a training is asked for between two steps: nothing, a checkpoint, or a checkpoint and an end."""


class Stopped(BaseException):
    """The run was asked to stop before its end; what it has done is kept. Like KeyboardInterrupt, no `except Exception` holds it up."""


def nobody_asks() -> Ask:
    """Of a training that nobody can stop."""
    return ""
