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


def validated(dataset: Dataset, vertical: str, most: int) -> pa.Table | None:
    """Validation products of a vertical with at most so many images in all; None where these are too few to search in."""
    rows = dataset.products.filter((pc.field("split") == "validation") & (pc.field("vertical") == vertical))
    rows = rows.filter(pc.less_equal(pc.cumulative_sum(pc.cast(rows["rows"], pa.int64())), most))
    return rows if rows.num_rows >= 2 else None


def measurable(dataset: Dataset, verticals: list[str]) -> dict[str, int]:
    """Validation images of each vertical that has enough of them to be measured."""
    tables = {v: validated(dataset, v, MOST_IMAGES // len(verticals)) for v in verticals}
    return {v: int(pc.sum(t["rows"]).as_py()) for v, t in tables.items() if t is not None}


class Validation:
    """Validation products of some verticals, decoded once and held as uint8: at most MOST_IMAGES in all."""

    def __init__(self, dataset: Dataset, verticals: list[str], data: Data) -> None:
        self.images: dict[str, torch.Tensor] = {}
        self.labels: dict[str, np.ndarray] = {}
        share = max(1, MOST_IMAGES // len(verticals))
        for vertical in verticals:
            rows = validated(dataset, vertical, share)
            if rows is None:
                continue
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
