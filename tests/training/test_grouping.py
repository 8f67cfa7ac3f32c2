"""The search for groups: against the procedure written out, whatever the results are, and its look ahead."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fashion_dml.training.grouping import Findings, Members, curve_sets, likely, members, merge_orders, walk

ORDER = ["dresses", "tops", "bags", "shoes", "hats"]
SETS = [members(s) for n in range(2, len(ORDER) + 1) for s in itertools.combinations(ORDER, n)]
answers = st.fixed_dictionaries(dict.fromkeys(SETS, st.booleans()))


def written_out(order: list[str], keeps: dict[Members, bool]) -> list[Members]:
    """METHODS: open a group with the largest vertical, try to add each of the others, else open a new group."""
    groups, left = [], order
    while left:
        group, rest = [left[0]], []
        for vertical in left[1:]:
            (group if keeps[members([*group, vertical])] else rest).append(vertical)
        groups.append(members(group))
        left = rest
    return groups


@given(answers)
def test_walk_is_the_procedure(keeps: dict[Members, bool]) -> None:
    assert walk(ORDER, keeps.__getitem__) == (written_out(ORDER, keeps), None)


@given(answers, st.integers(1, 6))
def test_looking_ahead_asks_first_what_comes_next_and_ends_where_the_search_ends(
    keeps: dict[Members, bool], teams: int
) -> None:
    """Trainings end in batches of `teams`; the search gets all it asks about, and nothing is trained twice."""
    known: dict[Members, bool] = {}
    while True:
        groups, asked = walk(ORDER, known.get)
        ahead = likely(ORDER, known.get, teams)
        if asked is None:
            assert ahead == []
            assert groups == written_out(ORDER, keeps)
            return
        assert ahead[0] == asked
        assert len(ahead) == len(set(ahead)) <= teams
        assert not set(ahead) & set(known)
        known |= {merged: keeps[merged] for merged in ahead}


def test_with_enough_teams_either_answer_is_ready() -> None:
    known: dict[Members, bool] = {}
    first, *follow = likely(ORDER, known.get, 3)
    assert first == ("dresses", "tops")
    assert set(follow) == {("bags", "dresses", "tops"), ("bags", "dresses")}


def findings(tolerance: float = 0.02, chance: float = 0.0) -> Findings:
    f = Findings({"a": 100, "b": 400}, tolerance, chance)
    f.recall = {("a",): {"a": 0.5}, ("b",): {"b": 0.8}, ("c",): {}}
    return f


@pytest.mark.parametrize(
    ("together", "chance", "kept"),
    [
        ({"a": 0.481, "b": 0.781}, 0, True), ({"a": 0.479, "b": 0.9}, 0, False), ({"a": 0.9, "b": 0.779}, 0, False),
        ({"a": 0.431, "b": 0.9}, 1, True), ({"a": 0.429, "b": 0.9}, 1, False), ({"a": 0.9, "b": 0.759}, 1, False),
    ],
)  # fmt: skip
def test_a_merge_stays_where_every_member_keeps_its_recall(together: dict[str, float], chance: float, kept: bool) -> None:
    """Standard errors: a sqrt(0.25 / 100) = 0.05, b sqrt(0.16 / 400) = 0.02."""
    f = findings(chance=chance)
    assert f.keeps(("a", "b")) is None
    f.recall["a", "b"] = together
    assert f.keeps(("a", "b")) is kept


def test_what_is_not_known_fails_or_cannot_be_measured() -> None:
    f = findings()
    f.recall["a", "c"] = {"a": 0.5}  # c has too few validation products: it goes anywhere
    assert f.keeps(("a", "c")) is True
    f.recall["a", "d"] = {"a": 0.5, "d": 0.5}
    assert f.keeps(("a", "d")) is None  # d alone isn't trained yet
    f.failed.add(("b", "c"))
    assert f.keeps(("b", "c")) is False


def test_orders_and_curves() -> None:
    orders = merge_orders(ORDER, 3, seed=4)
    assert orders[0] == ORDER
    assert all(sorted(o) == sorted(ORDER) for o in orders)
    assert len({tuple(o) for o in orders}) == 3
    assert merge_orders(ORDER, 3, seed=4) == orders
    assert curve_sets(["c", "a", "b"], ()) == [("c",), ("a", "c"), ("a", "b", "c")]
    assert curve_sets(["c", "a", "b"], (1, 3, 9)) == [("c",), ("a", "b", "c")]
