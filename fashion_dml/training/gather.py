"""Embeddings of all workers of a team, with gradient."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


class _Gather(torch.autograd.Function):
    """All-gather forward; backward sums each row's gradient over the workers and returns the worker's own rows."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, group: dist.ProcessGroup) -> Tensor:
        ctx.group = group
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size(group))]
        dist.all_gather(parts, rows.contiguous(), group=group)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        gradient = gradient.contiguous()
        if dist.get_backend(ctx.group) == "nccl":
            own = torch.empty_like(gradient[: len(gradient) // dist.get_world_size(ctx.group)])
            dist.reduce_scatter_tensor(own, gradient, group=ctx.group)
            return own, None
        dist.all_reduce(gradient, group=ctx.group)  # gloo has no reduce-scatter for every dtype
        return gradient.chunk(dist.get_world_size(ctx.group))[dist.get_rank(ctx.group)], None


def gather(rows: Tensor, group: dist.ProcessGroup | None) -> Tensor:
    """[n, ...] of each worker to [R n, ...], rank after rank, the same on every worker. All bring the same n.

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
