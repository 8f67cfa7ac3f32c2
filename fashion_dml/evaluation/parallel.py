"""Panels of queries in threads, each of which computes alone.

Torch would share every operation among its threads and wait for all of them after each; a panel has dozens of short operations,
some of which only one thread can do. Whole panels in threads of their own wait for nothing, also beside other processes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    import torch

P = TypeVar("P")
R = TypeVar("R")


def threads_of(device: torch.device) -> int:
    """As many as torch may use on the CPU; elsewhere the device is the parallel one."""
    import torch

    return torch.get_num_threads() if device.type == "cpu" else 1


def in_threads(work: Callable[[P], R], panels: Sequence[P], threads: int) -> Iterator[R]:
    """work(panel) of every panel, in order, at most `threads` at a time; torch uses one thread in each."""
    import torch

    def alone(panel: P) -> R:
        # Buffers are kept from panel to panel and may be written in this mode only, which a new thread isn't in.
        with torch.inference_mode():
            return work(panel)

    if threads == 1 or len(panels) < 2:
        yield from map(alone, panels)
        return
    try:
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            yield from pool.map(alone, panels)
    finally:
        torch.set_num_threads(threads)  # what threads to come start with; this thread's number hasn't changed


class Buffers(threading.local):
    """Tensors that a thread uses again for every panel: fresh memory would cost more than the product."""

    def __init__(self) -> None:
        self._held: dict[str, torch.Tensor] = {}

    def get(self, name: str, rows: int, columns: int, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """An uninitialised tensor [rows, columns]; the same memory for the same name, if it suffices."""
        import torch

        held = self._held.get(name)
        if held is None or len(held) < rows:
            held = self._held[name] = torch.empty(rows, columns, dtype=dtype, device=device)
        return held[:rows]


@contextmanager
def full_precision() -> Iterator[None]:
    """A training job may have allowed TF32 or bfloat16 products, whose errors of 1e-3 would be far above TIE."""
    import torch

    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)
