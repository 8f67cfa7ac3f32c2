"""What GPUs take: each limit against its arithmetic, and the figures of the model against the model."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.flop_counter import FlopCounterMode

from fashion_dml.config import Model
from fashion_dml.models.embedder import Embedder
from fashion_dml.storage import UserError
from fashion_dml.training.scaling import LITE0_FLOPS, LITE0_PARAMETERS, Costs, Site, Work, exchange_s, on_teams_of, predict

FREE = {"submit_s": 0, "first_s": 0, "later_s": 0, "keep_s": 0, "publish_s": 0, "least_step_s": 0, "link_latency_s": 0}
PLENTY = {"store_bytes_s": 1e15, "network_bytes_s": 1e15}
ONE = Work(images=51_200, verticals=1, passes=10, lanes=16, images_per_lane=32)  # 1,000 steps of 512
SITE = Site(cores_per_gpu=1000)


def costs(**changes: float) -> Costs:
    return Costs(**{**FREE, **PLENTY, "images_per_gpu_s": 1000.0, "decode_s": 0.0, **changes})


def seconds(team: int, gpus: int, used: Costs, site: Site = SITE, work: Work = ONE) -> float:
    return 3600 * on_teams_of(team, work, used, site, gpus).hours


def test_the_model_has_these_figures() -> None:
    model = Embedder(Model(weights="none"), 224, 224).eval()
    assert sum(p.numel() for p in model.parameters()) == LITE0_PARAMETERS
    with FlopCounterMode(display=False) as counted, torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    assert 3 * counted.get_total_flops() == LITE0_FLOPS


def test_a_gpu_alone_takes_the_sum_of_its_parts() -> None:
    assert seconds(1, 1, costs()) == pytest.approx(512)
    assert on_teams_of(1, ONE, costs(), SITE, 1).idle == pytest.approx(0)
    parts = costs(submit_s=60, first_s=7, publish_s=3, keep_s=2, keep_every=100)
    assert seconds(1, 1, parts) == pytest.approx(512 + 60 + 7 + 3 + 9 * 2)


def test_bound_by_decoding() -> None:
    slow = costs(decode_s=0.004)  # 1,000 images/s want 4 cores
    found = on_teams_of(1, ONE, slow, Site(cores_per_gpu=1, decode_cores=2), 1)
    assert found.decode_nodes == 2  # 1 + 2 x 2 >= 4
    assert found.idle == pytest.approx(0)
    assert found.idle_without_nodes == pytest.approx(1 - 1 / 4)


def test_bound_by_the_object_store() -> None:
    assert seconds(1, 1, costs(pixel_bytes=1000, store_bytes_s=500_000)) == pytest.approx(2 * 512)


def test_bound_by_the_exchange() -> None:
    slow = costs(gradient_bytes=1e8, embedding_bytes=0, link_bytes_s=1e8)
    gathered = 512 * 24 / 1e8  # labels, lanes and rows
    assert exchange_s(slow, 512, 4) == pytest.approx(3 / 4 * (2 + gathered))
    assert seconds(4, 4, slow) == pytest.approx(1000 * (512 / 4000 + 3 / 4 * (2 + gathered)))
    assert exchange_s(costs(), 512, 1) == 0


def test_steps_have_a_shortest_time() -> None:
    assert seconds(16, 16, costs(least_step_s=0.1, gradient_bytes=0, embedding_bytes=0)) == pytest.approx(100, rel=1e-4)


def test_cost_is_hours_times_price() -> None:
    site = Site(cores_per_gpu=1, decode_cores=2, gpu_hour=3, decode_hour=0.5)
    found = on_teams_of(1, ONE, costs(decode_s=0.004), site, 1)
    assert found.cost == pytest.approx(found.hours * (3 + 2 * 0.5))


@settings(max_examples=60, deadline=None)
@given(st.integers(10_000, 10**9), st.integers(1, 30), st.integers(1, 9), st.booleans())
def test_more_gpus_are_never_slower_and_idle_is_a_share(images: int, verticals: int, power: int, joint: bool) -> None:
    work = Work(images=images, verticals=verticals, joint=joint)
    fewer, more = (predict(work, Costs(), Site(), n) for n in (2 ** (power - 1), 2**power))
    assert more.hours <= fewer.hours * (1 + 1e-6)
    for found in (fewer, more):
        assert 0 <= found.idle <= found.idle_without_nodes + 1e-9 <= 1 + 1e-9


def test_what_can_not_be_is_refused() -> None:
    with pytest.raises(UserError, match="0 GPUs train nothing"):
        predict(ONE, Costs(), Site(), 0)
    with pytest.raises(UserError, match="A team of 8 GPUs can't be had of 4"):
        on_teams_of(8, ONE, Costs(), Site(), 4)
