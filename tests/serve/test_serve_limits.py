"""A second application of the same index, with tight limits: what Serve refuses, what we do, and that a range of replicas deploys."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from ray import serve
from serve_helpers import until

from serve.app import build

pytestmark = [pytest.mark.serve, pytest.mark.slow]  # a service of its own; the limits themselves: test_rate.py
BODY = {"vector": [1.0] + [0.0] * 31}


@pytest.fixture(scope="module")
def tight(address: str, settings) -> Iterator[str]:
    args = {
        "workspace": settings.workspace, "shard_replicas": 1, "shard_cpus": 0, "ingress_cpus": 0.1, "encoder_cpus": 0.1,
        "ingress_replicas": [1, 2], "ingress_target": 1, "scale_up_s": 600, "max_ongoing": 1, "max_queued": 1,
        "rate_per_s": 0.001, "rate_burst": 30, "rate_client": "token",
    }  # fmt: skip
    serve.run(build(args), name="tight", route_prefix="/tight")
    until(lambda: httpx.get(f"{address}/tight/readyz", timeout=30).status_code == 200)
    yield f"{address}/tight"
    serve.delete("tight")


def test_serve_refuses_what_would_queue_too_long(tight: str, address: str, photos):
    """It does so in the proxy, before us: plain text, but with our status and Retry-After."""

    def probe(_: int) -> httpx.Response:
        return httpx.get(f"{tight}/readyz", timeout=60)

    def refused() -> list[httpx.Response]:
        with ThreadPoolExecutor(16) as pool:
            return [r for r in pool.map(probe, range(32)) if r.status_code != 200]

    found = until(refused)
    assert {r.status_code for r in found} == {503}
    assert {r.headers["retry-after"] for r in found} == {"2"}
    assert all(r.headers["content-type"].startswith("text/plain") and r.headers["x-request-id"] for r in found)
    assert all("Request dropped due to backpressure" in r.text for r in found), found[0].text
    assert httpx.post(f"{address}/v1/search", json=BODY, timeout=30).status_code == 200


def test_we_refuse_a_client_that_asks_too_often(tight: str):
    token = {"Authorization": "Bearer a token for the tests only"}
    replies = [httpx.post(f"{tight}/v1/search", json=BODY, timeout=30) for _ in range(31)]
    assert [r.status_code for r in replies] == [200] * 30 + [429]
    error = replies[-1].json()["error"]
    assert (error["code"], error["limit"]) == ("rate_limited", 0.001)
    assert replies[-1].headers.get_list("x-request-id") == [error["request_id"]]
    assert 900 < int(replies[-1].headers["retry-after"]) <= 1000
    assert httpx.post(f"{tight}/v1/search", json=BODY, headers=token, timeout=30).status_code == 200  # a bucket of its own
    assert httpx.get(f"{tight}/healthz", timeout=30).status_code == 200
    assert 'fashion_dml_refusals_total{code="rate_limited"' in httpx.get(f"{tight}/metrics", timeout=30).text


@pytest.mark.slow
def test_load_brings_another_replica(address: str, settings):
    args = {
        "workspace": settings.workspace, "shard_replicas": 1, "shard_cpus": 0, "ingress_cpus": 0.1, "encoder_cpus": 0.1,
        "ingress_replicas": [1, 2], "ingress_target": 1, "scale_up_s": 0,
    }  # fmt: skip
    serve.run(build(args), name="grows", route_prefix="/grows")
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            httpx.get(f"{address}/grows/readyz", timeout=60)

    def running() -> int:
        return serve.status().applications["grows"].deployments["search"].replica_states.get("RUNNING", 0)

    try:
        assert running() == 1
        with ThreadPoolExecutor(8) as pool:
            for _ in range(8):
                pool.submit(load)
            try:
                until(lambda: running() == 2, seconds=180)
            finally:
                done.set()
    finally:
        serve.delete("grows")
