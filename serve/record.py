"""What is noted of the request that is at work, for its log line and for metrics; no query, vector or token ever."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from serve.metrics import BATCH_IMAGES, FORWARD_SECONDS, LAG, PARTIAL, REFUSALS, SEARCHES, STAGE_SECONDS


@dataclass
class Record:
    """Attributes: more, what the log line says besides method, route, status and milliseconds."""

    request_id: str
    code: str = ""
    more: dict[str, Any] = field(default_factory=dict)


CURRENT: ContextVar[Record | None] = ContextVar("fashion_dml_request", default=None)


def request_id() -> str | None:
    """Of the request at work; None outside one."""
    record = CURRENT.get()
    return record.request_id if record else None


def refused(code: str) -> None:
    """An error body of this code is the answer."""
    REFUSALS.add(code)
    if (record := CURRENT.get()) is not None:
        record.code = code


def searched(
    sources: Sequence[object], seconds: Mapping[str, float], coverage: float, *, known: int, reached: int, index: str
) -> None:
    """A search was answered, or a batch of them: by these images, items and vectors.

    seconds: by stage, 0 where a stage wasn't needed; known: the newest commit known, reached: the one the answer is of.
    """
    for source in sources:
        SEARCHES.add(
            "image" if isinstance(source, bytes) else "item" if source is None or isinstance(source, str) else "vector"
        )
    for stage, spent in seconds.items():
        if spent > 0:
            STAGE_SECONDS.observe(spent, stage)
    if coverage < 1:
        PARTIAL.add()
    LAG.set(max(0, known - reached))
    if (record := CURRENT.get()) is not None:
        stages = {stage: round(spent * 1000, 2) for stage, spent in seconds.items()}
        record.more |= {"stages": stages, "index": index, "catalog": reached, "coverage": coverage}


def embedded(images: int, seconds: float) -> None:
    """A forward pass ended, in an encoder replica. Serve pickles that module by value, so it can't hold metrics itself."""
    BATCH_IMAGES.observe(images)
    FORWARD_SECONDS.observe(seconds)
