"""The simulator against closed forms, brute force, and plain sense."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fashion_dml.storage import UserError
from jobs.benchmarks.scale_table import markdown, table
from jobs.benchmarks.simulate import Costs, Nodes, simulate, step_seconds

COSTS = Costs(image_s=0.01, step_s=0.02, fixed_s=1.0, first_s=2.0, start_s=30.0)
near = pytest.approx


def test_one_worker_does_one_after_the_other() -> None:
    found = simulate([10, 40, 20], 8, COSTS, Nodes(1))
    assert found.makespan == near(2 + 3 * 1 + 70 * (0.02 + 8 * 0.01))
    assert found.seconds == near(found.makespan + 30)
    assert found.images_per_s == near(70 * 8 / found.makespan)
    assert found.idle == near(5 / found.makespan)


def test_equal_trainings_share_the_workers() -> None:
    assert simulate([50] * 8, 8, COSTS, Nodes(4)).makespan == near(2 + 2 * (1 + 50 * 0.1))


def test_cores_are_shared_by_all_that_train() -> None:
    """Two workers on one core: both take twice as long; on two, as if alone."""
    costs = Costs(image_s=0.01, image_cpu_s=0.01)
    assert simulate([100, 100], 8, costs, Nodes(2, cores=1)).makespan == near(100 * 8 * 0.01 * 2)
    assert simulate([100, 100], 8, costs, Nodes(2, cores=2)).makespan == near(100 * 8 * 0.01)
    assert simulate([100, 300], 8, costs, Nodes(2, cores=1)).makespan == near(400 * 8 * 0.01)  # the rest runs alone


def test_decoding_network_and_the_gradient_bound_a_step() -> None:
    decode = Costs(image_s=0.001, decode_s=0.004)
    assert step_seconds(decode, Nodes(4, decode_cores=2), 64, 4) == near(4 * 64 * 0.004 / 2)
    network = Costs(image_s=0.001, image_bytes=1e6)
    assert step_seconds(network, Nodes(4, network=1e8, workers_of_node=4), 64, 1) == near(64 * 1e6 * 4 / 1e8)
    team = Costs(image_s=0.001, step_s=0.01, gradient_bytes=4e6)
    assert step_seconds(team, Nodes(4, team=4, link=1e9), 64, 1) == near(0.01 + 0.016 + 1.5 * 4e6 / 1e9)


def test_what_cannot_be_is_refused() -> None:
    for nodes, said in (
        (Nodes(0), "0 workers make no team of 1"),
        (Nodes(2, team=4), "2 workers make no team of 4"),
        (Nodes(1, cores=0), "cores is 0"),
    ):
        with pytest.raises(UserError, match=said):
            simulate([1], 8, COSTS, nodes)
    with pytest.raises(UserError, match=r"image_s is -1.0; it must be 0 or more"):
        simulate([1], 8, Costs(image_s=-1.0), Nodes(1))
    with pytest.raises(UserError, match="4 images can't be shared by a team of 8"):
        simulate([1], 4, COSTS, Nodes(8, team=8))


def best(steps: list[int], teams: int) -> int:
    """The shortest makespan of any assignment."""
    return min(
        max(sum(s for s, t in zip(steps, places, strict=True) if t == team) for team in range(teams))
        for places in itertools.product(range(teams), repeat=len(steps))
    )


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.integers(1, 3))
def test_longest_first_is_within_a_third_of_the_best(steps: list[int], teams: int) -> None:
    found = simulate(steps, 1, Costs(image_s=1.0), Nodes(teams)).makespan
    assert best(steps, teams) - 1e-6 <= found <= 4 / 3 * best(steps, teams) + 1e-6


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 200), min_size=1, max_size=20), st.integers(1, 16), st.floats(0.5, 8))
def test_bounds(steps: list[int], workers: int, cores: float) -> None:
    costs = Costs(image_s=0.01, image_cpu_s=0.012, fixed_s=0.5)
    found = simulate(steps, 8, costs, Nodes(workers, cores=cores))
    assert 0 <= found.idle < 1
    assert found.makespan >= sum(steps) * 8 * 0.012 / cores - 1e-6
    assert found.makespan >= max(steps) * 8 * 0.01
    assert found.makespan <= sum(0.5 + s * 8 * 0.012 / min(1.0, cores) for s in steps) + 1e-6 + len(
        steps
    ) * 0.5 * workers / min(cores, workers)


def test_the_page_has_the_table_of_the_code() -> None:
    assert markdown() in (Path(__file__).parents[2] / "docs" / "scale.md").read_text()


def test_more_gpus_are_never_slower_and_larger_batches_feed_more_of_them() -> None:
    rows = {(r["gpus"], r["batch"], r["photos"]): r for r in table()}
    assert len(rows) == 24
    for photos in (1e7, 1e8, 1e9):  # of fewer, starting is what takes time
        assert rows[8, 512, photos]["hours"] >= rows[64, 512, photos]["hours"] >= rows[512, 512, photos]["hours"]
        assert rows[512, 512, photos]["idle"] >= rows[512, 4096, photos]["idle"] >= rows[512, 16384, photos]["idle"]
    assert all(0 <= r["idle"] < 1 and r["dollars"] > 0 for r in rows.values())
