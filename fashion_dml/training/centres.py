"""Where products are before training: the mean embedding of their photos under the initial model."""

from __future__ import annotations

from contextlib import closing

import torch
import torch.distributed as dist
from torch import Tensor

from fashion_dml.config import Data
from fashion_dml.data.plan import Plan
from fashion_dml.data.read import Sources
from fashion_dml.models.embedder import Embedder
from fashion_dml.training.photos import decoded_photos
from fashion_dml.training.team import Team

FORWARD_IMAGES = 64


def class_centres(embedder: Embedder, classes: Tensor, plan: Plan, sources: Sources, data: Data, team: Team) -> Tensor:
    """Mean embeddings float32 [C, D] of the plan's products; 0 for a class without a photo.

    classes: int64 [C], sorted labels; photos of other products are passed over. Every worker of the team embeds its share
    of the row groups, and all of them return the same. The model is left in the mode it was in.
    """
    classes = classes.cpu()
    sums = torch.zeros(len(classes), embedder.dim, dtype=torch.float64, device=team.device)
    training = embedder.training
    embedder.eval()
    keys = plan.group_key[team.rank :: team.size]
    with torch.inference_mode(), closing(decoded_photos(keys, plan, sources, data)) as row_groups:
        for images, labels in row_groups:
            index = torch.searchsorted(classes, labels).clamp_(max=len(classes) - 1)
            mine = torch.nonzero(classes[index] == labels).squeeze(1)
            for rows in mine.split(FORWARD_IMAGES):
                vectors = embedder(images[rows].to(team.device).permute(0, 3, 1, 2)).double()
                sums.index_add_(0, index[rows].to(team.device), vectors)
    embedder.train(training)
    if team.group is not None:
        dist.all_reduce(sums, group=team.group)
    return torch.nn.functional.normalize(sums, dim=1).float()
