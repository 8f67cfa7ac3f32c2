"""Which images make which batch: a pure function of (products, seed, epoch), without I/O and without Ray.

Training sees L lanes. In every epoch the row groups are shuffled and dealt to the lanes; a lane cuts its row groups
into windows and draws batches from one window after the other. Step t's global batch is batch t of all lanes, and
worker r of R takes lanes r, r + R, ... So the global batch depends neither on R nor on timing, and a cursor
(epoch, step) is all that is needed to go on after a crash, on another number of workers too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fashion_dml.storage import UserError

DEAL, MIX, PICK = 1, 2, 3  # streams of random numbers


@dataclass(frozen=True, order=True)
class Cursor:
    """The next batch to train on."""

    epoch: int = 0
    step: int = 0


@dataclass(frozen=True)
class PlanSettings:
    """mode "products": P products x K images; "images": shuffled images without regard to products."""

    mode: Literal["products", "images"]
    lanes: int
    window_images: int
    seed: int
    products_per_batch: int = 16
    images_per_product: int = 2
    images_per_batch: int = 32
    category_wise: bool = True


@dataclass(frozen=True)
class Window:
    """Row groups that one lane reads at once, and the batches it draws from them.

    groups: indices of the plan's row groups. units: products (or images, by mode) of a batch. The window's batches
    `skip` .. `skip + batches` are used, the first of them as the epoch's step `first_step`.
    """

    epoch: int
    lane: int
    number: int
    groups: tuple[int, ...]
    units: int
    first_step: int
    batches: int
    skip: int


@dataclass(frozen=True)
class EpochReport:
    """Where an epoch's products (or images, by mode) went: used + left_over = eligible."""

    steps: int
    eligible: int
    used: int

    @property
    def left_over(self) -> int:
        return self.eligible - self.used


@dataclass(frozen=True)
class _Epoch:
    units: int
    windows: tuple[tuple[tuple[tuple[int, ...], int], ...], ...]
    steps: int


class Plan:
    """The batches of one training task.

    products: schema.PRODUCTS rows of the split and verticals to train on. Products with one image can't make a
    pair: in mode "products" they are left out and counted in `singles`.
    Raises UserError when fewer than two products can be used.
    """

    def __init__(self, products: pa.Table, settings: PlanSettings) -> None:
        self.settings = settings
        self.verticals: list[str] = sorted(products["vertical"].unique().to_pylist())
        usable = _column(products, "rows") >= (2 if settings.mode == "products" else 1)
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
        group = group[order]
        starts = np.flatnonzero(np.r_[True, group[1:] != group[:-1]])
        self.group_start = np.r_[starts, len(order)].astype(np.int64)
        """Products of row group g: positions group_start[g] .. group_start[g + 1]."""
        key = group[starts]
        self.group_key = np.stack([key // row_groups // shards, key // row_groups % shards, key % row_groups], axis=1).astype(
            np.int32
        )
        """[G, 3]: vertical (index into `verticals`), shard, row group in the file."""
        self.group_images = np.add.reduceat(self.rows, starts).astype(np.int64)
        # Two row groups a lane at least: with one, a remainder of one product would make every lane's batch that small.
        self.lanes = min(settings.lanes, max(1, len(starts) // 2))
        self._epoch = lru_cache(maxsize=4)(self._deal)

    def __getstate__(self) -> dict[str, object]:
        return {k: v for k, v in self.__dict__.items() if k != "_epoch"}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._epoch = lru_cache(maxsize=4)(self._deal)

    def steps(self, epoch: int) -> int:
        """Global batches in an epoch."""
        return self._epoch(epoch).steps

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
            for number, (groups, batches) in enumerate(dealt.windows[lane]):
                a, b = max(first, at), min(first + batches, end)
                if a < b:
                    yield Window(epoch, lane, number, groups, dealt.units, a, b - a, a - first)
                first += batches
            steps -= end - at
            epoch, at = epoch + 1, 0

    def picks(self, window: Window) -> Iterator[np.ndarray]:
        """Each batch of a window as int32 [n, 2]: (index into window.groups, row in that row group)."""
        rng = np.random.default_rng([self.settings.seed, PICK, window.epoch, window.lane, window.number])
        units = window.units
        if self.settings.mode == "images":
            every = np.concatenate([self._images(slot, g) for slot, g in enumerate(window.groups)])
            every = every[rng.permutation(len(every))]
            for b in range(window.skip, window.skip + window.batches):
                yield every[b * units : (b + 1) * units]
            return
        slots = np.concatenate([np.full(self._count(g), slot) for slot, g in enumerate(window.groups)])
        products = np.concatenate([np.arange(self.group_start[g], self.group_start[g + 1]) for g in window.groups])
        order = rng.permutation(len(products))
        for b in range(window.skip + window.batches):
            chosen = order[b * units : (b + 1) * units]
            rows = np.concatenate([self._choose(products[i], rng) for i in chosen])
            if b >= window.skip:  # batches that a cursor skips are drawn all the same, so the later ones don't change
                yield np.stack([np.repeat(slots[chosen], self.settings.images_per_product), rows], axis=1).astype(np.int32)

    def report(self, epoch: int) -> EpochReport:
        """What an epoch uses and what it leaves over, in products or images."""
        dealt = self._epoch(epoch)
        eligible = len(self.rows) if self.settings.mode == "products" else int(self.rows.sum())
        return EpochReport(dealt.steps, eligible, dealt.steps * dealt.units * self.lanes)

    def _count(self, group: int) -> int:
        return int(self.group_start[group + 1] - self.group_start[group])

    def _images(self, slot: int, group: int) -> np.ndarray:
        a, b = self.group_start[group], self.group_start[group + 1]
        rows = np.concatenate([np.arange(f, f + n) for f, n in zip(self.first_row[a:b], self.rows[a:b], strict=True)])
        return np.stack([np.full(len(rows), slot), rows], axis=1).astype(np.int32)

    def _choose(self, product: int, rng: np.random.Generator) -> np.ndarray:
        """K images of a product, all different while it has that many; then each once more, in another order."""
        k, n, first = self.settings.images_per_product, int(self.rows[product]), int(self.first_row[product])
        rounds = [rng.permutation(n) for _ in range(-(-k // n))]
        chosen: np.ndarray = first + np.concatenate(rounds)[:k]
        return chosen

    def _size(self, group: int) -> int:
        """Units (products or images) of a row group."""
        return self._count(group) if self.settings.mode == "products" else int(self.group_images[group])

    def _deal(self, epoch: int) -> _Epoch:
        """Row groups to lanes and windows. Shuffled, then each to the lane with the fewest units, so lanes come out even."""
        s = self.settings
        rng = np.random.default_rng([s.seed, DEAL, epoch])
        sizes = np.array([self._size(g) for g in range(len(self.group_images))])
        hands: list[list[int]] = [[] for _ in range(self.lanes)]
        load = np.zeros(self.lanes, np.int64)
        for g in rng.permutation(len(sizes)):
            lane = int(load.argmin())
            hands[lane].append(int(g))
            load[lane] += sizes[g]
        asked = s.products_per_batch if s.mode == "products" else s.images_per_batch
        # Fewer products a batch, rather than one product twice, where a lane holds fewer than P.
        units = int(max(1, min(asked, load.min())))
        lanes = []
        for lane, hand in enumerate(hands):
            cut = [(tuple(w), int(sizes[list(w)].sum()) // units) for w in self._cut(hand, sizes, units)]
            cut = [c for c in cut if c[1] > 0]
            order = np.random.default_rng([s.seed, MIX, epoch, lane]).permutation(len(cut))
            lanes.append(tuple(cut[i] for i in order))
        return _Epoch(units, tuple(lanes), min(sum(n for _, n in lane) for lane in lanes))

    def _cut(self, hand: list[int], sizes: np.ndarray, units: int) -> Iterator[list[int]]:
        """Windows of one lane. Category-wise: one vertical each, where the lane holds a full batch of it; the rest share."""
        pools: dict[int, list[int]] = {}
        for g in hand:
            pools.setdefault(int(self.group_key[g, 0]) if self.settings.category_wise else 0, []).append(g)
        shared: list[int] = []
        for vertical in sorted(pools):
            if sizes[pools[vertical]].sum() < units:
                shared += pools[vertical]
            else:
                yield from self._fill(pools[vertical], sizes, units)
        if shared:
            yield from self._fill(shared, sizes, units)

    def _fill(self, groups: list[int], sizes: np.ndarray, units: int) -> list[list[int]]:
        """Row groups in order, cut into windows of about `window_images`, all of about the same size.

        A window holds a full batch, however small `window_images` is: the rest that doesn't joins the window before it.
        """
        total = int(self.group_images[groups].sum())
        target = total / max(1, round(total / self.settings.window_images))
        windows: list[list[int]] = []
        window: list[int] = []
        filled, done = 0, 1
        for g in groups:
            window.append(g)
            filled += int(self.group_images[g])
            if filled >= done * target - 1e-6 and sizes[window].sum() >= units:
                windows.append(window)
                window, done = [], done + 1
        if window and windows and sizes[window].sum() < units:
            windows[-1] += window
        elif window:
            windows.append(window)
        return windows


def _column(table: pa.Table, name: str) -> np.ndarray:
    """A column as numpy, without a copy where it is one chunk."""
    column: np.ndarray = table[name].to_numpy()
    return column
