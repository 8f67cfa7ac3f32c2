"""Which verticals train well together: a greedy search, decided on validation products.

With a triplet loss some verticals together cost nothing, too many hurt; between lies a sweet spot (Song 2017, arXiv
1707.05929). The search opens a group with the largest vertical and tries to add each of the others; a merge stays where
every member does as well as its own specialist, within a tolerance. How that is written down here, and what counts as
chance, is ours.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from fashion_dml.config import Group
from fashion_dml.training.assignments import TrainSettings

Members = tuple[str, ...]
Answer = Callable[[Members], bool | None]


class GroupSettings(TrainSettings):
    """Sections that the search reads; those of the specialists give loss, learning rate, batch and augmentation."""

    group: Group = Group()


def members(verticals: Sequence[str]) -> Members:
    """Verticals that train together, in one order."""
    return tuple(sorted(verticals))


@dataclass
class Findings:
    """Validation R@1 of every member of the sets trained so far, and what it says about a merge.

    queries: validation images of each vertical, the same in every set; one that can't be measured is neither here nor in a result.
    tolerance: R@1 that a member may lose. chance: standard errors of its specialist's R@1 that it may lose beyond that.
    """

    queries: Mapping[str, int]
    tolerance: float
    chance: float
    recall: dict[Members, Mapping[str, float]] = field(default_factory=dict)
    failed: set[Members] = field(default_factory=set)

    def allowed(self, vertical: str) -> float:
        """Least R@1 of a vertical in a merge. Raises KeyError before its specialist was measured."""
        alone = self.recall[vertical,][vertical]
        error = math.sqrt(alone * (1 - alone) / self.queries[vertical])
        return alone - self.tolerance - self.chance * error

    def keeps(self, merged: Members) -> bool | None:
        """Whether every member does well enough; None where that isn't known yet. A merge that failed isn't kept."""
        if merged in self.failed:
            return False
        if merged not in self.recall or any((v,) not in self.recall for v in merged):
            return None
        together = self.recall[merged]
        return all(together[v] >= self.allowed(v) for v in merged if v in together)


def walk(order: Sequence[str], keeps: Answer) -> tuple[list[Members], Members | None]:
    """The search as far as `keeps` knows: (groups so far, the merge it asks about next; None at the end)."""
    groups: list[Members] = []
    left = list(order)
    while left:
        group = [left.pop(0)]
        for vertical in list(left):
            merged = members([*group, vertical])
            answer = keeps(merged)
            if answer is None:
                return [*groups, members(group)], merged
            if answer:
                group.append(vertical)
                left.remove(vertical)
        groups.append(members(group))
    return groups, None


def likely(order: Sequence[str], keeps: Answer, count: int) -> list[Members]:
    """Up to `count` merges that the search asks about next, or would after either answer: work for idle teams."""
    found: list[Members] = []
    guesses: deque[dict[Members, bool]] = deque([{}])
    while guesses and len(found) < count:
        guess = guesses.popleft()
        _, asked = walk(order, lambda merged, guess=guess: guess.get(merged, keeps(merged)))  # type: ignore[misc]
        if asked is not None:
            found += [asked] if asked not in found else []
            guesses += [{**guess, asked: True}, {**guess, asked: False}]
    return found


def merge_orders(order: Sequence[str], count: int, seed: int) -> list[list[str]]:
    """`count` orders in which verticals join: the given one, and shuffles of it."""
    rng = np.random.default_rng(seed)
    return [list(order), *([order[i] for i in rng.permutation(len(order))] for _ in range(count - 1))]


def curve_sets(order: Sequence[str], sizes: Sequence[int]) -> list[Members]:
    """The first n verticals of an order, for each n of `sizes` that it has (none given: for all)."""
    return [members(order[:n]) for n in (sizes or range(1, len(order) + 1)) if n <= len(order)]
