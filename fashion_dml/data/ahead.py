"""Work done ahead of its use, in one thread."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def ahead(source: Iterator[Any], work: Callable[[Any], Any], count: int) -> Generator[Any]:
    """work(item) for every item, in order, computed in one thread up to `count` results before they are asked for."""
    ready: queue.Queue[tuple[bool, object]] = queue.Queue(maxsize=max(1, count))
    stop = threading.Event()

    def put(item: tuple[bool, object]) -> bool:
        while not stop.is_set():
            try:
                ready.put(item, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            for item in source:
                if not put((True, work(item))):
                    return
            put((False, None))
        except BaseException as error:  # handed to the consumer, which raises it
            put((False, error))

    with ThreadPoolExecutor(1, thread_name_prefix="stream") as pool:
        pool.submit(run)
        try:
            while True:
                more, value = ready.get()
                if more:
                    yield value
                elif isinstance(value, BaseException):
                    raise value
                else:
                    return
        finally:
            stop.set()
