"""Where a training starts: the initial model, and the task of one assignment."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pyarrow.compute as pc
import torch

from fashion_dml.config import Data, Model
from fashion_dml.data.plan import Cursor, Plan, PlanSettings
from fashion_dml.data.read import Sources
from fashion_dml.data.schema import Dataset
from fashion_dml.data.stream import stream
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.head import pca_head
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location, UserError, manifest_sha256, read_manifest, sha256_json
from fashion_dml.training.assignments import TrainSettings, training_products
from fashion_dml.training.task import MetricTask
from fashion_dml.training.team import Team

HEAD_IMAGES = 2048


def trainable(loaded: Embedder, settings: Model, data: Data) -> Embedder:
    """A fresh module with the weights of a loaded one, so that frozen stages and input size are those of the settings.

    Raises UserError where the weights are for another size.
    """
    embedder = Embedder(settings.model_copy(update={"weights": "none"}), data.height, data.width)
    try:
        embedder.load_state_dict(loaded.state_dict())
    except RuntimeError as error:
        raise UserError(
            f"The weights of {settings.trunk} are for {loaded.height} x {loaded.width} pixels and can't be used for "
            f"{data.height} x {data.width}: train it at one size, without specialists.coarse_steps and finetune.height and width."
        ) from error
    embedder.settings = settings
    return embedder


def metric_task(
    embedder: Embedder, dataset: Dataset, verticals: tuple[str, ...], settings: TrainSettings, team: Team = Team(),
    make: Callable[..., MetricTask] = MetricTask,
) -> MetricTask:  # fmt: skip
    """The task of one training. Raises UserError where loss, model and dataset don't fit."""
    products = training_products(dataset, verticals)
    # Those that batches show: a proxy of a product with one image would only ever push.
    shown = products.filter(pc.field("rows") >= 2)
    classes = torch.from_numpy(np.unique(shown["label"].to_numpy()))
    task = make(embedder, settings.loss, group=team.group, classes=classes, attributes=tuple(dataset.attributes))
    if settings.specialists.batches == "hard-classes" and task.near() is None:
        raise UserError(
            f"specialists.batches = hard-classes asks for a loss with proxies, and {settings.loss.name} has none: "
            f"use loss.name = multi_objective, or other batches."
        )
    return task


def initial_model(dataset: Dataset, settings: TrainSettings, output: Location) -> None:
    """Publish the model where trainings start: pretrained trunk, and the head of `model.head`.

    The head is fitted on a seeded sample of training images of all verticals; it uses no labels. Corrupt images are
    passed over, however many: they are for the trainings of their verticals to report.
    """
    config = {
        "model": settings.model.model_dump(mode="json"),
        "data": settings.data.model_dump(mode="json", include={"height", "width"}),
        "seed": settings.seed,
    }
    key = sha256_json([config, manifest_sha256(dataset.location)])
    known = read_manifest(output)
    if known is not None and known.get("key") == key:
        return
    torch.manual_seed(settings.seed)
    embedder = Embedder(settings.model, settings.data.height, settings.data.width).eval()
    if settings.model.head == "pca":
        products = dataset.products.filter(pc.field("split") == "train")
        plan = Plan(products, PlanSettings("images", 1, 4 * HEAD_IMAGES, settings.seed, images_per_batch=64))
        steps = max(1, min(plan.steps(0), HEAD_IMAGES // 64))
        threads = settings.data.model_copy(update={"executor": "threads", "max_corrupt": 1.0})
        with torch.inference_mode():
            found = [
                embedder.features(batch.images.permute(0, 3, 1, 2))
                for batch in stream(
                    plan, Sources(str(dataset.location / "images"), "train"), threads, start=Cursor(), steps=steps
                )
            ]
        pca_head(embedder.head, torch.cat(found).clone())
    save_model(output, embedder, config=config, inputs={"dataset": manifest_sha256(dataset.location)}, key=key)
