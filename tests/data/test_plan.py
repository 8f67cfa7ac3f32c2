"""The batch plan: every product once, the same batches for any number of workers, and from any cursor."""

from __future__ import annotations

import pickle
from collections import Counter
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import assume, given
from hypothesis import settings as tries
from hypothesis import strategies as st

from fashion_dml.data.plan import Cursor, Plan, PlanSettings, Window
from fashion_dml.data.schema import PRODUCTS
from fashion_dml.storage import UserError

Groups = list[tuple[str, int, list[int]]]


def products(groups: Groups) -> pa.Table:
    """The products table of row groups given as (vertical, shard, images of each product)."""
    rows = []
    seen: Counter[tuple[str, int]] = Counter()
    for vertical, shard, sizes in groups:
        first = 0
        for n in sizes:
            label = len(rows)
            rows.append(
                {"product_id": f"p{label}", "label": label, "vertical": vertical, "split": "train", "shard": shard,
                 "row_group": seen[vertical, shard], "first_row": first, "rows": n}
            )  # fmt: skip
            first += n
        seen[vertical, shard] += 1
    return pa.Table.from_pylist(rows, PRODUCTS)


GROUPS = st.lists(
    st.tuples(st.sampled_from(["bags", "dresses", "shoes"]), st.integers(0, 2), st.lists(st.integers(1, 5), min_size=1, max_size=7)),
    min_size=1, max_size=12,
)  # fmt: skip
SETTINGS = st.builds(
    PlanSettings,
    mode=st.sampled_from(["products", "images"]),
    lanes=st.integers(1, 5),
    window_images=st.sampled_from([1, 6, 20, 2048]),
    seed=st.integers(0, 1 << 40),
    products_per_batch=st.integers(2, 8),
    images_per_product=st.integers(2, 6),
    images_per_batch=st.integers(2, 12),
    category_wise=st.booleans(),
)


def planned(groups: Groups, settings: PlanSettings) -> Plan:
    assume(sum(n >= (2 if settings.mode == "products" else 1) for _, _, sizes in groups for n in sizes) >= 2)
    return Plan(products(groups), settings)


def where(table: pa.Table) -> dict[tuple[str, int, int, int], int]:
    """(vertical, shard, row group, row) of every image -> its label."""
    return {
        (r["vertical"], r["shard"], r["row_group"], r["first_row"] + i): r["label"]
        for r in table.to_pylist()
        for i in range(r["rows"])
    }


Image = tuple[str, int, int, int]


def addresses(plan: Plan, window: Window, pick: np.ndarray) -> list[Image]:
    keys = [tuple(int(v) for v in plan.group_key[g]) for g in window.groups]
    return [(plan.verticals[keys[slot][0]], keys[slot][1], keys[slot][2], int(row)) for slot, row in pick]


def batches(plan: Plan, lane: int, start: Cursor, steps: int) -> list[tuple[int, int, list[Image]]]:
    """(epoch, step, images) of a lane."""
    return [
        (window.epoch, window.first_step + b, addresses(plan, window, pick))
        for window in plan.windows(lane, start, steps)
        for b, pick in enumerate(plan.picks(window))
    ]


@tries(max_examples=120, deadline=None)
@given(GROUPS, SETTINGS, st.integers(0, 3))
def test_every_product_or_image_of_an_epoch_is_used_once_or_counted_as_left_over(
    groups: Groups, settings: PlanSettings, epoch: int
) -> None:
    plan = planned(groups, settings)
    labels = where(products(groups))
    steps = plan.steps(epoch)
    assert steps >= 1
    used: Counter[object] = Counter()
    for lane in range(plan.lanes):
        told = batches(plan, lane, Cursor(epoch, 0), steps)
        assert [(e, s) for e, s, _ in told] == [(epoch, s) for s in range(steps)]
        for _, _, images in told:
            if settings.mode == "images":
                used.update(images)
                continue
            k = settings.images_per_product
            for at in range(0, len(images), k):
                shown = Counter(images[at : at + k])
                (label,) = {labels[i] for i in images[at : at + k]}  # picks stay inside their row group: a KeyError else
                rows = sum(v == label for v in labels.values())
                assert rows >= 2
                assert len(shown) == min(k, rows)  # as many different images as the product has
                assert max(shown.values()) - min(shown.values()) <= 1
                used[label] += 1
    assert set(used.values()) == {1}
    report = plan.report(epoch)
    sizes = [n for _, _, sizes in groups for n in sizes]
    if settings.mode == "products":
        assert plan.singles == sum(n == 1 for n in sizes)
        assert report.eligible == sum(n >= 2 for n in sizes)
    else:
        assert plan.singles == 0
        assert report.eligible == sum(sizes)
    assert len(used) == report.used == report.eligible - report.left_over
    assert report.left_over >= 0


@tries(max_examples=60, deadline=None)
@given(GROUPS, SETTINGS, st.data())
def test_a_cursor_gives_the_tail_of_the_full_plan(groups: Groups, settings: PlanSettings, data: st.DataObject) -> None:
    plan = planned(groups, settings)
    steps = plan.steps(0) + plan.steps(1) + 1
    at = data.draw(st.integers(0, steps - 1), label="step")
    cursor = plan.cursor(at)
    assert 0 <= cursor.step < plan.steps(cursor.epoch)
    assert plan.cursor(steps) == plan.cursor(steps - at, cursor)
    for lane in range(plan.lanes):
        full = batches(plan, lane, Cursor(), steps)
        assert len(full) == steps
        assert batches(plan, lane, cursor, steps - at) == full[at:]
        assert batches(plan, lane, Cursor(), at) == full[:at]


@tries(max_examples=60, deadline=None)
@given(GROUPS, SETTINGS, st.randoms(use_true_random=False))
def test_the_order_of_the_table_does_not_count_and_a_pickled_plan_is_the_same(
    groups: Groups, settings: PlanSettings, random: object
) -> None:
    plan = planned(groups, settings)
    table = products(groups)
    order = list(range(table.num_rows))
    random.shuffle(order)  # type: ignore[attr-defined]
    shuffled = Plan(table.take(order), settings)
    shuffled.steps(3)  # what was asked for before doesn't count
    moved = pickle.loads(pickle.dumps(plan))
    for lane in range(plan.lanes):
        told = batches(plan, lane, Cursor(), 2 * plan.steps(0))
        assert batches(shuffled, lane, Cursor(), 2 * plan.steps(0)) == told
        assert batches(moved, lane, Cursor(), 2 * plan.steps(0)) == told


@tries(max_examples=60, deadline=None)
@given(GROUPS, SETTINGS, st.integers(0, 2))
def test_category_wise_windows_hold_one_vertical_where_the_lane_has_a_batch_of_it(
    groups: Groups, settings: PlanSettings, epoch: int
) -> None:
    plan = planned(groups, replace(settings, category_wise=True, mode="products"))
    labels = where(products(groups))
    mine = {label: key for key, label in labels.items()}
    eligible = Counter(labels.values())
    for lane in range(plan.lanes):
        windows = list(plan.windows(lane, Cursor(epoch, 0), plan.steps(epoch)))
        held = {g for w in windows for g in w.groups}
        of_lane: Counter[str] = Counter()
        for g in held:
            key = tuple(plan.group_key[g])
            vertical = plan.verticals[key[0]]
            of_lane[vertical] += sum(n >= 2 and mine[label][:3] == (vertical, key[1], key[2]) for label, n in eligible.items())
        for window in windows:
            verticals = {plan.verticals[plan.group_key[g][0]] for g in window.groups}
            if len(verticals) > 1:
                assert all(of_lane[v] < window.units for v in verticals)


def even(verticals: int = 2, groups: int = 12, in_group: int = 5, images: int = 3) -> pa.Table:
    return products([(f"v{v}", g % 3, [images] * in_group) for v in range(verticals) for g in range(groups)])


def test_a_batch_of_a_category_wise_plan_shows_one_vertical_and_a_mixed_one_several() -> None:
    shown = {}
    for category_wise in (True, False):
        plan = Plan(even(), PlanSettings("products", 2, 1000, 3, products_per_batch=10, category_wise=category_wise))
        told = batches(plan, 0, Cursor(), plan.steps(0))
        shown[category_wise] = {len({v for v, *_ in images}) for _, _, images in told}
    assert shown == {True: {1}, False: {2}}


def test_seed_and_epoch_change_the_order() -> None:
    settings = PlanSettings("products", 2, 30, seed=1, products_per_batch=4)
    plan, other = Plan(even(), settings), Plan(even(), replace(settings, seed=2))
    first = [images for _, _, images in batches(plan, 0, Cursor(0, 0), plan.steps(0))]
    assert first != [images for _, _, images in batches(other, 0, Cursor(0, 0), other.steps(0))]
    assert first != [images for _, _, images in batches(plan, 0, Cursor(1, 0), plan.steps(1))]


def test_each_row_group_belongs_to_one_lane_and_is_read_once_an_epoch() -> None:
    plan = Plan(even(), PlanSettings("products", 3, 30, seed=1, products_per_batch=4))
    read = [g for lane in range(3) for w in plan.windows(lane, Cursor(), plan.steps(0)) for g in w.groups]
    assert len(read) == len(set(read)) > 3


def test_few_products_make_small_batches_and_few_row_groups_few_lanes() -> None:
    groups = [("bags", shard, [2] * 3) for shard in range(3)] + [("bags", 3, [2])]
    plan = Plan(products(groups), PlanSettings("products", 8, 2048, 0))
    assert plan.lanes == 2  # not 4, whose batches would all be as small as the last row group
    assert [len(images) for lane in (0, 1) for _, _, images in batches(plan, lane, Cursor(), 2)] == [8, 8, 8, 8]


def test_a_window_holds_a_full_batch_however_small_it_was_asked_for() -> None:
    """A window smaller than a batch would give no batch, and an epoch no step."""
    plan = Plan(even(images=4), PlanSettings("products", 2, window_images=8, seed=0, products_per_batch=16))
    report = plan.report(0)
    assert plan.steps(0) >= 2
    assert report.left_over < report.eligible / 2


@pytest.mark.parametrize(("mode", "sizes"), [("products", [1, 1, 4]), ("images", [4])])
def test_fewer_than_two_products_are_refused(mode: str, sizes: list[int]) -> None:
    with pytest.raises(UserError, match=r"Only 1 product of bags can be trained on; give at least 2\."):
        Plan(products([("bags", 0, sizes)]), PlanSettings(mode, 1, 100, 0))  # type: ignore[arg-type]
