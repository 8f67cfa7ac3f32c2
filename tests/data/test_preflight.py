"""What a cluster can hold and what a run waits for, on made-up nodes."""

from __future__ import annotations

from typing import Any

import pytest

from fashion_dml.config import Cluster
from fashion_dml.data.placement import Grown, told
from fashion_dml.data.preflight import packed, refusal, waiting


def node(cpus: float, gpus: float = 0, **labels: str) -> dict[str, Any]:
    return {
        "NodeID": f"{cpus}-{gpus}-{labels}",
        "Resources": {"CPU": cpus, "GPU": gpus},
        "Labels": {"ray.io/node-id": "x", **labels},
    }


TRAIN = {"role": "train"}
GPU_NODES = Grown({"CPU": 16, "GPU": 4}, 2, TRAIN)


@pytest.mark.parametrize(
    ("settings", "nodes", "grown"),
    [
        (Cluster(workers=3), [node(2)], []),
        (Cluster(workers=4, cpus_per_worker=1), [node(2), node(3)], []),
        (Cluster(workers=2, cpus_per_worker=1, train_labels=TRAIN, data_labels={"role": "data"}), [node(2, role="train"), node(1, role="data")], []),
        (Cluster(workers=8, gpus_per_worker=1, cpus_per_worker=2, train_labels=TRAIN), [node(0)], [GPU_NODES]),
        (Cluster(workers=16, gpus_per_worker=0.5, cpus_per_worker=1), [], [GPU_NODES]),
        (Cluster(workers=(1, 8), cpus_per_worker=1.5), [node(2), node(2)], []),
    ],
)  # fmt: skip
def test_what_fits(settings: Cluster, nodes: list[dict[str, Any]], grown: list[Grown]) -> None:
    assert refusal(settings, nodes, grown) == ""


@pytest.mark.parametrize(
    ("settings", "nodes", "grown", "why"),
    [
        (Cluster(workers=4), [node(2)], [], "4 workers x 0.5 CPUs = 2, and Ray Data needs 0.25 more, but the cluster has 2 CPUs at most: lower "),
        (Cluster(workers=2, gpus_per_worker=1), [node(8)], [], "2 workers x 1 GPUs = 2, but the cluster has 0 GPUs at most: lower "),
        (Cluster(workers=9, gpus_per_worker=1), [node(8)], [GPU_NODES], "9 workers x 1 GPUs = 9, but the cluster has 8 GPUs at most: lower"),
        (Cluster(train_labels=TRAIN), [node(8), node(8, role="data")], [], "The cluster has no node with role = train, and no autoscaler that is known"),
        (Cluster(data_labels={"role": "data"}), [node(8)], [GPU_NODES], "The cluster has no node with role = data"),
        (Cluster(workers=4, train_labels=TRAIN), [node(8), node(1, role="train")], [], "but the cluster has 1 CPUs at most on nodes with role = train: lower"),
        (Cluster(workers=2, cpus_per_worker=2), [node(1)] * 6, [], "Nodes hold 0 workers of 2 CPUs at most, since a worker must fit on one"),
        (Cluster(workers=2, cpus_per_worker=9, gpus_per_worker=4), [], [Grown({"CPU": 8, "GPU": 4}, 4)], "hold 0 workers of 9 CPUs and 4 GPUs at most"),
        (Cluster(workers=(1, 8), cpus_per_worker=1), [node(2)], [], "Elastic workers would take 2 of the cluster's 2 CPUs, and Ray Data needs 0.25: raise"),
    ],
)  # fmt: skip
def test_what_can_never_fit_is_refused(settings: Cluster, nodes: list[dict[str, Any]], grown: list[Grown], why: str) -> None:
    found = refusal(settings, nodes, grown)
    assert why in found
    assert found.count(". ") == 0
    assert found.endswith(".")


def test_nodes_of_a_group_without_a_maximum_are_enough() -> None:
    assert refusal(Cluster(workers=512, gpus_per_worker=1), [], [Grown({"CPU": 8, "GPU": 1}, 1_000_000)]) == ""


def test_packing_counts_whole_workers() -> None:
    asks = Cluster(cpus_per_worker=2, gpus_per_worker=0.5)
    assert [packed({"CPU": c, "GPU": g}, asks) for c, g in ((8, 1), (8, 4), (3, 4), (1, 4), (8, 0))] == [2, 4, 1, 0, 0]


def test_a_run_that_waits_says_for_what() -> None:
    here = node(4, 1, role="train")
    said = waiting(
        Cluster(workers=4, gpus_per_worker=1, cpus_per_worker=2, train_labels=TRAIN), [here, node(8)], {here["NodeID"]: {"CPU": 1, "GPU": 0}}, [GPU_NODES]
    )  # fmt: skip
    assert said == (
        "waiting for 4 workers of 2 CPUs and 1 GPUs each on nodes with role = train: 1 such nodes are here, with 1 of 4 CPUs and "
        "0 of 1 GPUs free; the autoscaler may bring them to 32 CPUs and 8 GPUs"
    )
    assert (
        waiting(Cluster(), [], {}, []) == "waiting for 2 workers of 0.5 CPUs each: 0 such nodes are here, with 0 of 0 CPUs free"
    )


def test_labels_in_words() -> None:
    assert told({}) == ""
    assert told({"role": "train", "zone": "a"}) == " on nodes with role = train, zone = a"
