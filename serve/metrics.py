"""Every metric of the service, and the one place that counts: each value goes to Ray's agent and to this process's `/metrics`.

Ray's agent on every node exports what all its processes counted, with the prefix `ray_`; so it is the source for a cluster.
`/metrics` shows the ingress replica that answered, named by the label `replica`, without the prefix.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import prometheus_client
from fastapi import FastAPI, Response
from ray import serve
from ray.serve.exceptions import RayServeException
from ray.util import metrics as ray_metrics

PREFIX = "fashion_dml_"
REGISTRY = prometheus_client.CollectorRegistry()
prometheus_client.disable_created_metrics()
SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


@cache
def replica() -> str:
    """Name of this process in the label `replica`; empty outside Serve."""
    try:
        return serve.get_replica_context().replica_id.unique_id
    except RayServeException:
        return ""


class Metric:
    """A metric without its prefix; `labels` besides `replica`, whose values every call gives in this order.

    The name that is exported ends in `_total` for a counter, and in `_bucket`, `_sum`, `_count` for a histogram.
    """

    local: Any
    remote: Any

    def __init__(self, name: str, description: str, labels: Sequence[str] = (), buckets: Sequence[float] = ()) -> None:
        self.name, self.description, self.labels, self.buckets = PREFIX + name, description, tuple(labels), tuple(buckets)
        self._series: dict[tuple[str, ...], tuple[Any, dict[str, str]]] = {}
        self._exported: Any = None
        more = {"buckets": self.buckets} if self.buckets else {}
        self._local = self.local(self.name, description, (*self.labels, "replica"), registry=REGISTRY, **more)

    def _of(self, values: tuple[str, ...]) -> tuple[Any, dict[str, str], Any]:
        """(this process's series of these label values, Ray's tags, Ray's metric)."""
        if self._exported is None:  # not at import: this module is read where no Ray is, too
            more = {"boundaries": list(self.buckets)} if self.buckets else {}
            self._exported = self.remote(self.name, self.description, tag_keys=(*self.labels, "replica"), **more)
        found = self._series.get(values)
        if found is None:
            tags = dict(zip((*self.labels, "replica"), (*values, replica()), strict=True))
            found = self._series[values] = (self._local.labels(**tags), tags)
        return *found, self._exported


class Counter(Metric):
    local, remote = prometheus_client.Counter, ray_metrics.Counter

    def add(self, *labels: str, count: int = 1) -> None:
        if count > 0:
            local, tags, exported = self._of(labels)
            local.inc(count)
            exported.inc(count, tags)


class Gauge(Metric):
    local, remote = prometheus_client.Gauge, ray_metrics.Gauge

    def set(self, value: float, *labels: str) -> None:
        local, tags, exported = self._of(labels)
        local.set(value)
        exported.set(value, tags)

    def only(self, *labels: str) -> None:
        """1 for these label values, 0 for all that were before: how a gauge tells which of several is the case."""
        for earlier in [known for known in self._series if known != labels]:
            self.set(0, *earlier)
        self.set(1, *labels)


class Histogram(Metric):
    local, remote = prometheus_client.Histogram, ray_metrics.Histogram

    def observe(self, value: float, *labels: str) -> None:
        local, tags, exported = self._of(labels)
        local.observe(value)
        exported.observe(value, tags)


REQUESTS = Counter("requests", "requests answered", ("route", "method", "status"))
REFUSALS = Counter("refusals", "requests refused, by the code of the error body", ("code",))
ABORTED = Counter("aborted", "requests whose client left before the answer", ("route",))
REQUEST_SECONDS = Histogram(
    "request_seconds", "seconds from a request's arrival at its replica to its answer", ("route",), SECONDS
)
IN_FLIGHT = Gauge("in_flight", "requests that this replica works on")
SEARCHES = Counter("searches", "searches answered, by what was searched with: image, vector or item", ("query",))
PARTIAL = Counter("partial_searches", "searches of which some shard gave no answer: coverage below 1")
STAGE_SECONDS = Histogram("stage_seconds", "seconds of a search, by stage: decode, encode, search, total", ("stage",), SECONDS)
BATCH_IMAGES = Histogram(
    "encoder_batch_images", "images of a forward pass; encoder replicas only", (), (1, 2, 4, 8, 16, 32, 64, 128, 256)
)
FORWARD_SECONDS = Histogram("encoder_forward_seconds", "seconds of a forward pass; encoder replicas only", (), SECONDS)
HEDGES = Counter("shard_hedges", "second replicas asked since a shard's first one was silent for hedge_s")
FAILOVERS = Counter("shard_failovers", "other replicas asked since a shard's first one was gone or behind")
CHANGES = Counter("changes", "changes of the catalogue made durable", ("kind",))
COMMIT = Gauge("catalogue_commit", "newest commit of the catalogue that this replica knows of")
LAG = Gauge("catalogue_lag_commits", "commits that the last search was behind the newest one known")
CHANGED = Gauge("changed_items", "items changed since the index was built; they are searched exactly, so build it anew in time")
READY = Gauge("ready", "1: encoder and every shard answered this replica's last look")
COVERAGE = Gauge("coverage", "share of the index that answered this replica's last look")
INDEX_ITEMS = Gauge("index_items", "items of the live index version")
INDEX_INFO = Gauge("index_info", "1 for the live index version", ("version", "model", "kind"))

METRICS: tuple[Metric, ...] = tuple(value for value in list(globals().values()) if isinstance(value, Metric))


def install(app: FastAPI, dependencies: Sequence[Any]) -> None:
    """`/metrics` of this replica in Prometheus' text format."""

    @app.get("/metrics", dependencies=dependencies, response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    async def metrics() -> Response:
        """Metrics of the ingress replica that answers; Ray's agents export those of all."""
        return Response(
            prometheus_client.generate_latest(REGISTRY), headers={"Content-Type": prometheus_client.CONTENT_TYPE_LATEST}
        )
