"""What a process holds open of several: opened once when first asked for, let go when others are used instead."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Generic, TypeVar

V = TypeVar("V")
AGAIN_S = 5.0  # between two tries to open what can't be: each may read whole files, and every search asks for it


class NotHeld(Exception):
    """The actor hasn't opened this index version: `prepare` opens it.

    Not in shard_actor.py: what Serve pickles by value is another class in each process, which no `except` knows.
    """


class Held(Generic[V]):
    """Values by name. One that nobody has asked for in `keep_s` seconds goes when another is opened or asked for; the one asked for
    last stays. Several threads may use it; what `make` raises reaches whoever asked, in the next AGAIN_S seconds too."""

    def __init__(self, make: Callable[[str], V], keep_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._make, self._keep_s, self._clock = make, keep_s, clock
        self._values: dict[str, V] = {}
        self._used: dict[str, float] = {}
        self._failed: dict[str, tuple[float, Exception]] = {}
        self._opening = threading.Lock()

    def get(self, name: str) -> V | None:
        """The value, if it is open."""
        value = self._values.get(name)
        if value is not None:
            self._used[name] = self._clock()
            if len(self._values) > 1:
                self._let_go(name)
        return value

    def open(self, name: str) -> V:
        """The value, opened now if it isn't: others can be used meanwhile."""
        with self._opening:
            value = self.get(name)
            if value is None:
                value = self._values[name] = self._made(name)
                self._used[name] = self._clock()
            return value

    def _made(self, name: str) -> V:
        when, failure = self._failed.pop(name, (-float("inf"), None))
        if failure is not None and self._clock() - when < AGAIN_S:
            self._failed[name] = when, failure
            raise failure.with_traceback(None)  # else it grows by each time that it is raised
        try:
            return self._make(name)
        except Exception as error:
            self._failed[name] = self._clock(), error
            raise

    def names(self) -> list[str]:
        return list(self._values)

    def _let_go(self, but: str) -> None:
        now = self._clock()
        for name in [n for n in list(self._values) if n != but and now - self._used.get(n, now) > self._keep_s]:
            self._values.pop(name, None)
            self._used.pop(name, None)
