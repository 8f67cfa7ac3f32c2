"""What the service's tests share."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Photo:
    """One stored image of the dataset."""

    item_id: str
    product_id: str
    vertical: str
    data: bytes


def until(true: Callable[[], Any], seconds: float = 60.0) -> Any:
    """Poll until `true()` is; its value."""
    end = time.monotonic() + seconds
    while not (value := true()):
        assert time.monotonic() < end, f"still not true after {seconds} s"
        time.sleep(0.05)
    return value
