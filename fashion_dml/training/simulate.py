"""A run of trainings on teams, simulated: who trains what when, and what it costs that some things are shared.

The rules are those of the real run. Teams take trainings from a queue, longest first (`training/queue.py`); a training is a
few phases, one after the other; a phase takes its own seconds unless what it uses meanwhile is scarce. A shared resource
(cores, bytes/s of a link) is divided max-min fairly: who asks for less than an equal part gets what it asks for, the others
share the rest. A phase that gets half of what it uses at full speed runs at half speed. Pure Python: no Ray, no clock.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from fashion_dml.storage import UserError

Uses = Mapping[str, float]


@dataclass(frozen=True)
class Phase:
    """Work of one team.

    seconds: how long it takes with nothing in its way. uses: how much of each shared resource it takes meanwhile, a second.
    busy: seconds in which devices compute, summed over the team's devices.
    """

    seconds: float
    uses: Uses = field(default_factory=dict)
    busy: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.seconds < float("inf") or self.busy < 0 or any(use < 0 for use in self.uses.values()):
            raise UserError(
                f"A phase takes {self.seconds} s, {self.busy} s of a device and {dict(self.uses)}: costs can't be negative."
            )


@dataclass(frozen=True)
class Job:
    """One training. size: what the queue sorts by (images); first: phases before `work` on a team that hasn't trained yet,
    later: on one that has."""

    name: str
    size: float
    work: tuple[Phase, ...]
    first: tuple[Phase, ...] = ()
    later: tuple[Phase, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """makespan: seconds from the first training's begin to the last one's end; ends: seconds by name; busy: device seconds."""

    makespan: float
    ends: dict[str, float]
    busy: float


class _Team:
    """A team at work: the phases that are left of its training, and seconds (at full speed) of the first of them."""

    def __init__(self) -> None:
        self.fresh, self.name = True, ""
        self.phases: list[Phase] = []
        self.left = 0.0

    def take(self, job: Job) -> None:
        self.name = job.name
        self.phases = [*(job.first if self.fresh else job.later), *job.work]
        self.fresh = False
        self.left = self.phases[0].seconds if self.phases else 0.0

    def next_phase(self) -> bool:
        """Whether there is one."""
        self.phases = self.phases[1:]
        self.left = self.phases[0].seconds if self.phases else 0.0
        return bool(self.phases)


def simulate(jobs: Sequence[Job], teams: int, capacity: Uses) -> Outcome:
    """The run of `jobs` on `teams` teams; capacity: of each shared resource, a second. What isn't named there is plentiful."""
    if teams < 1:
        raise UserError(f"{teams} teams train nothing; give at least 1.")
    if scarce := [name for name, amount in capacity.items() if not amount > 0]:
        raise UserError(f"The capacity of {scarce[0]} is {capacity[scarce[0]]}; give more than 0.")
    queue = sorted(jobs, key=lambda job: (-job.size, job.name))[::-1]
    now, ends = 0.0, {}
    active: list[_Team] = []
    for _ in range(min(teams, len(queue))):
        active.append(_Team())
        active[-1].take(queue.pop())
    while active:
        speeds = _speeds([team.phases[0].uses if team.phases else {} for team in active], capacity)
        waits = [team.left / speed for team, speed in zip(active, speeds, strict=True)]
        passed = min(waits)
        now += passed
        for team, speed, wait in zip(list(active), speeds, waits, strict=True):
            team.left = 0.0 if wait <= passed * (1 + 1e-12) else team.left - passed * speed
            if team.left > 0 or team.next_phase():
                continue
            ends[team.name] = now
            if queue:
                team.take(queue.pop())
            else:
                active.remove(team)
    busy = sum(phase.busy for job in jobs for phase in job.work)
    return Outcome(now, ends, busy)


def fair(asked: Sequence[float], capacity: float) -> list[float]:
    """Max-min fair parts of a capacity: nobody gets more than asked, and nobody could get more without one who has less."""
    parts, left = [0.0] * len(asked), capacity
    for rank, i in enumerate(sorted(range(len(asked)), key=lambda i: asked[i])):
        parts[i] = min(asked[i], left / (len(asked) - rank))
        left -= parts[i]
    return parts


def _speeds(uses: Sequence[Uses], capacity: Uses) -> list[float]:
    """How fast each phase runs, 1 being full speed: what it gets of its scarcest resource over what it uses."""
    speeds = [1.0] * len(uses)
    for name, amount in capacity.items():
        asked = [use.get(name, 0.0) for use in uses]
        for i, part in enumerate(fair(asked, amount)):
            if asked[i] > 0:
                speeds[i] = min(speeds[i], part / asked[i])
    return speeds
