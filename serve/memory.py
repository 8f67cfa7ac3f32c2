"""How an ingress replica's memory is given back, on Linux."""

from __future__ import annotations

import ctypes
import sys

M_MMAP_THRESHOLD = -3  # malloc.h
LARGE = 4 << 20  # bytes; photos of phones and bodies with them, not the small images of most searches


def give_back_large_blocks() -> bool:
    """Make glibc return what is LARGE as soon as it is freed; returns whether it does so.

    By itself it raises that bound to 32 MiB once such a block was freed, and keeps what is smaller in the heap of the thread: after
    some hundred large requests a process holds 200 MB more, for good. Where there is no glibc, nothing changes.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    return mallopt is not None and bool(mallopt(M_MMAP_THRESHOLD, LARGE))
