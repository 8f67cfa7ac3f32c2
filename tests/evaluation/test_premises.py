"""What holds of unified embedding, from paired differences."""

from __future__ import annotations

from typing import Any

import pytest

from fashion_dml.evaluation.premises import premises


def difference(a: str, b: str, value: float, low: float, high: float, protocol: str = "separate", metric: str = "R@1") -> Any:
    return {"a": a, "b": b, "protocol": protocol, "metric": metric, "value": value, "low": low, "high": high}


def verdicts(*differences: Any) -> dict[tuple[str, str, str], tuple[float, float, float, str]]:
    found = premises({"differences": list(differences)})
    return {(p["better"], p["worse"], p["protocol"]): (p["value"], p["low"], p["high"], p["verdict"]) for p in found}


@pytest.mark.parametrize(
    ("low", "value", "high", "verdict"),
    [(0.01, 0.02, 0.03, "holds"), (-0.01, 0.02, 0.03, "undecided"), (-0.03, -0.02, -0.01, "does not hold")],
)
def test_by_where_the_interval_lies(low: float, value: float, high: float, verdict: str) -> None:
    told = verdicts(difference("specialists", "joint", value, low, high))
    assert told == {("specialists", "joint", "separate"): (value, low, high, verdict)}


def test_turned_round_where_the_report_names_them_so() -> None:
    told = verdicts(difference("joint", "specialists", -0.02, -0.03, -0.01))
    assert told == {("specialists", "joint", "separate"): (0.02, 0.01, 0.03, "holds")}


@pytest.mark.parametrize(("value", "verdict"), [(0.0, "holds"), (0.01, "holds"), (-0.004, "undecided")])
def test_as_good_is_enough_for_the_student(value: float, verdict: str) -> None:
    told = verdicts(difference("unified", "specialists", value, value - 0.01, value + 0.01))
    assert told["unified", "specialists", "separate"][-1] == verdict


def test_what_was_not_measured_is_left_out() -> None:
    other = difference("unified", "joint", 0.1, 0.05, 0.15, "merged", "mAP")
    empty = {**difference("unified", "joint", 0.1, 0.05, 0.15), "value": None}
    assert verdicts(other, empty, difference("a", "b", 1, 1, 1)) == {}
