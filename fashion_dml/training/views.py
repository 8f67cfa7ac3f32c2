"""Teachers that embed, in each step, the very view of an image that the student sees."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from fashion_dml.data.schema import Dataset
from fashion_dml.losses.lag import numbered
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model
from fashion_dml.storage import Location, UserError
from fashion_dml.training.assignments import training_products
from fashion_dml.training.average import mean_of
from fashion_dml.training.student import DistillSettings, further_teachers
from fashion_dml.training.teachers import Teacher


class ViewTeachers:
    """Embeds each image by the specialist of its vertical (Beyer 2022, arXiv 2106.05237: teacher and student see the same crop).

    No part of a module: nothing of it is trained, kept in a checkpoint or sent to other workers.
    """

    def __init__(
        self, classes: Mapping[str, Tensor], specialists: Mapping[str, Embedder], device: torch.device = torch.device("cpu"),
        *, further: Sequence[Embedder] = (), mirror: bool = False,
    ) -> None:  # fmt: skip
        """classes: vertical -> labels int64 of its products (one of two verticals counts for the first); specialists: by vertical.

        further: models that embed the images of all verticals beside them; mirror: each model's embedding is the mean of the image's and its mirror image's.
        """
        labels, vertical = numbered(classes)
        self.models = list(dict.fromkeys(specialists[v] for v in classes))  # verticals of a group share theirs
        numbers = torch.tensor([self.models.index(specialists[v]) for v in classes], dtype=torch.int64)
        self.labels, self.model = labels.to(device), numbers[vertical].to(device)
        self.further, self.mirror = list(further), mirror
        self.dim = sum(m.dim for m in (self.models[0], *self.further))
        for model in (*self.models, *self.further):
            model.to(device).to(memory_format=torch.channels_last).eval().requires_grad_(False)

    @torch.no_grad()
    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """Unit embeddings float32 [n, E] of images float [n, 3, H, W] in [0, 1] by their labels int64 [n].

        With further models, E is the sum of all dimensions, and a cosine the mean of the models' cosines.
        """
        which = self.model[torch.searchsorted(self.labels, labels)]
        found = torch.empty(len(images), self.models[0].dim, device=images.device)
        for number in which.unique().tolist():
            rows = (which == number).nonzero().squeeze(1)
            found[rows] = self._embed(self.models[number], images[rows])
        parts = [found, *(self._embed(model, images) for model in self.further)]
        return torch.cat(parts, 1) / math.sqrt(len(parts))

    def _embed(self, model: Embedder, images: Tensor) -> Tensor:
        vectors: Tensor = model(images)
        return F.normalize(vectors + model(images.flip(3)), dim=1) if self.mirror else vectors


def classes_of(dataset: Dataset) -> dict[str, Tensor]:
    """Vertical -> labels int64 of its training products."""
    return {
        v: torch.from_numpy(training_products(dataset, (v,))["label"].to_numpy().copy()) for v in dataset.verticals("train")
    }


def view_teachers(
    dataset: Dataset, teachers: Mapping[str, Teacher], joint: Location, settings: DistillSettings, device: torch.device
) -> ViewTeachers:
    """The specialists; with `distill.teachers` blended the middle between each and the model at `joint`, joined the further joint models beside them."""
    loaded = {t.model: load_model(Location.of(t.model)).module for t in teachers.values()}
    if settings.distill.teachers == "blended":
        start = load_model(joint).module
        loaded = {path: mean_of(specialist, start) for path, specialist in loaded.items()}
    further = [load_model(directory).module for directory in further_teachers(settings).values()]
    mirror = any(t.mirror for t in teachers.values())
    return ViewTeachers(
        classes_of(dataset), {v: loaded[t.model] for v, t in teachers.items()}, device, further=further, mirror=mirror
    )


def check_sizes(teachers: Mapping[str, Teacher], settings: DistillSettings) -> None:
    """Raise UserError where a specialist is for photos of another size than the student's."""
    for teacher in teachers.values():
        loaded, data = load_model(Location.of(teacher.model)), settings.data
        if (loaded.height, loaded.width) != (data.height, data.width):
            raise UserError(
                f"distill.targets = view shows teacher and student the same photo, but the specialist {teacher.specialist!r} takes "
                f"{loaded.height} x {loaded.width} pixels and the student {data.height} x {data.width}: make data.height and data.width "
                f"those of the specialists, or use distill.targets = stored."
            )
