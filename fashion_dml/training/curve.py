"""What every step of a training did: kept in checkpoints, published beside the model as curve.parquet."""

from __future__ import annotations

import io

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
from torch import Tensor

from fashion_dml.data.batch import Batch

FILE = "curve.parquet"
COLUMNS = ("loss", "waited", "images", "digest")


class Curve:
    """Loss, images, digest of their ids and seconds waited for them, of every step.

    Losses stay on the device until `settle`: reading each would make every step wait for it. Over a team, images and
    digests are sums and the wait is the longest; a resumed training goes on with the columns of its checkpoint, so the
    curve says whether a step was lost or done twice.
    """

    def __init__(self, kept: dict[str, Tensor] | None = None) -> None:
        self.columns = kept or {
            "loss": torch.empty(0), "waited": torch.empty(0, dtype=torch.float64),
            "images": torch.empty(0, dtype=torch.int64), "digest": torch.empty(0, dtype=torch.int64),
        }  # fmt: skip
        self._losses: list[Tensor] = []
        self._rows: list[tuple[int, int]] = []
        self._waits: list[float] = []

    def __len__(self) -> int:
        """Settled steps."""
        return len(self.columns["loss"])

    @property
    def images(self) -> int:
        """Images of all settled steps, of all workers."""
        return int(self.columns["images"].sum())

    def add(self, loss: Tensor, batch: Batch, waited: float) -> None:
        """One step; `waited` in seconds."""
        self._losses.append(loss.detach().float())
        self._rows.append((len(batch.images), batch.digest))
        self._waits.append(waited)

    def settle(self, group: dist.ProcessGroup | None) -> None:
        """Take in the steps added since the last time. Collective where there is a group."""
        if not self._losses:
            return
        losses = torch.stack(self._losses)
        rows = torch.tensor(self._rows, device=losses.device)
        waits = torch.tensor(self._waits, dtype=torch.float64, device=losses.device)
        if group is not None:
            dist.all_reduce(rows, group=group)
            dist.all_reduce(waits, dist.ReduceOp.MAX, group=group)
        for name, new in zip(COLUMNS, (losses, waits, rows[:, 0], rows[:, 1]), strict=True):
            self.columns[name] = torch.cat([self.columns[name], new.cpu()])
        self._losses, self._rows, self._waits = [], [], []

    def parquet(self) -> bytes:
        """One row a step from 1 on: step, loss, images, digest, waited_ms (the worker that waited longest)."""
        c = self.columns
        table = pa.table(
            {"step": pa.array(range(1, len(self) + 1), pa.int32()), "loss": c["loss"].numpy(), "images": c["images"].numpy(),
             "digest": c["digest"].numpy(), "waited_ms": 1000 * c["waited"].numpy()}
        )  # fmt: skip
        sink = io.BytesIO()
        pq.write_table(table, sink)
        return sink.getvalue()

    def waits(self) -> dict[str, float]:
        """Milliseconds that a step waited for its images: median, 95th percentile, longest; and seconds in all."""
        waited = self.columns["waited"]
        if not len(waited):
            return {}
        half, most = (float(1000 * torch.quantile(waited, q)) for q in (0.5, 0.95))
        found = {"median_ms": half, "p95_ms": most, "longest_ms": float(1000 * waited.max()), "total_s": float(waited.sum())}
        return {name: round(value, 3) for name, value in found.items()}
