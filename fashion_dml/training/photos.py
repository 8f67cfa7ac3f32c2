"""Training photos as they are, row group by row group, for what is found out before a training's first step."""

from __future__ import annotations

from collections.abc import Generator

import numpy as np
import torch
from torch import Tensor

from fashion_dml.config import Data
from fashion_dml.data.ahead import ahead
from fashion_dml.data.plan import Plan
from fashion_dml.data.read import Sources, decode_batch, read_row_group
from fashion_dml.data.schema import Part
from fashion_dml.storage import Location


def decoded_photos(keys: np.ndarray, plan: Plan, sources: Sources, data: Data) -> Generator[tuple[Tensor, Tensor]]:
    """Of each row group of `keys` (rows of plan.group_key): images uint8 [n, H, W, 3], labels int64 [n]. To be closed."""

    def decoded(key: np.ndarray) -> tuple[Tensor, Tensor]:
        vertical, shard, row_group = (int(v) for v in key)
        part = Part(sources.split, plan.verticals[vertical], shard)
        table = read_row_group(Location.of(sources.images) / part.relative, row_group, ["image", "label", "image_id"])
        pixels, shown, _ = decode_batch(table, data.height, data.width)
        return torch.from_numpy(pixels), torch.from_numpy(table["label"].to_numpy()[shown])

    return ahead(iter(keys), decoded, 1)
