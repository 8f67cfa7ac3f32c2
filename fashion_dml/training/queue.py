"""Who trains what next: the state behind the actor that hands out trainings to teams."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fashion_dml.training.assignments import INITIAL, Assignment
from fashion_dml.training.stopping import Ask


class Queue:
    """Hands out trainings. After a restart of the workers every team asks anew; finished ones are passed over by name."""

    def __init__(self, todo: Sequence[Assignment] = (), together: Sequence[Assignment] = ()) -> None:
        """together: trainings of all workers as one team, in this order and before all others."""
        self._todo, self._together = list(todo), list(together)
        self._ended: dict[str, str | None] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self._stopping, self._heard = False, False
        self.restart()

    def restart(self) -> None:
        self._given: dict[tuple[int | None, int], Assignment | None] = {}

    def take(self, team: int | None, turn: int) -> Assignment | None:
        """The `turn`-th training of a team, None for all workers as one; every worker of the team gets the same answer.

        Nothing new where what others start from failed, or after stop.
        """
        if any(self._ended.get(name) is not None for name in (INITIAL, *(a.name for a in self._together))):
            return None
        if (team, turn) not in self._given:
            running = {a.name for a in self._given.values() if a is not None and a.name not in self._ended}
            wanted = self._together if team is None else self.wanted(len(running))
            open_ones = (a for a in wanted if a.name not in running and a.name not in self._ended)
            self._given[team, turn] = None if self._stopping else next(open_ones, None)
        return self._given[team, turn]

    def wanted(self, running: int) -> Sequence[Assignment]:
        """What is to be trained, most wanted first; `running` trainings, which may be among it, have begun."""
        return self._todo

    def report(self, progress: dict[str, Any]) -> None:
        self._progress[progress["name"]] = progress

    def end(self, name: str, failure: str | None) -> None:
        self._ended[name] = failure

    def stop(self) -> bool:
        """Ask all trainings to save and stop; whether any worker has been heard of, so that there is something to wait for."""
        self._stopping = True
        return self._heard

    def asks(self) -> Ask:
        """What the workers are asked for; they look every second or so."""
        self._heard = True
        return "stop" if self._stopping else ""

    def heard(self) -> bool:
        """Whether a worker has begun."""
        return self._heard

    def state(self) -> tuple[dict[str, dict[str, Any]], dict[str, str | None]]:
        """Latest progress of each training, and how each one that ended did: None is well, else why not."""
        return self._progress, self._ended
