"""What it takes to serve models: weights to hold, and time for an image."""

from __future__ import annotations

import statistics
import time
from collections.abc import Collection
from dataclasses import dataclass

import numpy as np

from fashion_dml.inference.encode import Encoder

IMAGES, PASSES = 32, 5


@dataclass(frozen=True)
class Cost:
    """models: how many must be in memory; parameters and bytes: of all of them; ms_per_image: of one, in passes of 32."""

    models: int
    parameters: int
    bytes: int
    ms_per_image: float


def cost(models: Collection[str], height: int, width: int) -> Cost:
    """The cost of serving these models, an image by one of them. The time is this machine's, median of five passes."""
    encoders = [Encoder(model, height=height, width=width) for model in sorted(set(models))]
    sizes = [encoder.size() for encoder in encoders]
    one = encoders[0]
    pixels = np.zeros((IMAGES, one.height, one.width, 3), np.uint8)
    one.embed(pixels)
    seconds = []
    for _ in range(PASSES):
        began = time.perf_counter()
        one.embed(pixels)
        seconds.append(time.perf_counter() - began)
    return Cost(len(encoders), sum(p for p, _ in sizes), sum(b for _, b in sizes), 1000 * statistics.median(seconds) / IMAGES)
