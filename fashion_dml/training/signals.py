"""SIGTERM to a job (`ray job stop` sends it) and notice that a node is leaving, on their way to the trainings of a run."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import Any

import ray

from fashion_dml.training.stopping import Ask, Stopped

LOOK_SECONDS = 0.5
STOP_SECONDS = 50  # that a job waits for its trainings to save: less than the 60 after which Ray kills it, by our cluster files


class Listener:
    """Tells a training on this worker what its run asks for, without making a step wait: a thread looks.

    A node that is about to leave, as spot nodes do, makes every training save once: which ones it takes along isn't known here.
    """

    def __init__(self, queue: Any) -> None:
        self._queue, self._ask = queue, threading.Event()
        self._stop = False
        threading.Thread(target=self._listen, daemon=True).start()

    def __call__(self) -> Ask:
        if self._stop:
            return "stop"
        if self._ask.is_set():
            self._ask.clear()
            return "save"
        return ""

    def _listen(self) -> None:
        leaving: set[str] = set()
        while not self._stop:
            try:
                self._stop = ray.get(self._queue.asks.remote()) == "stop"
            except ray.exceptions.RayError:  # the queue has gone, and with it the job
                return
            now = set(ray._private.state.state.get_draining_nodes())
            if now - leaving:
                self._ask.set()
            leaving = now
            time.sleep(LOOK_SECONDS)


@contextlib.contextmanager
def stops_gently(queue: Any) -> Iterator[None]:
    """SIGTERM meanwhile asks the trainings that a Queue hands out to save and stop; raises Stopped when they have.

    A second signal, or STOP_SECONDS without an end, or a run that no worker has joined yet, ends the process at once.
    """
    if threading.current_thread() is not threading.main_thread():  # signals are the main thread's
        yield
        return
    asked, over = threading.Event(), threading.Event()

    def handle(*_: Any) -> None:
        if asked.is_set():
            raise Stopped("the run was asked to stop, and did at once; its last checkpoints are kept")
        asked.set()

    def relay() -> None:  # not in the handler, which may interrupt Ray anywhere
        asked.wait()
        if not over.is_set() and not (ray.get(queue.stop.remote()) and over.wait(STOP_SECONDS)):
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, handle)
    relaying = threading.Thread(target=relay, daemon=True)
    relaying.start()
    try:
        yield
        if asked.is_set():
            _, ended = ray.get(queue.state.remote())
            raise Stopped(f"the run was asked to stop; {len(ended)} trainings have ended, the others have written checkpoints")
    finally:
        over.set()
        asked.set()
        relaying.join()
        signal.signal(signal.SIGTERM, before)
