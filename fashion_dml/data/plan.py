"""Which images make which batch: a pure function of (products, seed, epoch), without I/O and without Ray.

Training sees L lanes. In every epoch the row groups are shuffled and dealt to the lanes; a lane cuts its row groups
into windows and draws batches from one window after the other. Step t's global batch is batch t of all lanes, and
worker r of R takes lanes r, r + R, ... So the global batch depends neither on R nor on timing, and a cursor
(epoch, step) is all that is needed to go on after a crash, on another number of workers too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fashion_dml.data.deal import SHARE, Dealt, Groups, Mode, Rules, deal, lanes_of, shares
from fashion_dml.data.draw import balanced, drawn, hard, images_of
from fashion_dml.storage import UserError

PICK = 3  # stream of random numbers, beside those of the deal


@dataclass(frozen=True, order=True)
class Cursor:
    """The next batch to train on."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class PlanSettings:
    """What a lane's batch is made of.

    - vertical-wise: P products x K images of one vertical, where the lane has so many; rests of several share a batch;
    - mixed: products of all verticals as they come;
    - balanced: every batch shows all verticals, by `weights` (else equally); small ones are drawn more often, large less;
    - hard-classes: vertical-wise, and a batch is seed products with `neighbours` of their nearest, by vectors of products;
    - images: shuffled images without regard to products.

    weights: vertical -> how often an epoch uses its products (or images); 1 where none is given.
    """

    mode: Mode
    lanes: int
    window_images: int
    seed: int
    products_per_batch: int = 16
    images_per_product: int = 2
    images_per_batch: int = 32
    neighbours: int = 3
    weights: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Near:
    """Where products are, for mode hard-classes: labels int64 [C], ascending, and unit vectors float32 [C, D] (proxies)."""

    labels: np.ndarray
    vectors: np.ndarray

    def of(self, labels: np.ndarray) -> np.ndarray:
        """float32 [n, D]; zero for a label that isn't known."""
        at = np.searchsorted(self.labels, labels).clip(max=len(self.labels) - 1)
        return np.where((self.labels[at] == labels)[:, None], self.vectors[at], 0)


@dataclass(frozen=True)
class Window:
    """Row groups that one lane reads at once, and the batches it draws from them.

    groups: indices of the plan's row groups; copies: how often their units may be drawn. units: products (or images, by
    mode) of a batch; of: batches the window makes in all. Batches `skip` .. `skip + batches` of them are used, the first
    as the epoch's step `first_step`.
    """

    epoch: int
    lane: int
    number: int
    groups: tuple[int, ...]
    copies: tuple[int, ...]
    units: int
    of: int
    first_step: int
    batches: int
    skip: int


@dataclass(frozen=True)
class EpochReport:
    """Where an epoch's products (or images, by mode) went: used + left_over = eligible.

    A product of weight w counts w times. Balanced, an epoch has as many batches as its products make, so `used` are
    draws, of which a small vertical's products have several.
    """

    steps: int
    eligible: int
    used: int

    @property
    def left_over(self) -> int:
        return self.eligible - self.used


class Plan:
    """The batches of one training task.

    products: schema.PRODUCTS rows of the split and verticals to train on. Products with one image can't make a
    pair: but for mode "images" they are left out and counted in `singles`.
    Raises UserError when fewer than two products can be used, and on weights that don't fit.
    """

    def __init__(self, products: pa.Table, settings: PlanSettings) -> None:
        self.settings = settings
        self.verticals: list[str] = sorted(products["vertical"].unique().to_pylist())
        usable = _column(products, "rows") >= (1 if settings.mode == "images" else 2)
        self.singles = int((~usable).sum())
        if usable.sum() < 2:
            raise UserError(
                f"Only {int(usable.sum())} product of {', '.join(self.verticals) or 'the chosen verticals'} can be trained on; give at least 2."
            )
        # One sortable number per row group, and one step at a time: ten million products must fit a small machine.
        group = pc.index_in(products["vertical"], pa.array(self.verticals)).to_numpy().astype(np.int64)
        shards, row_groups = (int(_column(products, name).max()) + 1 for name in ("shard", "row_group"))
        group = (group * shards + _column(products, "shard")) * row_groups + _column(products, "row_group")
        order = np.lexsort((_column(products, "first_row"), group))
        order = order[usable[order]]
        self.first_row = _column(products, "first_row")[order].astype(np.int32)
        self.rows = _column(products, "rows")[order].astype(np.int32)
        self.labels = _column(products, "label")[order] if settings.mode == "hard-classes" else None
        group = group[order]
        starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        self.group_start = np.r_[starts, len(order)].astype(np.int64)
        """Products of row group g: positions group_start[g] .. group_start[g + 1]."""
        key = group[starts]
        self.group_key = np.stack([key // row_groups // shards, key // row_groups % shards, key % row_groups], axis=1).astype(
            np.int32
        )
        """[G, 3]: vertical (index into `verticals`), shard, row group in the file."""
        images = np.add.reduceat(self.rows, starts).astype(np.int64)
        units = images if settings.mode == "images" else np.diff(self.group_start)
        self._groups = Groups(self.group_key[:, 0].astype(np.int64), units, images)
        self._weights = _weights(self.verticals, settings)
        self.lanes = lanes_of(self._groups, settings.mode, self._weights, settings.lanes)
        self._epoch = lru_cache(maxsize=4)(self._deal)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_epoch"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._epoch = lru_cache(maxsize=4)(self._deal)

    def steps(self, epoch: int) -> int:
        """Global batches in an epoch."""
        return self._epoch(epoch).steps

    @property
    def images_per_unit(self) -> int:
        """Images that a batch shows of each unit: K of a product, or the image itself."""
        return 1 if self.settings.mode == "images" else self.settings.images_per_product

    def images_per_step(self, epoch: int) -> int:
        """Images of a global batch."""
        return self._epoch(epoch).units * self.lanes * self.images_per_unit

    def cursor(self, step: int, start: Cursor = Cursor()) -> Cursor:
        """The cursor `step` batches after `start`."""
        epoch, at = start.epoch, start.step + step
        while at >= self.steps(epoch):
            at -= self.steps(epoch)
            epoch += 1
        return Cursor(epoch, at)

    def windows(self, lane: int, start: Cursor, steps: int) -> Iterator[Window]:
        """The lane's windows that hold its next `steps` batches from `start` on, in order."""
        epoch, at = start.epoch, start.step
        while steps > 0:
            dealt = self._epoch(epoch)
            end = min(dealt.steps, at + steps)
            first = 0
            for number, cut in enumerate(dealt.lanes[lane]):
                a, b = max(first, at), min(first + cut.batches, end)
                if a < b:
                    yield Window(epoch, lane, number, cut.groups, cut.copies, dealt.units, cut.batches, a, b - a, a - first)
                first += cut.batches
            steps -= end - at
            epoch, at = epoch + 1, 0

    def picks(self, window: Window, near: Near | None = None) -> Iterator[np.ndarray]:
        """Each batch of a window as int32 [n, 2]: (index into window.groups, row in that row group).

        near: where products are, for mode hard-classes; without it, before any are known, batches are by lot.
        """
        s = self.settings
        seed = [s.seed, PICK, window.epoch, window.lane, window.number]
        slots = np.repeat(np.arange(len(window.groups)), self._groups.units[list(window.groups)])
        products = np.concatenate([np.arange(self.group_start[g], self.group_start[g + 1]) for g in window.groups])
        chosen = self._choose(window, slots, products, near, np.random.default_rng(seed))
        if s.mode == "images":
            rows = _ranges(self.first_row[products], self.rows[products])
        for b in range(window.skip, window.skip + window.batches):
            if s.mode == "images":
                yield np.stack([slots[chosen[b]], rows[chosen[b]]], axis=1).astype(np.int32)
                continue
            rng = np.random.default_rng([*seed, b])
            k = s.images_per_product
            picked = [images_of(int(self.first_row[i]), int(self.rows[i]), k, rng) for i in products[chosen[b]]]
            yield np.stack([np.repeat(slots[chosen[b]], k), np.concatenate(picked)], axis=1).astype(np.int32)

    def _choose(
        self, window: Window, slots: np.ndarray, products: np.ndarray, near: Near | None, rng: np.random.Generator
    ) -> np.ndarray:
        """Units of each of the window's batches [batches, units]."""
        if self.settings.mode == "balanced":
            vertical = self._groups.vertical[list(window.groups)][slots]
            room = np.bincount(vertical, minlength=len(self.verticals))
            lot = np.random.default_rng([self.settings.seed, SHARE, window.epoch, window.lane, window.number])
            return balanced(vertical, shares(window.units, np.array(self._weights), room, lot), window.of, rng)
        if near is not None and self.labels is not None:
            return hard(near.of(self.labels[products]), window.of, window.units, self.settings.neighbours, rng)
        return drawn(np.array(window.copies)[slots], window.of, window.units, rng)

    def report(self, epoch: int) -> EpochReport:
        """What an epoch uses and what it leaves over, in products or images."""
        dealt = self._epoch(epoch)
        used = dealt.steps * dealt.units * self.lanes
        return EpochReport(dealt.steps, dealt.eligible, used)

    def _deal(self, epoch: int) -> Dealt:
        s = self.settings
        asked = s.images_per_batch if s.mode == "images" else s.products_per_batch
        return deal(self._groups, Rules(s.mode, self.lanes, asked, s.window_images, s.seed, self._weights), epoch)


def _weights(verticals: list[str], settings: PlanSettings) -> tuple[float, ...]:
    """The weight of each vertical; those of other plans' verticals are passed over. Raises UserError on one that can't be."""
    given: Mapping[str, float] = dict(settings.weights)
    for vertical, weight in given.items():
        if not 0 < weight < float("inf"):
            raise UserError(f"The weight of {vertical!r} is {weight:g}; give a number above 0.")
    if settings.mode == "hard-classes" and any(given.get(v, 1) != 1 for v in verticals):
        raise UserError("Hard classes are drawn once an epoch: use weights with another kind of batches, or none.")
    return tuple(float(given.get(v, 1)) for v in verticals)


def _ranges(first: np.ndarray, count: np.ndarray) -> np.ndarray:
    """first[0] .. first[0] + count[0], then those of first[1], and so on."""
    ends = np.cumsum(count)
    found: np.ndarray = np.arange(ends[-1]) + np.repeat(first - (ends - count), count)
    return found


def _column(table: pa.Table, name: str) -> np.ndarray:
    """A column as numpy, without a copy where it is one chunk."""
    column: np.ndarray = table[name].to_numpy()
    return column
