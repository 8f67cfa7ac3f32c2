"""Embeddings of all workers of a team, with gradient."""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")


class _Gather(torch.autograd.Function):
    """All-gather forward; backward sums each row's gradient over the workers and returns the worker's own rows.

    A worker with more lanes than another has more rows, so they are padded on their way.
    """

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup) -> Tensor:
        own = torch.tensor([len(rows)], device=rows.device)
        counts = [torch.empty_like(own) for _ in range(dist.get_world_size(group))]
        dist.all_gather(counts, own, group=group)
        ctx.group, ctx.sizes = group, [int(count) for count in counts]
        most = max(ctx.sizes)
        padded = torch.cat([rows, rows.new_zeros(most - len(rows), *rows.shape[1:])])
        parts = [torch.empty_like(padded) for _ in ctx.sizes]
        dist.all_gather(parts, padded, group=group)
        return torch.cat([part[:size] for part, size in zip(parts, ctx.sizes, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.clone(memory_format=torch.contiguous_format)  # autograd may have given others the same tensor
        if dist.get_backend(ctx.group) == "nccl" and len(set(ctx.sizes)) == 1:
            own = torch.empty_like(gradient[: ctx.sizes[0]])
            dist.reduce_scatter_tensor(own, gradient, group=ctx.group)
            return own, None
        dist.all_reduce(gradient, group=ctx.group)  # gloo has no reduce-scatter for every dtype
        return gradient.split(ctx.sizes)[dist.get_rank(ctx.group)], None


def gather(rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """[n, ...] of each worker to [sum of all n, ...], rank after rank, the same on every worker.

    Every worker computes the whole loss on the result, and the backward pass sums over workers; DDP then takes the
    mean of R equal sums, so the parameters' gradient is that of one worker on the concatenated batch.
    """
    if group is None:
        return rows
    found: Tensor = _Gather.apply(rows, group)
    return found


def in_lane_order(lane: Tensor, row: Tensor) -> Tensor:
    """The permutation that puts gathered rows in the order of one worker with all lanes: by lane, then row."""
    return torch.argsort(lane * (int(row.max()) + 1) + row)


def from_first(value: T, group: dist.ProcessGroup | None, device: torch.device) -> T:
    """What the first worker of a team holds, on all of them; any small picklable value."""
    if group is None:
        return value
    held = [value]
    dist.broadcast_object_list(held, src=dist.get_global_rank(group, 0), group=group, device=device)
    return held[0]
