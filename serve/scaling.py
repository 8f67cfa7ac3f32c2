"""From settings to what Serve calls a deployment's replicas, its autoscaling and its log."""

from __future__ import annotations

from typing import Any

from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.schema import LoggingConfig

from fashion_dml.config import Serve
from serve.errors import RETRY_AFTER_S

LOGGING = LoggingConfig(encoding="JSON", enable_access_log=False)  # the ingress writes a line a request itself
BACKPRESSURE = BackpressureConfig(status_code=503, retry_after_s=RETRY_AFTER_S)


def fewest(replicas: int | tuple[int, int]) -> int:
    """Replicas that are always there."""
    return replicas if isinstance(replicas, int) else replicas[0]


def most(replicas: int | tuple[int, int]) -> int:
    """Replicas that there may be."""
    return replicas if isinstance(replicas, int) else replicas[1]


def replica_options(replicas: int | tuple[int, int], target: float, settings: Serve) -> dict[str, Any]:
    """Options of a deployment: a number of replicas, or as many as keep each near `target` requests at work or waiting."""
    if isinstance(replicas, int):
        return {"num_replicas": replicas}
    return {
        "autoscaling_config": AutoscalingConfig(
            min_replicas=replicas[0], max_replicas=replicas[1], target_ongoing_requests=target,
            upscale_delay_s=settings.scale_up_s, downscale_delay_s=settings.scale_down_s,
        )
    }  # fmt: skip
