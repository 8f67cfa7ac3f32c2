"""How a training worker's memory is kept, on Linux."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # malloc.h
LARGEST = 1 << 30


def keep_freed_memory() -> bool:
    """Make glibc keep what is freed for the next step; returns whether it does so.

    By itself it maps every tensor of 32 MiB and more anew and hands it back when freed: each step of a training on a CPU has
    all its activations mapped in again, page by page. Where there is no glibc, nothing changes.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, LARGEST)) and bool(mallopt(M_TRIM_THRESHOLD, LARGEST))
