"""What the simulator says of clusters that can't be had here: 8, 64 and 512 GPUs, 1e6 to 1e9 photos; docs/scale.md.

    python -m jobs.benchmarks.scale_table            prints the table of docs/scale.md

Assumptions, all of them, with where they come from. A cluster of yours: change them here and run it again.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from jobs.benchmarks.simulate import Costs, Nodes, simulate, step_seconds


@dataclass(frozen=True)
class Assumed:
    """One kind of cluster and catalogue. Prices: dollars an hour as listed for us-east-1 in 2025, spot at 40 %; check yours."""

    height: int = 224
    width: int = 168
    mac: float = 0.29e9  # multiply-adds of EfficientNet-Lite0's forward pass at that size (0.39e9 at 224 x 224)
    backward: float = 2.0  # of the backward pass over the forward's
    peak: float = 121e12  # flops a second of an L4, bf16 dense
    utilisation: float = 0.05  # of the peak; depthwise convolutions are bound by memory
    step_s: float = 0.01  # of a step beside its images: launches, optimiser
    parameters: float = 3.5e6
    decode_s: float = 1 / 800  # CPU seconds of a photo of 256 pixels: read, decode, resize (README: bare loop on one core)
    gpus_of_node: int = 4
    node_network: float = 5e9  # bytes a second into a training node (40 Gbit/s)
    link: float = 12e9  # bytes a second between GPUs of a node, PCIe
    cores_of_data_node: int = 16
    fixed_s: float = 20.0  # of a training beside its steps: model from the bucket, first window, checkpoints, publishing
    first_s: float = 20.0
    start_s: float = 300.0  # nodes come, images are pulled, Ray Train starts
    batch: int = 512  # images of a global step
    passes: float = 10.0  # over the photos, for all specialists together
    shares: tuple[float, ...] = (
        0.18,
        0.14,
        0.12,
        0.10,
        0.09,
        0.08,
        0.07,
        0.06,
        0.05,
        0.04,
        0.03,
        0.02,
        0.02,
    )  # of 13 verticals
    train_price: float = 4.60 * 0.4
    data_price: float = 0.71 * 0.4
    head_price: float = 0.10

    def costs(self) -> Costs:
        flops = 2 * self.mac * (1 + self.backward)
        return Costs(
            image_s=flops / (self.peak * self.utilisation), step_s=self.step_s, decode_s=self.decode_s, fixed_s=self.fixed_s,
            first_s=self.first_s, start_s=self.start_s, gradient_bytes=4 * self.parameters, image_bytes=self.height * self.width * 3,
        )  # fmt: skip


def plan(assumed: Assumed, gpus: int, photos: float) -> dict[str, Any]:
    """The best team size for a cluster and catalogue, and what the run then takes.

    Data nodes: as many as keep the GPUs from waiting for decoding. Teams larger than a node talk over the network.
    """
    costs = assumed.costs()
    steps = [max(1, round(assumed.passes * photos * share / assumed.batch)) for share in assumed.shares]
    found: dict[str, Any] = {}
    for team in (2**i for i in range(int(math.log2(min(gpus, assumed.batch // 32))) + 1)):
        inside = team <= assumed.gpus_of_node
        nodes = Nodes(
            gpus, team, link=assumed.link if inside else assumed.node_network / assumed.gpus_of_node, network=assumed.node_network,
            workers_of_node=min(gpus, assumed.gpus_of_node),
        )  # fmt: skip
        teams = min(gpus // team, len(steps))
        rate = teams * assumed.batch / step_seconds(costs, nodes, assumed.batch, teams)
        cores = rate * costs.decode_s
        data_nodes = math.ceil(cores / assumed.cores_of_data_node)
        said = simulate(steps, assumed.batch, costs, nodes)
        hours = said.seconds / 3600
        # Nodes whose last training has ended go; those that wait for the longest one are paid until then only in part, so this is the most.
        dollars = hours * (
            math.ceil(gpus / assumed.gpus_of_node) * assumed.train_price + data_nodes * assumed.data_price + assumed.head_price
        )
        if not found or said.seconds < found["hours"] * 3600:
            found = {
                "gpus": gpus, "photos": photos, "team": team, "data_nodes": data_nodes, "hours": hours,
                "images_per_s": said.images_per_s, "idle": said.idle, "dollars": dollars,
            }  # fmt: skip
    return found


def table() -> list[dict[str, Any]]:
    """A row for each cluster, global batch and catalogue."""
    return [
        {"batch": batch, **plan(Assumed(batch=batch), gpus, photos)}
        for gpus, batches in ((8, (512,)), (64, (512, 4096)), (512, (512, 4096, 16384)))
        for batch in batches
        for photos in (1e6, 1e7, 1e8, 1e9)
    ]


def markdown() -> str:
    head = "| GPUs | global batch | photos | team | data nodes | hours | images/s | GPU idle | dollars |\n|---|---|---|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {r['gpus']} | {r['batch']:,} | {r['photos']:.0e} | {r['team']} | {r['data_nodes']} | {r['hours']:,.1f} | {r['images_per_s']:,.0f} | "
        f"{100 * r['idle']:.0f} % | {r['dollars']:,.0f} |"
        for r in table()
    )


if __name__ == "__main__":
    print(markdown())
