"""A batch as the trainer gets it, from the tables that the plan's readers make."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from fashion_dml.config import Data
from fashion_dml.data.read import decode_batch


@dataclass
class Batch:
    """One worker's part of a global batch; rows of its lanes, lane after lane.

    images uint8 [n, H, W, 3]; labels int64 [n]; lane int64 [n]; row int64 [n] (position in the lane's batch); targets
    float32 [n, D] or None; attributes int8 [n, A] (1 yes, -1 no, 0 unknown) or None. epoch and step are the plan's.
    digest: sum of the CRC-32 of the rows' image ids, so that two runs can be compared by what they saw.
    """

    images: Tensor
    labels: Tensor
    lane: Tensor
    row: Tensor
    targets: Tensor | None
    epoch: int
    step: int
    corrupt: list[str] = field(default_factory=list)
    digest: int = 0
    attributes: Tensor | None = None


def to_batch(group: list[pa.Table], settings: Data, in_tasks: bool) -> Batch:
    """The tables of a step's lanes together as tensors, decoded unless tasks did it."""
    images, labels, lane, row, targets, attributes, corrupt = [], [], [], [], [], [], []
    digest = 0
    steps = {(t["epoch"][0].as_py(), t["step"][0].as_py()) for t in group}
    if len(steps) != 1:
        raise RuntimeError(f"lanes are out of step: {sorted(steps)}")
    for table in group:
        if in_tasks:
            flat = np.frombuffer(b"".join(table["image"].to_pylist()), np.uint8)
            pixels = flat.reshape(table.num_rows, settings.height, settings.width, 3)
            corrupt += [i for i in table["corrupt"].to_pylist() if i]
        else:
            pixels, shown, bad = decode_batch(table, settings.height, settings.width)
            if bad:
                corrupt += bad
                table = table.take(pa.array(shown))
        digest += sum(zlib.crc32(i.encode()) for i in table["image_id"].to_pylist())
        images.append(pixels)
        labels.append(table["label"].to_numpy())
        lane.append(table["lane"].to_numpy())
        row.append(np.arange(table.num_rows))
        if "target" in table.column_names:
            values = table["target"].combine_chunks()
            targets.append(np.asarray(values.flatten()).reshape(table.num_rows, -1))
        if "attributes" in table.column_names:
            known = table["attributes"].combine_chunks()
            attributes.append(np.asarray(known.flatten()).reshape(table.num_rows, -1))
    (epoch, step) = steps.pop()
    return Batch(
        torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels).astype(np.int64)),
        torch.from_numpy(np.concatenate(lane).astype(np.int64)), torch.from_numpy(np.concatenate(row)),
        torch.from_numpy(np.concatenate(targets)) if targets else None, epoch, step, corrupt, digest,
        torch.from_numpy(np.concatenate(attributes)) if attributes else None,
    )  # fmt: skip
