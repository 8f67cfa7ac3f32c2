"""The batches of one window: which of its units each holds. A unit is a product, or an image by the plan's mode."""

from __future__ import annotations

import numpy as np


def drawn(copies: np.ndarray, batches: int, size: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [batches, size]: units of each batch, none twice in one, unit i at most copies[i] times in all.

    copies int64 [n] is the most each unit may be drawn; sum(min(copies, batches)) >= batches x size. Which are left
    over, and who meets whom, is by lot.
    """
    order = rng.permutation(len(copies))
    dealt = np.repeat(order, np.minimum(copies[order], batches))
    spare = len(dealt) - batches * size
    if spare:
        dealt = np.delete(dealt, rng.permutation(len(dealt))[:spare])
    # Dealt like cards, one to each batch in turn: the copies of a unit lie side by side, so they go to different batches.
    return dealt.reshape(size, batches).T


def balanced(vertical: np.ndarray, places: np.ndarray, batches: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [batches, sum(places)]: every batch has places[v] different units of vertical v.

    vertical int64 [n] of each unit; places int64 [V], at most the units of v. A vertical that is short of units shows
    each of them about equally often; one that has more than needed leaves some over, by lot.
    """
    parts = []
    for v in np.flatnonzero(places):
        units = rng.permutation(np.flatnonzero(vertical == v))
        needed = int(places[v]) * batches
        copies = np.full(len(units), needed // len(units))
        copies[: needed % len(units)] += 1
        parts.append(np.repeat(units, copies))
    return np.concatenate(parts).reshape(-1, batches).T


def hard(near: np.ndarray, batches: int, size: int, neighbours: int, rng: np.random.Generator) -> np.ndarray:
    """int64 [batches, size]: seed units by lot, each followed by its `neighbours` nearest that are still free.

    near float32 [n, D]: a vector of each unit (unit length, or zero where none is known). Every unit is drawn once at
    most, so the last batches take what is left. So a batch holds both relations: of a class to its images, and to its
    nearest classes (after the idea of Lee & Roh, CVPR-W CVFAD 2020; this form is ours).
    """
    order = rng.permutation(len(near))
    similarity = near @ near.T
    free = np.ones(len(near), bool)
    found = np.empty((batches, size), np.int64)
    seeds = iter(order)
    for batch in found:
        at = 0
        while at < size:
            seed = next(s for s in seeds if free[s])
            free[seed] = False
            batch[at] = seed
            at += 1
            for unit in _nearest(similarity[seed], free, min(neighbours, size - at)):
                free[unit] = False
                batch[at] = unit
                at += 1
    return found


def _nearest(row: np.ndarray, free: np.ndarray, count: int) -> np.ndarray:
    """The `count` free units of highest similarity, best first; at a tie the first."""
    candidates = np.flatnonzero(free)
    return candidates[np.lexsort((candidates, -row[candidates]))[:count]]


def images_of(first: int, rows: int, count: int, rng: np.random.Generator) -> np.ndarray:
    """`count` of the rows first .. first + rows, all different while there are so many; then each once more, reshuffled."""
    rounds = [rng.permutation(rows) for _ in range(-(-count // rows))]
    chosen: np.ndarray = first + np.concatenate(rounds)[:count]
    return chosen
