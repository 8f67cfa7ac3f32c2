"""A first training step without Ray: a process with torch's DataLoader, as most training scripts have it.

python -m jobs.benchmarks.plain_step DATASET TRUNK HEIGHT WIDTH PRODUCTS      (prints time.monotonic() after the step)
"""

from __future__ import annotations

import sys
import time

import numpy as np
import pyarrow.parquet as pq
import timm
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from fashion_dml.data import schema
from fashion_dml.data.decode import decode

IMAGES = 2  # of a product in a batch


class Photos(Dataset[tuple[torch.Tensor, int]]):
    """The photos of a dataset's first vertical, decoded when asked for."""

    def __init__(self, location: str, height: int, width: int) -> None:
        dataset = schema.Dataset.open(location)
        tables = [pq.read_table(str(dataset.images_file(p))) for p in dataset.parts("train", dataset.verticals("train")[:1])]
        self.files = [data for table in tables for data in table["image"].to_pylist()]
        self.labels = np.concatenate([table["label"].to_numpy() for table in tables])
        self.size = height, width

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        pixels = torch.from_numpy(decode(self.files[index], *self.size)).permute(2, 0, 1).float() / 255
        return pixels, int(self.labels[index])


def batch_of(labels: np.ndarray, products: int) -> list[int]:
    """Two photos each of the first products that have them."""
    several = [np.flatnonzero(labels == label)[:IMAGES] for label in np.unique(labels)]
    return [int(i) for rows in several if len(rows) == IMAGES for i in rows][: products * IMAGES]


def main(location: str, trunk: str, height: str, width: str, products: str) -> None:
    photos = Photos(location, int(height), int(width))
    loader = DataLoader(photos, batch_sampler=[batch_of(photos.labels, int(products))], num_workers=2)
    model = timm.create_model(trunk, pretrained=False, num_classes=128)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-4)
    for images, labels in loader:
        x = F.normalize(model(images))
        distance = torch.cdist(x, x)
        same = labels[:, None] == labels
        loss = F.relu(distance[:, :, None] - distance[:, None, :] + 0.2)[same[:, :, None] & ~same[:, None, :]].mean()
        loss.backward()
        optimizer.step()
    print(time.monotonic())


if __name__ == "__main__":
    main(*sys.argv[1:])
