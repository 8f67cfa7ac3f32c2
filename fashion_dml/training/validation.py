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

MOST_IMAGES = 4096  # some 16 s of a CPU core
FORWARD_IMAGES = 64


def even_shares(images: dict[str, int], most: int) -> dict[str, int]:
    """Images of each vertical, at most so many in all: the same for each, and what small ones leave goes to the others."""
    shares, left = {}, most
    for n, vertical in enumerate(sorted(images, key=lambda v: images[v])):
        shares[vertical] = min(images[vertical], max(1, left // (len(images) - n)))
        left -= shares[vertical]
    return shares


def validated(dataset: Dataset) -> dict[str, pa.Table]:
    """Vertical -> rows of schema.PRODUCTS that it is validated on, whichever training it is part of: MOST_IMAGES of images in all.

    R@1 falls with the number of photos that are searched, and trainings are compared by it: a merge with its members alone, the student
    with its teachers. So a vertical's photos follow from the dataset, not from the company it trains in: its first products within an
    even share, and two of them whatever the share. A specialist could afford more, for a surer choice of its best checkpoint; one figure
    for all uses is worth more than that, and the budget is what the joint model can bear. Left out is a vertical that has one product, or
    whose products have one photo each: nothing can be found there.
    """
    held = dataset.products.filter(pc.field("split") == "validation")
    tables = {v: held.filter(pc.field("vertical") == v) for v in dataset.verticals("train")}
    rows = {v: t["rows"].to_numpy().astype(np.int64) for v, t in tables.items()}
    images = {v: int(n.sum()) for v, n in rows.items() if len(n) >= 2 and n.max() >= 2}
    found = {}
    for vertical, share in even_shares(images, MOST_IMAGES).items():
        kept = np.cumsum(rows[vertical]) <= share
        two = np.argsort(rows[vertical] < 2, kind="stable")[:2]  # products that make pairs come first
        kept[two] = True
        found[vertical] = tables[vertical].filter(pa.array(kept))
    return found


def measurable(dataset: Dataset) -> dict[str, int]:
    """Validation images of each vertical that can be measured."""
    return {v: int(pc.sum(t["rows"]).as_py()) for v, t in validated(dataset).items()}


class Validation:
    """Validation products of some verticals, decoded once and held as uint8: MOST_IMAGES at most, or two products of each vertical."""

    def __init__(self, dataset: Dataset, verticals: list[str], data: Data) -> None:
        self.images: dict[str, torch.Tensor] = {}
        self.labels: dict[str, np.ndarray] = {}
        found = validated(dataset)
        for vertical in (v for v in verticals if v in found):
            rows = found[vertical]
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
