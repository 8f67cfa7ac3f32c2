"""The losses against pytorch-metric-learning: time and peak memory of one forward and backward pass.

Rows `time_over_pml/LOSS/BATCH` and `memory_over_pml/LOSS/BATCH`: batches of 256, 1024 and 4096 with 4 images a product,
D = 128 (cascade: three levels of 128; granularity: form A with 64 words, all known), gradients to the embeddings and, where
there are some, to 4,000 proxies. The peer is the same loss where the library has it, else the nearest one; PEERS names it.
Peers of triplets list every triplet, and are left out (named in `details`) where that takes half of the free memory.

Time: median of passes in turns in one process. Memory: each case in a fresh process, after a pass of a small batch has
made threads, kernels and buffers; the kernel's high-water mark is reset (/proc/self/clear_refs) and read after one pass,
so what numpy and BLAS take counts too. On a GPU it is what the allocator held at most. For a batch of 256 both are a few
MiB and the ratio is rough. On a CPU that others use too, measure with OMP_NUM_THREADS=1: our passes over blocks meet at
many barriers, and each waits for a thread that isn't running.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_dml.config import Loss
from fashion_dml.losses import create_loss
from jobs.benchmarks import Row
from jobs.benchmarks.memory import forget_peak, resident
from jobs.benchmarks.summary import NEAREST
from jobs.common import console

BATCHES, DIM, IMAGES, PROXIES, LEVELS, WORDS = (256, 1024, 4096), 128, 4, 4000, 3, 64
PASSES = {256: 15, 1024: 7, 4096: 3}
OURS: dict[str, dict[str, Any]] = {
    "triplet": {"name": "triplet"},
    "hard_triplet": {"name": "hard_triplet"},
    "granularity": {"name": "granularity", "granularity": {"head_weight": 0}},
    "multi_similarity": {"name": "multi_objective", "multi_objective": {"proxy_weight": 0, "proxy_proxy_weight": 0}},
    "proxy_anchor": {"name": "multi_objective", "multi_objective": {"pair_weight": 0, "proxy_proxy_weight": 0}},
    "multi_objective": {"name": "multi_objective"},
    "cascade": {"name": "cascade"},
    "focus_ranking": {"name": "focus_ranking"},
}
PEERS = NEAREST | {
    "triplet": "TripletMarginLoss with TripletMarginMiner(semihard)",
    "hard_triplet": "TripletMarginLoss with BatchHardMiner",
    "multi_similarity": "MultiSimilarityLoss with its miner",
    "proxy_anchor": "ProxyAnchorLoss",
    "cascade": "three times HDCMiner with ContrastiveLoss",
}
OF_TRIPLETS = ("triplet", "focus_ranking")
Step = Callable[[], None]


def batch_of(size: int, dim: int, device: str) -> tuple[Tensor, Tensor]:
    """Unit embeddings [B, dim] as of a half-trained model (positives near cosine 0.7, negatives 0 +- 0.25) and labels."""
    generator = torch.Generator().manual_seed(0)
    products = torch.randn(size // IMAGES, 16, generator=generator) @ torch.randn(16, dim, generator=generator) / 4
    noisy = products.repeat_interleave(IMAGES, 0) + 0.65 * torch.randn(size, dim, generator=generator)
    return F.normalize(noisy, dim=1).to(device), torch.arange(size // IMAGES, device=device).repeat_interleave(IMAGES)


def our_step(name: str, size: int, device: str) -> Step:
    """One forward and backward pass of ours."""
    levels = LEVELS if name == "cascade" else 1
    x, labels = batch_of(size, DIM * levels, device)
    x = torch.cat([F.normalize(z, dim=1) for z in x.chunk(levels, 1)], 1) / levels**0.5
    words = tuple(f"word{w}" for w in range(WORDS))
    loss = create_loss(Loss(**OURS[name]), dim=DIM * levels, classes=torch.arange(PROXIES), attributes=words).to(device)
    attributes = (torch.rand(size, WORDS, generator=torch.Generator().manual_seed(1)) < 0.2).to(device, torch.int8) * 2 - 1
    return stepping(lambda leaf: loss(leaf, labels, attributes)["loss"], x)


def peer_step(name: str, size: int, device: str) -> Step:
    """One forward and backward pass of the library's loss."""
    from pytorch_metric_learning import distances, losses, miners

    x, labels = batch_of(size, DIM * (LEVELS if name == "cascade" else 1), device)
    squared = distances.LpDistance(power=2)
    triplet = losses.TripletMarginLoss(margin=0.2, distance=squared)
    if name == "triplet":
        semi_hard = miners.TripletMarginMiner(margin=0.2, type_of_triplets="semihard", distance=squared)
        return stepping(lambda leaf: triplet(leaf, labels, semi_hard(leaf, labels)), x)
    if name == "focus_ranking":
        return stepping(lambda leaf: triplet(leaf, labels), x)
    if name == "hard_triplet":
        plain, hardest = losses.TripletMarginLoss(margin=0.2), miners.BatchHardMiner()
        return stepping(lambda leaf: plain(leaf, labels, hardest(leaf, labels)), x)
    contrastive = losses.ContrastiveLoss(distance=squared)
    if name == "granularity":
        return stepping(lambda leaf: contrastive(leaf, labels), x)
    if name == "cascade":
        mining = [miners.HDCMiner(share, distance=squared) for share in (1, 0.5, 0.2)]
        return stepping(
            lambda leaf: sum(
                contrastive(z, labels, mine(z, labels)) for z, mine in zip(leaf.chunk(LEVELS, 1), mining, strict=True)
            ),
            x,
        )
    pair, miner = losses.MultiSimilarityLoss(), miners.MultiSimilarityMiner()
    proxy = losses.ProxyAnchorLoss(PROXIES, DIM).to(device)
    terms: dict[str, Callable[[Tensor], Tensor]] = {
        "multi_similarity": lambda leaf: pair(leaf, labels, miner(leaf, labels)),
        "proxy_anchor": lambda leaf: proxy(leaf, labels),
    }
    chosen = list(terms.values()) if name == "multi_objective" else [terms[name]]
    return stepping(lambda leaf: sum(term(leaf) for term in chosen), x)


def stepping(loss: Callable[[Tensor], Any], x: Tensor) -> Step:
    """Loss and gradient of a fresh leaf; waits for the device."""

    def step() -> None:
        loss(x.detach().requires_grad_(True)).backward()
        if x.is_cuda:
            torch.cuda.synchronize()

    return step


STEPS = {"ours": our_step, "pml": peer_step}


def seconds(name: str, size: int, device: str, sides: tuple[str, ...]) -> dict[str, list[float]]:
    """Seconds of passes in turns, after one that isn't counted."""
    steps = {side: STEPS[side](name, size, device) for side in sides}
    found: dict[str, list[float]] = {side: [] for side in sides}
    for count in range(PASSES[size] + 1):
        for side, step in steps.items():
            began = time.perf_counter()
            step()
            if count:
                found[side].append(time.perf_counter() - began)
    return found


def peak(name: str, size: int, device: str, side: str) -> int:
    """Bytes that one pass takes beyond what the process held before it; the process should be fresh."""
    STEPS[side](name, 32, device)()
    step = STEPS[side](name, size, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return torch.cuda.max_memory_allocated() - before
    before = resident("VmRSS")
    forget_peak()
    step()
    return resident("VmHWM") - before


def peak_in_fresh_process(name: str, size: int, device: str, side: str) -> int:
    command = [sys.executable, "-m", "jobs.benchmarks.losses", name, str(size), device, side]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return int(json.loads(done.stdout))


def peer_fits(name: str, size: int, device: str) -> bool:
    """Whether the library's list of triplets, in int64 and with as much again for its distances, is within half the memory."""
    if name not in OF_TRIPLETS:
        return True
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    cube = size**3 if size**3 < 2**31 else 0  # bytes: up to there it makes the cube as a mask
    return cube + size * (IMAGES - 1) * size * 8 * 3 * 4 < free / 2


def run(workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """All rows of `losses`, and what they were computed from."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows: list[Row] = []
    details: dict[str, Any] = {"device": device, "threads": torch.get_num_threads(), "images_per_product": IMAGES,
                               "dim": DIM, "proxies": PROXIES, "peers": PEERS, "cases": {}}  # fmt: skip
    for name in OURS:
        for size in BATCHES:
            sides = ("ours", "pml") if peer_fits(name, size, device) else ("ours",)
            times = {side: statistics.median(t) for side, t in seconds(name, size, device, sides).items()}
            peaks = {side: peak_in_fresh_process(name, size, device, side) for side in sides}
            case: dict[str, Any] = {"seconds": times, "bytes": peaks}
            if "pml" in sides:
                rows.append(Row(f"time_over_pml/{name}/{size}", times["ours"] / times["pml"], "ratio", 0.5, "lower"))
                rows.append(Row(f"memory_over_pml/{name}/{size}", peaks["ours"] / max(1, peaks["pml"]), "ratio", 0.5, "lower"))
            else:
                case["left_out"] = "the peer lists every triplet and doesn't fit into half of the free memory"
            details["cases"][f"{name}/{size}"] = case
            told = "; ".join(f"{side} {1000 * times[side]:.4g} ms, {peaks[side] / 2**20:.4g} MiB" for side in sides)
            console.print(f"{name} {size}: {told}")
    return rows, details


if __name__ == "__main__":
    loss_name, batch_size, on, of = sys.argv[1:]
    print(json.dumps(peak(loss_name, int(batch_size), on, of)))
