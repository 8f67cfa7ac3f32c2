"""What unified embedding rests on (Song 2017, arXiv 1707.05929), claim by claim, as an evaluation's paired differences have it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fashion_dml.evaluation.protocol import Protocol

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"


@dataclass(frozen=True)
class Premise:
    """`better` is above `worse`; `enough`: it is enough that it isn't below."""

    says: str
    better: str
    worse: str
    protocol: Protocol
    enough: bool = False


PREMISES = (
    Premise("a vertical's own specialist beats one model trained on all", "specialists", "joint", "separate"),
    Premise("one distilled model is as good as the specialists", "unified", "specialists", "separate", enough=True),
    Premise("distilling specialists beats training one model on all", "unified", "joint", "separate"),
    Premise("distilling specialists beats training one model on all", "unified", "joint", "merged"),
)


def premises(evaluation: Mapping[str, Any], metric: str = "R@1") -> list[dict[str, Any]]:
    """Each premise whose models were measured: {"says", "better", "worse", "protocol", "value", "low", "high", "verdict"}.

    It holds if the 95 % interval of the difference lies above 0 (`enough`: if the difference doesn't lie below 0), doesn't if the
    interval lies below 0.
    """
    found = []
    for premise in PREMISES:
        if (difference := _difference(evaluation, premise, metric)) is None:
            continue
        value, low, high = difference
        over = value >= 0 if premise.enough else low > 0
        verdict = FAILS if high < 0 else HOLDS if over else UNDECIDED
        told = {n: v for n, v in vars(premise).items() if n != "enough"}
        found.append({**told, "value": value, "low": low, "high": high, "verdict": verdict})
    return found


def _difference(evaluation: Mapping[str, Any], premise: Premise, metric: str) -> tuple[float, float, float] | None:
    """(value, low, high) of better - worse; None where one of them wasn't measured, or nothing was scored."""
    for d in evaluation["differences"]:
        if d["protocol"] == premise.protocol and d["metric"] == metric and d["value"] is not None:
            if (d["a"], d["b"]) == (premise.better, premise.worse):
                return d["value"], d["low"], d["high"]
            if (d["b"], d["a"]) == (premise.better, premise.worse):
                return -d["value"], -d["high"], -d["low"]
    return None
