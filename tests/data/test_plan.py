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

from fashion_dml.data.plan import Cursor, Near, Plan, PlanSettings, Window
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
MODES = ["vertical-wise", "mixed", "balanced", "hard-classes", "images"]
SETTINGS = st.builds(
    PlanSettings,
    mode=st.sampled_from(MODES),
    lanes=st.integers(1, 9),
    window_images=st.sampled_from([1, 6, 20, 2048]),
    seed=st.integers(0, 1 << 40),
    products_per_batch=st.integers(2, 8),
    images_per_product=st.integers(2, 6),
    images_per_batch=st.integers(2, 12),
    neighbours=st.integers(1, 4),
)
WEIGHTS = st.fixed_dictionaries({v: st.sampled_from([0.1, 0.5, 1.0, 1.5, 3.0]) for v in ("bags", "dresses", "shoes")})


def planned(groups: Groups, settings: PlanSettings) -> Plan:
    assume(sum(n >= (1 if settings.mode == "images" else 2) for _, _, sizes in groups for n in sizes) >= 2)
    return Plan(products(groups), settings)


def near_of(groups: Groups, seed: int) -> Near:
    """Unit vectors of all products but every fifth."""
    labels = np.array([r["label"] for r in products(groups).to_pylist() if r["label"] % 5], np.int64)
    vectors = np.random.default_rng(seed).normal(size=(len(labels), 4)).astype(np.float32)
    return Near(labels, vectors / np.linalg.norm(vectors, axis=1, keepdims=True))


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


def batches(plan: Plan, lane: int, start: Cursor, steps: int, near: Near | None = None) -> list[tuple[int, int, list[Image]]]:
    """(epoch, step, images) of a lane."""
    return [
        (window.epoch, window.first_step + b, addresses(plan, window, pick))
        for window in plan.windows(lane, start, steps)
        for b, pick in enumerate(plan.picks(window, near))
    ]


def shown_products(images: list[Image], labels: dict[Image, int], k: int) -> list[int]:
    """The product of each k images of a batch; each is shown by as many different images as it has, evenly."""
    found = []
    for at in range(0, len(images), k):
        shown = Counter(images[at : at + k])
        (label,) = {labels[i] for i in images[at : at + k]}  # picks stay inside their row group: a KeyError else
        rows = sum(v == label for v in labels.values())
        assert rows >= 2
        assert len(shown) == min(k, rows)
        assert max(shown.values()) - min(shown.values()) <= 1
        found.append(label)
    return found


def used_units(
    groups: Groups, plan: Plan, epoch: int, near: Near | None = None
) -> tuple[Counter[object], list[list[list[object]]]]:
    """How often the epoch uses each unit, and the units of every batch by lane; none is twice in a global batch."""
    labels = where(products(groups))
    steps = plan.steps(epoch)
    assert steps >= 1
    lanes: list[list[list[object]]] = []
    for lane in range(plan.lanes):
        told = batches(plan, lane, Cursor(epoch, 0), steps, near)
        assert [(e, s) for e, s, _ in told] == [(epoch, s) for s in range(steps)]
        k = plan.settings.images_per_product
        shown = [list(i) if plan.settings.mode == "images" else shown_products(i, labels, k) for _, _, i in told]
        lanes.append(shown)  # type: ignore[arg-type]
    for step in range(steps):
        together = [u for lane in lanes for u in lane[step]]
        assert len(together) == len(set(together)) > 0
    assert len({len(batch) for lane in lanes for batch in lane}) == 1
    return Counter(u for lane in lanes for batch in lane for u in batch), lanes


@tries(max_examples=150, deadline=None)
@given(GROUPS, SETTINGS, st.integers(0, 3), st.booleans())
def test_every_product_or_image_of_an_epoch_is_used_once_or_counted_as_left_over(
    groups: Groups, settings: PlanSettings, epoch: int, known: bool
) -> None:
    assume(settings.mode != "balanced")
    plan = planned(groups, settings)
    used, _ = used_units(groups, plan, epoch, near_of(groups, epoch) if known and settings.mode == "hard-classes" else None)
    assert set(used.values()) == {1}
    report = plan.report(epoch)
    sizes = [n for _, _, sizes in groups for n in sizes]
    if settings.mode != "images":
        assert plan.singles == sum(n == 1 for n in sizes)
        assert report.eligible == sum(n >= 2 for n in sizes)
    else:
        assert plan.singles == 0
        assert report.eligible == sum(sizes)
    assert len(used) == report.used == report.eligible - report.left_over
    assert report.left_over >= 0


@tries(max_examples=100, deadline=None)
@given(GROUPS, SETTINGS, WEIGHTS, st.integers(0, 3))
def test_a_weight_says_how_often_an_epoch_uses_a_verticals_products(
    groups: Groups, settings: PlanSettings, weights: dict[str, float], epoch: int
) -> None:
    assume(settings.mode in ("vertical-wise", "mixed", "images"))
    plan = planned(groups, replace(settings, weights=tuple(weights.items())))
    used, _ = used_units(groups, plan, epoch)
    of = {label: place[0] for place, label in where(products(groups)).items()}
    for unit, times in used.items():
        vertical = unit[0] if isinstance(unit, tuple) else of[unit]  # type: ignore[index]
        assert times <= -(-weights[vertical] // 1)
    report = plan.report(epoch)
    assert sum(used.values()) == report.used <= report.eligible


@tries(max_examples=100, deadline=None)
@given(GROUPS, SETTINGS, WEIGHTS, st.integers(0, 3))
def test_a_balanced_batch_shows_every_vertical_by_its_weight(
    groups: Groups, settings: PlanSettings, weights: dict[str, float], epoch: int
) -> None:
    plan = planned(groups, replace(settings, mode="balanced", weights=tuple(weights.items())))
    _, lanes = used_units(groups, plan, epoch)
    of = {label: place[0] for place, label in where(products(groups)).items()}
    total = sum(weights[v] for v in plan.verticals)
    for lane, shown in enumerate(lanes):
        held = Counter()  # type: ignore[var-annotated]
        seen = Counter()  # type: ignore[var-annotated]
        for window in plan.windows(lane, Cursor(epoch, 0), plan.steps(epoch)):
            counts = Counter(of[u] for u in shown[window.first_step])
            for batch in shown[window.first_step : window.first_step + window.batches]:
                assert Counter(of[u] for u in batch) == counts
            for v in plan.verticals:
                room = sum(
                    int(plan.group_start[g + 1] - plan.group_start[g])
                    for g in window.groups if plan.verticals[plan.group_key[g][0]] == v
                )  # fmt: skip
                assert counts[v] <= room
                held[v], seen[v] = held[v] + room, seen[v] + counts[v]
                # Below its share by a whole place only where it has no more products.
                assert counts[v] > window.units * weights[v] / total - 1 - 1e-9 or counts[v] == room
    assert plan.report(epoch).used == sum(len(b) for lane in lanes for b in lane)


def test_balanced_epochs_draw_the_products_of_a_small_vertical_evenly() -> None:
    table = products([("bags", g, [3] * 4) for g in range(4)] + [("shoes", g, [3] * 40) for g in range(4)])
    plan = Plan(table, PlanSettings("balanced", 2, 60, 7, products_per_batch=8))
    vertical = dict(zip(table["label"].to_pylist(), table["vertical"].to_pylist(), strict=True))
    labels = {
        (r["vertical"], r["shard"], r["row_group"], r["first_row"] + i): r["label"] for r in table.to_pylist() for i in range(3)
    }
    drawn: Counter[int] = Counter()
    for lane in range(plan.lanes):
        for _, _, images in batches(plan, lane, Cursor(), plan.steps(0)):
            shown = [labels[i] for i in images[::2]]
            assert Counter(vertical[label] for label in shown) == {"bags": 4, "shoes": 4}
            drawn.update(shown)
    bags = [drawn[label] for label, v in vertical.items() if v == "bags"]
    assert min(bags) >= 3
    assert max(bags) - min(bags) <= 3  # once a window more or less
    assert max(drawn[label] for label, v in vertical.items() if v == "shoes") == 1


def test_hard_batches_hold_seeds_and_their_nearest_products() -> None:
    """Products in clusters of four: with three neighbours a batch of eight is two whole clusters."""
    table = products([("bags", g, [2] * 8) for g in range(6)])
    labels = np.arange(table.num_rows, dtype=np.int64)
    rng = np.random.default_rng(0)
    cluster = rng.permutation(table.num_rows) // 4
    centres = rng.normal(size=(len(set(cluster)), 16))
    vectors = centres[cluster] + 0.01 * rng.normal(size=(len(labels), 16))
    near = Near(labels, (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32))
    plan = Plan(table, PlanSettings("hard-classes", 1, 10_000, 3, products_per_batch=8, neighbours=3))
    place = where(table)
    for known, clusters in ((near, 2), (None, None)):
        told = batches(plan, 0, Cursor(), plan.steps(0), known)
        found = [len({cluster[place[i]] for i in images}) for _, _, images in told]
        assert len(found) == 6
        assert (max(found) == clusters) if clusters else (max(found) > 2)


def test_unusable_weights_are_refused() -> None:
    with pytest.raises(UserError, match=r"The weight of 'v0' is 0; give a number above 0\."):
        Plan(even(), PlanSettings("mixed", 2, 100, 0, weights=(("v0", 0.0),)))
    with pytest.raises(UserError, match=r"Hard classes are drawn once an epoch"):
        Plan(even(), PlanSettings("hard-classes", 2, 100, 0, weights=(("v0", 2.0),)))
    Plan(even(), PlanSettings("hard-classes", 2, 100, 0, weights=(("shoes", 2.0),)))  # of another plan's vertical


@tries(max_examples=60, deadline=None)
@given(GROUPS, SETTINGS, WEIGHTS, st.data())
def test_a_cursor_gives_the_tail_of_the_full_plan(
    groups: Groups, settings: PlanSettings, weights: dict[str, float], data: st.DataObject
) -> None:
    hard = settings.mode == "hard-classes"
    plan = planned(groups, settings if hard else replace(settings, weights=tuple(weights.items())))
    near = near_of(groups, 3) if hard and data.draw(st.booleans(), label="near") else None
    steps = plan.steps(0) + plan.steps(1) + 1
    at = data.draw(st.integers(0, steps - 1), label="step")
    cursor = plan.cursor(at)
    assert 0 <= cursor.step < plan.steps(cursor.epoch)
    assert plan.cursor(steps) == plan.cursor(steps - at, cursor)
    for lane in range(plan.lanes):
        full = batches(plan, lane, Cursor(), steps, near)
        assert len(full) == steps
        assert batches(plan, lane, cursor, steps - at, near) == full[at:]
        assert batches(plan, lane, Cursor(), at, near) == full[:at]


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
def test_vertical_wise_windows_hold_one_vertical_where_the_lane_has_a_batch_of_it(
    groups: Groups, settings: PlanSettings, epoch: int
) -> None:
    plan = planned(groups, replace(settings, mode="vertical-wise"))
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


def test_a_batch_of_a_vertical_wise_plan_shows_one_vertical_and_a_mixed_one_several() -> None:
    shown = {}
    for mode in ("vertical-wise", "mixed"):
        plan = Plan(even(), PlanSettings(mode, 2, 1000, 3, products_per_batch=10))  # type: ignore[arg-type]
        told = batches(plan, 0, Cursor(), plan.steps(0))
        shown[mode] = {len({v for v, *_ in images}) for _, _, images in told}
    assert shown == {"vertical-wise": {1}, "mixed": {2}}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("workers", [1, 2, 3, 8])
def test_the_global_batch_of_any_number_of_workers_is_the_same(mode: str, workers: int) -> None:
    """Worker r of R has the lanes r, r + R, ...: together they have each lane once, whatever R is."""
    plan = Plan(even(groups=24), PlanSettings(mode, 8, 40, 2, products_per_batch=3, images_per_batch=6))  # type: ignore[arg-type]
    assert plan.lanes == 8
    alone = [batches(plan, lane, Cursor(), 2 * plan.steps(0)) for lane in range(8)]
    for rank in range(workers):
        mine = pickle.loads(pickle.dumps(plan))  # a plan of its own, as in another process
        for lane in range(rank, mine.lanes, workers):
            assert batches(mine, lane, Cursor(), 2 * plan.steps(0)) == alone[lane]
    assert sorted(lane for rank in range(workers) for lane in range(rank, 8, workers)) == list(range(8))


def test_seed_and_epoch_change_the_order() -> None:
    settings = PlanSettings("vertical-wise", 2, 30, seed=1, products_per_batch=4)
    plan, other = Plan(even(), settings), Plan(even(), replace(settings, seed=2))
    first = [images for _, _, images in batches(plan, 0, Cursor(0, 0), plan.steps(0))]
    assert first != [images for _, _, images in batches(other, 0, Cursor(0, 0), other.steps(0))]
    assert first != [images for _, _, images in batches(plan, 0, Cursor(1, 0), plan.steps(1))]


def test_each_row_group_belongs_to_one_lane_and_is_read_once_an_epoch() -> None:
    plan = Plan(even(), PlanSettings("vertical-wise", 3, 30, seed=1, products_per_batch=4))
    read = [g for lane in range(3) for w in plan.windows(lane, Cursor(), plan.steps(0)) for g in w.groups]
    assert len(read) == len(set(read)) > 3


def test_few_products_make_small_batches_and_few_row_groups_few_lanes() -> None:
    groups = [("bags", shard, [2] * 3) for shard in range(3)] + [("bags", 3, [2])]
    plan = Plan(products(groups), PlanSettings("vertical-wise", 8, 2048, 0))
    assert plan.lanes == 2  # not 4, whose batches would all be as small as the last row group
    assert [len(images) for lane in (0, 1) for _, _, images in batches(plan, lane, Cursor(), 2)] == [8, 8, 8, 8]


def test_a_window_holds_a_full_batch_however_small_it_was_asked_for() -> None:
    """A window smaller than a batch would give no batch, and an epoch no step."""
    plan = Plan(even(images=4), PlanSettings("vertical-wise", 2, window_images=8, seed=0, products_per_batch=16))
    report = plan.report(0)
    assert plan.steps(0) >= 2
    assert report.left_over < report.eligible / 2


@pytest.mark.parametrize(("mode", "sizes"), [("mixed", [1, 1, 4]), ("images", [4])])
def test_fewer_than_two_products_are_refused(mode: str, sizes: list[int]) -> None:
    with pytest.raises(UserError, match=r"Only 1 product of bags can be trained on; give at least 2\."):
        Plan(products([("bags", 0, sizes)]), PlanSettings(mode, 1, 100, 0))  # type: ignore[arg-type]
