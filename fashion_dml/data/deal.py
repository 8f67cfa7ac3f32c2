"""An epoch's row groups dealt to lanes and cut into windows: the part of the plan that knows no product and no image."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

Mode = Literal["vertical-wise", "mixed", "balanced", "hard-classes", "images"]
DEAL, MIX, SHARE = 1, 2, 5  # streams of random numbers


@dataclass(frozen=True)
class Groups:
    """Row groups as dealing sees them: vertical, units (products, or images by mode) and images of each, int64 [G]."""

    vertical: np.ndarray
    units: np.ndarray
    images: np.ndarray


@dataclass(frozen=True)
class Rules:
    """What an epoch is dealt by. weights [V]: how often an epoch uses each vertical; when balanced, its share of a batch."""

    mode: Mode
    lanes: int
    units: int
    window_images: int
    seed: int
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Cut:
    """A window before its steps are known: row groups, how often each may be drawn in it, and its full batches."""

    groups: tuple[int, ...]
    copies: tuple[int, ...]
    batches: int


@dataclass(frozen=True)
class Dealt:
    """An epoch: units of a lane's batch, those it could use, the windows of every lane, and the steps that all lanes have."""

    units: int
    eligible: int
    lanes: tuple[tuple[Cut, ...], ...]
    steps: int


def lanes_of(groups: Groups, mode: Mode, weights: tuple[float, ...], asked: int) -> int:
    """Two row groups a lane at least: with one, a remainder of one product would make every lane's batch that small.

    A balanced lane has row groups of every vertical, so the smallest one decides.
    """
    held = np.bincount(groups.vertical, minlength=len(weights))
    if mode == "balanced":
        return min(asked, max(1, int(held[held > 0].min()) // 2))
    return min(asked, max(1, sum(n if w >= 1 else _fraction(w, n) for w, n in zip(weights, held, strict=True)) // 2))


def deal(groups: Groups, rules: Rules, epoch: int) -> Dealt:
    """Shuffled row groups, each to the lane with the fewest units, so that lanes come out even; then windows."""
    rng = np.random.default_rng([rules.seed, DEAL, epoch])
    copies = _copies(groups, rules, rng)
    order = [g for g in rng.permutation(len(copies)) if copies[g]]
    load = np.zeros((len(rules.weights) if rules.mode == "balanced" else 1, rules.lanes), np.int64)
    hands: list[list[int]] = [[] for _ in range(rules.lanes)]
    for g in order:
        loads = load[groups.vertical[g] if rules.mode == "balanced" else 0]
        lane = int(loads.argmin())
        hands[lane].append(int(g))
        loads[lane] += groups.units[g] * copies[g]
    held = [int(groups.units[hand].sum()) for hand in hands]
    # Fewer units a batch, rather than one twice, where a lane holds fewer than were asked for.
    units = max(1, min(rules.units, *held))
    if rules.mode == "balanced":
        made = [_balanced(groups, hand, rules.window_images) for hand in hands]
        units = min(units, *(int(groups.units[w].sum()) for windows in made for w in windows))
        lanes = [_even(windows, sum_, units) for windows, sum_ in zip(made, held, strict=True)]
    else:
        lanes = [_by_size(groups, copies, list(_cut(groups, hand, rules, units)), units) for hand in hands]
    for lane, cuts in enumerate(lanes):
        mixed = np.random.default_rng([rules.seed, MIX, epoch, lane]).permutation(len(cuts))
        lanes[lane] = [cuts[i] for i in mixed]
    eligible = int((groups.units * copies).sum())
    return Dealt(units, eligible, tuple(map(tuple, lanes)), min(sum(c.batches for c in cuts) for cuts in lanes))


def full_batches(units: np.ndarray, copies: np.ndarray, size: int) -> int:
    """Batches of `size` different units that can be drawn when each of `units` [n] may be drawn `copies` [n] times."""
    found = int((units * copies).sum()) // size
    while found and (able := int((units * np.minimum(copies, found)).sum())) < found * size:
        found = able // size
    return found


def shares(size: int, weights: np.ndarray, room: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`size` places of a batch over verticals by weight, at most `room` each: int64 [V]. Ties fall by lot.

    The highest quotient weight / (places + 1) gets the next place (D'Hondt), so none is short of its due by a whole place.
    """
    places = np.zeros(len(weights), np.int64)
    lot = rng.random(len(weights))
    for _ in range(min(size, int(room.sum()))):
        quotient = np.where(places < room, weights / (places + 1), -1.0)
        places[np.lexsort((lot, -quotient))[0]] += 1
    return places


def _copies(groups: Groups, rules: Rules, rng: np.random.Generator) -> np.ndarray:
    """How often the epoch uses each row group [G]: the weight's whole part, and once more for its fraction of them."""
    copies = np.ones(len(groups.vertical), np.int64)
    if rules.mode == "balanced":
        return copies
    for vertical, weight in enumerate(rules.weights):
        if weight != 1:
            mine = np.flatnonzero(groups.vertical == vertical)
            copies[mine] = int(weight)
            more = _fraction(weight, len(mine)) if weight < 1 else round((weight % 1) * len(mine))
            copies[rng.permutation(mine)[:more]] += 1
    return copies


def _fraction(weight: float, groups: int) -> int:
    """Row groups that an epoch uses of a vertical of weight below 1; one at least."""
    return min(groups, max(1, round(weight * groups)))


def _by_size(groups: Groups, copies: np.ndarray, windows: list[list[int]], units: int) -> list[Cut]:
    cuts = [Cut(tuple(w), tuple(copies[w].tolist()), full_batches(groups.units[w], copies[w], units)) for w in windows]
    return [c for c in cuts if c.batches]


def _even(windows: list[list[int]], held: int, units: int) -> list[Cut]:
    """Balanced windows share the lane's batches evenly: as many as its units make, however they are spread over verticals."""
    total, n = held // units, len(windows)
    cuts = [Cut(tuple(w), (0,) * len(w), total * (i + 1) // n - total * i // n) for i, w in enumerate(windows)]
    return [c for c in cuts if c.batches]


def _balanced(groups: Groups, hand: list[int], window_images: int) -> list[list[int]]:
    """Windows that each hold row groups of every vertical of the lane; a small vertical's are in several of them."""
    by_vertical: dict[int, list[int]] = {}
    for g in hand:
        by_vertical.setdefault(int(groups.vertical[g]), []).append(g)
    # Not more windows than the largest vertical has row groups: it shall not be repeated.
    most = max(map(len, by_vertical.values()))
    wanted = min(most, max(1, round(int(groups.images[hand].sum()) / window_images)))
    windows: list[list[int]] = [[] for _ in range(wanted)]
    for mine in (by_vertical[v] for v in sorted(by_vertical)):
        chunks = [chunk.tolist() for chunk in np.array_split(np.array(mine), min(wanted, len(mine)))]
        for i, window in enumerate(windows):
            window += chunks[i % len(chunks)]
    return windows


def _cut(groups: Groups, hand: list[int], rules: Rules, units: int) -> Iterator[list[int]]:
    """Windows of one lane: of one vertical each, where the lane holds a full batch of it; the rest share. Mixed: all share."""
    whole = rules.mode in ("mixed", "images")
    pools: dict[int, list[int]] = {}
    for g in hand:
        pools.setdefault(0 if whole else int(groups.vertical[g]), []).append(g)
    shared: list[int] = []
    for vertical in sorted(pools):
        if groups.units[pools[vertical]].sum() < units:
            shared += pools[vertical]
        else:
            yield from _fill(groups, pools[vertical], rules.window_images, units)
    if shared:
        yield from _fill(groups, shared, rules.window_images, units)


def _fill(groups: Groups, chosen: Sequence[int], window_images: int, units: int) -> list[list[int]]:
    """Row groups in order, cut into windows of about `window_images`, all of about the same size.

    A window holds a full batch, however small `window_images` is: the rest that doesn't joins the window before it.
    """
    total = int(groups.images[chosen].sum())
    target = total / max(1, round(total / window_images))
    windows: list[list[int]] = []
    window: list[int] = []
    filled, done = 0, 1
    for g in chosen:
        window.append(g)
        filled += int(groups.images[g])
        if filled >= done * target - 1e-6 and groups.units[window].sum() >= units:
            windows.append(window)
            window, done = [], done + 1
    if window and windows and groups.units[window].sum() < units:
        windows[-1] += window
    elif window:
        windows.append(window)
    return windows
