"""The simulated run against what can be computed by hand, and the queue's rule against the best of all schedules."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashion_dml.storage import UserError
from fashion_dml.training.simulate import Job, Phase, fair, simulate

SECONDS = st.floats(0.01, 100, allow_nan=False)


def job(name: str, seconds: float, **uses: float) -> Job:
    return Job(name, seconds, (Phase(seconds, uses, seconds),))


def jobs(seconds: list[float], **uses: float) -> list[Job]:
    return [job(f"{i:03}", s, **uses) for i, s in enumerate(seconds)]


@given(st.lists(SECONDS, min_size=1, max_size=8))
def test_one_team_takes_the_sum(seconds: list[float]) -> None:
    found = simulate(jobs(seconds, cores=1), 1, {"cores": 1})
    assert found.makespan == pytest.approx(sum(seconds)) == found.busy


@given(st.integers(1, 5), st.integers(1, 4), SECONDS)
def test_equal_trainings_divide_evenly(teams: int, each: int, seconds: float) -> None:
    assert simulate(jobs([seconds] * teams * each), teams, {}).makespan == pytest.approx(each * seconds)


def test_phases_follow_one_another_and_only_the_first_training_of_a_team_is_slow() -> None:
    made = [Job(str(i), 1, (Phase(5), Phase(0), Phase(2)), (Phase(10),), (Phase(1),)) for i in range(3)]
    assert simulate(made, 1, {}).ends == {"0": 17, "1": 25, "2": 33}


@given(st.lists(SECONDS, min_size=1, max_size=7), st.integers(1, 3))
def test_longest_first_is_within_graham_s_bound_of_the_best_schedule(seconds: list[float], teams: int) -> None:
    best = min(
        max(sum(s for s, t in zip(seconds, given_to, strict=True) if t == team) for team in range(teams))
        for given_to in itertools.product(range(teams), repeat=len(seconds))
    )
    assert best - 1e-9 <= simulate(jobs(seconds), teams, {}).makespan <= (4 / 3 - 1 / (3 * teams)) * best + 1e-9


@given(st.lists(SECONDS, min_size=1, max_size=12), st.integers(1, 8))
def test_one_more_team_is_never_slower(seconds: list[float], teams: int) -> None:
    fewer, more = (simulate(jobs(seconds), n, {}).makespan for n in (teams, teams + 1))
    assert more <= fewer * (1 + 1e-9)


def test_unless_they_share_cores_that_the_longest_training_needs() -> None:
    three, four = (simulate(jobs([2, 1, 1, 1], cores=1), n, {"cores": 3}).makespan for n in (3, 4))
    assert (three, four) == (pytest.approx(2), pytest.approx(7 / 3))


def test_shared_cores_make_all_slower_until_one_ends() -> None:
    # 4 on 2 cores run at half speed; when the short ones are through at 2 s, the long one has 1 of 5 s done and a core of its own.
    found = simulate(jobs([5, 1, 1, 1], cores=1), 4, {"cores": 2})
    assert found.ends == {"000": pytest.approx(6), "001": pytest.approx(2), "002": pytest.approx(2), "003": pytest.approx(2)}


def test_who_asks_for_little_gets_it() -> None:
    made = [job("a", 10, cores=1), job("b", 10, cores=1), job("small", 10, cores=0.2)]
    ends = simulate(made, 3, {"cores": 1.2}).ends  # from 10 s on, a and b have 0.6 cores each for the 5 s that are left
    half = pytest.approx(10 + 5 / 0.6)
    assert ends == {"a": half, "b": half, "small": pytest.approx(10)}


@given(st.lists(st.floats(0, 10), min_size=1, max_size=6), st.floats(0.1, 20))
def test_fair_parts_are_within_what_is_asked_and_there(asked: list[float], capacity: float) -> None:
    parts = fair(asked, capacity)
    assert all(0 <= p <= a + 1e-12 for p, a in zip(parts, asked, strict=True))
    assert sum(parts) == pytest.approx(min(sum(asked), capacity))


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(UserError, match="0 teams train nothing"):
        simulate(jobs([1]), 0, {})
    with pytest.raises(UserError, match="capacity of cores is 0"):
        simulate(jobs([1]), 1, {"cores": 0})
    with pytest.raises(UserError, match="costs can't be negative"):
        Phase(-1)
    with pytest.raises(UserError, match="costs can't be negative"):
        Phase(1, {"cores": -1})
