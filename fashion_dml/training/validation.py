"""R@1 on held-out training products while training."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch

from fashion_dml.config import Data
from fashion_dml.data.plan import Cursor, Plan, PlanSettings
from fashion_dml.data.read import Sources
from fashion_dml.data.schema import Dataset
from fashion_dml.data.stream import stream
from fashion_dml.evaluation.metrics import measure
from fashion_dml.models.embedder import Embedder

MOST_IMAGES = 2048
FORWARD_IMAGES = 64


def even_shares(images: dict[str, int], most: int) -> dict[str, int]:
    """Images of each vertical, at most so many in all: the same for each, and what small ones leave goes to the others."""
    shares, left = {}, most
    for n, vertical in enumerate(sorted(images, key=lambda v: images[v])):
        shares[vertical] = min(images[vertical], max(1, left // (len(images) - n)))
        left -= shares[vertical]
    return shares


def validated(dataset: Dataset, verticals: list[str]) -> dict[str, pa.Table]:
    """Rows of schema.PRODUCTS that are validated on, MOST_IMAGES of images in all; without verticals that have too few to search in."""
    held = dataset.products.filter(pc.field("split") == "validation")
    tables = {v: held.filter(pc.field("vertical") == v) for v in verticals}
    images = {v: np.cumsum(t["rows"].to_numpy().astype(np.int64)) for v, t in tables.items()}
    shares = even_shares({v: int(n[-1]) if len(n) else 0 for v, n in images.items()}, MOST_IMAGES)
    kept = {v: t.filter(pa.array(images[v] <= shares[v])) for v, t in tables.items()}
    return {v: t for v, t in kept.items() if t.num_rows >= 2}


def measurable(dataset: Dataset, verticals: list[str]) -> dict[str, int]:
    """Validation images of each vertical that has enough of them to be measured."""
    return {v: int(pc.sum(t["rows"]).as_py()) for v, t in validated(dataset, verticals).items()}


class Validation:
    """Validation products of some verticals, decoded once and held as uint8: at most MOST_IMAGES in all."""

    def __init__(self, dataset: Dataset, verticals: list[str], data: Data) -> None:
        self.images: dict[str, torch.Tensor] = {}
        self.labels: dict[str, np.ndarray] = {}
        for vertical, rows in validated(dataset, verticals).items():
            total = int(pc.sum(rows["rows"]).as_py())
            plan = Plan(rows, PlanSettings("images", lanes=1, window_images=total, seed=0, images_per_batch=total))
            threads = data.model_copy(update={"executor": "threads"})
            batch = next(
                stream(plan, Sources(str(dataset.location / "images"), "validation"), threads, start=Cursor(), steps=1)
            )
            self.images[vertical], self.labels[vertical] = batch.images, batch.labels.numpy()

    def recall(self, embedder: Embedder, device: torch.device) -> dict[str, float]:
        """R@1 of each vertical within its own validation images; leaves the model in the mode it was in."""
        training = embedder.training
        embedder.eval()
        found = {}
        with torch.inference_mode():
            for vertical, images in self.images.items():
                parts = [embedder(part.to(device).permute(0, 3, 1, 2)).float().cpu() for part in images.split(FORWARD_IMAGES)]
                vectors, labels = torch.cat(parts).numpy(), self.labels[vertical]
                result = measure(vectors, labels, vectors, labels, exclude=np.arange(len(labels)), recall_at=(1,))
                found[vertical] = result.summary()["R@1"]
        embedder.train(training)
        return found
