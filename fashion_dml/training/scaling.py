"""What a run of specialists on a GPU cluster takes: seconds, idle GPUs, decode nodes and money, from costs of its parts.

Assumptions, each a setting or stated here:
- a step computes for images / team / (images a GPU does a second), but for `least_step_s` at least (kernels are launched one by one);
- gradients (ring all-reduce) and embeddings (all-gather, and reduce-scatter backward) are exchanged after that, nothing overlaps:
  an upper bound, DDP hides a part;
- decoding, the object store and the nodes' network are pools of the whole cluster, spread evenly, and images are fetched ahead: a
  training waits only where a pool gives less than it uses;
- every lane has work, teams stand on neighbouring GPUs, no node fails, and files are read as fast as they are asked for;
- a team validates and saves with its other GPUs waiting.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from fashion_dml.config import Positive, Section, Share
from fashion_dml.storage import UserError
from fashion_dml.training.simulate import Job, Phase, simulate

LITE0_FLOPS = 3 * 768_142_784
"""Of EfficientNet-Lite0 on one 224 px image: a multiply and an add are two; backward counts twice the forward pass."""
LITE0_PARAMETERS = 3_534_976
"""With the head to 128 dimensions."""
ROW_BYTES = 24  # label, lane and row beside each embedding
COLLECTIVES = 4  # gathers of counts and rows, twice; the two reductions come on top

Number = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Above = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Costs(Section):
    """Of the parts of a run. Defaults for GPUs are assumptions (docs/scale.md); those of CPUs and of Ray were measured."""

    flops: Number = Field(LITE0_FLOPS, description="floating-point operations of an image, forward and backward")
    peak_flops_s: Above = Field(312e12, description="of a GPU: an A100's in bf16")
    utilisation: Annotated[Share, Field(gt=0)] = Field(
        0.0185, description="share of the peak that a step reaches: 2,489 images/s of EfficientNet-B0, as NVIDIA publishes it"
    )
    images_per_gpu_s: Number = Field(0.0, description="images a GPU trains on in a second, measured; 0: from the flops")
    least_step_s: Number = Field(0.03, description="seconds of the shortest step, however few its images")
    gradient_bytes: Number = Field(4 * LITE0_PARAMETERS, description="bytes of all gradients")
    embedding_bytes: Number = Field(4 * 128, description="bytes of an embedding, gathered in every step")
    link_bytes_s: Above = Field(6.25e9, description="bytes/s between two GPUs of a team: an eighth of a node's 400 Gbit/s")
    link_latency_s: Number = Field(20e-6, description="seconds of a message between two GPUs")
    decode_s: Number = Field(0.0011, description="core seconds to make an image's file pixels")
    pixel_bytes: Number = Field(224 * 224 * 3, description="bytes of an image's pixels, which pass through the object store")
    image_bytes: Number = Field(26_000, description="bytes of an image's file")
    store_bytes_s: Above = Field(
        1e10, description="bytes/s that a node's object store takes: five writers at the 2e9 measured of one"
    )
    network_bytes_s: Above = Field(50e9, description="bytes/s of a GPU node's network")
    submit_s: Number = Field(60.0, description="seconds from submission until all workers stand, nodes being up")
    first_s: Number = Field(10.0, description="seconds before the first step of a worker's first training")
    later_s: Number = Field(2.0, description="seconds before the first step of each later one")
    keep_s: Number = Field(2.0, description="seconds of a validation with its checkpoint")
    keep_every: Positive = Field(1000, description="steps between them")
    publish_s: Number = Field(3.0, description="seconds from a training's last step until its model is published")

    @property
    def image_s(self) -> float:
        """GPU seconds of an image."""
        return 1 / self.images_per_gpu_s if self.images_per_gpu_s else self.flops / (self.peak_flops_s * self.utilisation)


class Site(Section):
    """The cluster, and its prices."""

    gpus_per_node: Positive = Field(8, description="GPUs of a node")
    cores_per_gpu: Number = Field(4.0, description="cores beside each GPU that decode")
    decode_cores: Positive = Field(8, description="cores of a decode node")
    gpu_hour: Number = Field(3.0, description="price of a GPU for an hour, USD")
    decode_hour: Number = Field(0.7, description="price of a decode node for an hour, USD")
    prices_of: str = Field(
        "round figures of clouds' list prices in 2025 (A100 80 GB; 16 virtual CPUs): check yours",
        description="where the prices are from",
    )


class Work(Section):
    """What is trained: specialists of verticals whose sizes fall as 1 / sqrt(rank)."""

    images: Positive = Field(1_000_000, description="training images")
    verticals: Positive = Field(24, description="specialists")
    passes: Above = Field(10.0, description="times each image is shown")
    lanes: Positive = Field(16, description="lanes of a training, so most GPUs of a team")
    images_per_lane: Positive = Field(32, description="images of a lane's batch")
    joint: bool = Field(False, description="also the joint model, which sees as many images as all specialists")

    @property
    def trainings(self) -> list[float]:
        """Images that each training sees."""
        weights = [1 / math.sqrt(rank) for rank in range(1, self.verticals + 1)]
        total = self.images * self.passes
        return ([total] if self.joint else []) + [total * w / sum(weights) for w in weights]


@dataclass(frozen=True)
class Prediction:
    """hours: from submission to the last published model. idle: share of GPU time in which no kernel runs; without_nodes:
    that without decode nodes. cost: USD. read_bytes_s: of image files while all teams train."""

    gpus: int
    images: int
    team: int
    decode_nodes: int
    hours: float
    images_s: float
    idle: float
    idle_without_nodes: float
    cost: float
    read_bytes_s: float

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def exchange_s(costs: Costs, images: int, team: int) -> float:
    """Seconds in which a step's gradients and embeddings go round a ring of `team` GPUs; images: of the global batch."""
    others = team - 1
    carried = 2 * costs.gradient_bytes + images * (2 * costs.embedding_bytes + ROW_BYTES)
    return others / team * carried / costs.link_bytes_s + (2 + 1 + COLLECTIVES) * others * costs.link_latency_s


def job(name: str, seen: float, work: Work, costs: Costs, team: int) -> Job:
    """One training that sees so many images, on a team."""
    batch = work.lanes * work.images_per_lane
    steps = max(1, round(seen / batch))
    computes = max(costs.least_step_s, batch / team * costs.image_s)
    takes = computes + exchange_s(costs, batch, team)
    pixels = batch * costs.pixel_bytes / takes
    uses = {"cores": batch * costs.decode_s / takes, "store": pixels, "network": pixels}
    kept = (math.ceil(steps / costs.keep_every) - 1) * costs.keep_s
    return Job(
        name, seen, (Phase(steps * takes, uses, steps * computes * team), Phase(kept + costs.publish_s)),
        (Phase(costs.first_s),), (Phase(costs.later_s),),
    )  # fmt: skip


def on_teams_of(team: int, work: Work, costs: Costs, site: Site, gpus: int) -> Prediction:
    """What the run takes with teams of this size, and with as many decode nodes as keep them fed."""
    if not 1 <= team <= gpus:
        raise UserError(f"A team of {team} GPUs can't be had of {gpus}; give between 1 and {gpus}.")
    jobs = [job(f"training-{i:04}", seen, work, costs, team) for i, seen in enumerate(work.trainings)]
    teams = gpus // team
    at_once = min(teams, len(jobs))
    asked = at_once * max(j.work[0].uses["cores"] for j in jobs)
    own = gpus * site.cores_per_gpu
    nodes = max(0, math.ceil((asked - own) / site.decode_cores - 1e-9))
    machines = math.ceil(gpus / site.gpus_per_node)
    pools = {"store": machines * costs.store_bytes_s, "network": machines * costs.network_bytes_s}

    def run(cores: float) -> tuple[float, float]:
        """(seconds, share of GPU time idle)"""
        found = simulate(jobs, teams, {**pools, "cores": max(cores, 1e-9)})
        seconds = costs.submit_s + found.makespan
        return seconds, 1 - found.busy / (gpus * seconds) if seconds else 0.0

    seconds, idle = run(own + nodes * site.decode_cores)
    without = run(own)[1] if own and nodes else 1.0 if nodes else idle
    hours = seconds / 3600
    total = sum(work.trainings)
    rate = at_once * max(j.size / j.work[0].seconds for j in jobs)
    return Prediction(
        gpus, work.images, team, nodes, hours, total / seconds if seconds else 0.0, idle, without,
        hours * (gpus * site.gpu_hour + nodes * site.decode_hour), rate * costs.image_bytes,
    )  # fmt: skip


def predict(work: Work, costs: Costs, site: Site, gpus: int) -> Prediction:
    """The fastest run on so many GPUs: teams of 1, 2, 4, ... GPUs, as many as there are lanes at most. At a tie smaller teams."""
    if gpus < 1:
        raise UserError(f"{gpus} GPUs train nothing; give at least 1.")
    sizes = [2**k for k in range(min(work.lanes, gpus).bit_length())]
    return min((on_teams_of(size, work, costs, site, gpus) for size in sizes), key=lambda p: (p.hours, p.team))
