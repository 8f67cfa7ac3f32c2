"""Where a student begins that has several teachers side by side: their main directions, and the head that comes nearest to them."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from fashion_dml.config import Data
from fashion_dml.data.plan import Plan
from fashion_dml.data.read import Sources
from fashion_dml.models.embedder import Embedder
from fashion_dml.training.photos import decoded_photos
from fashion_dml.training.team import Team

FORWARD_IMAGES = 64
SAMPLE = 4096  # photos that are looked at
RIDGE = 0.1  # of the mean variance of a feature


def fit_head(
    embedder: Embedder,
    teach: Callable[[Tensor, Tensor], Tensor],
    dim: int,
    plan: Plan,
    sources: Sources,
    data: Data,
    team: Team,
) -> Tensor:
    """The basis float32 [E, D] of the teachers' main directions; the linear head is fitted, in place, to what they are in it.

    teach: images float [n, 3, H, W] in [0, 1] and labels int64 [n] to unit embeddings [n, E], E = `dim`. Every worker of the team embeds
    its share of SAMPLE training photos, and all of them find the same. The model is left in the mode it was in.
    """
    head, device = embedder.head, team.device
    assert isinstance(head, nn.Linear)
    width = head.in_features + dim
    count, sums = torch.zeros(1, dtype=torch.float64, device=device), torch.zeros(width, dtype=torch.float64, device=device)
    products = torch.zeros(width, width, dtype=torch.float64, device=device)
    order = np.random.default_rng(plan.settings.seed).permutation(len(plan.group_key))
    keys = plan.group_key[order[team.rank :: team.size]]
    training = embedder.training
    embedder.eval()
    with torch.inference_mode(), closing(decoded_photos(keys, plan, sources, data)) as row_groups:
        for images, labels in row_groups:
            for rows in torch.arange(len(images)).split(FORWARD_IMAGES):
                pixels = images[rows].to(device).permute(0, 3, 1, 2).float() / 255
                both = torch.cat([embedder.features(pixels), teach(pixels, labels[rows].to(device))], 1).double()
                count, sums, products = count + len(both), sums + both.sum(0), products + both.T @ both
            if count * team.size >= SAMPLE:
                break
    embedder.train(training)
    if team.group is not None:
        for total in (count, sums, products):
            dist.all_reduce(total, group=team.group)
    basis, weight, bias = solve(count, sums, products, head.in_features, embedder.dim)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return basis.float()


def solve(count: Tensor, sums: Tensor, products: Tensor, features: int, dim: int) -> tuple[Tensor, Tensor, Tensor]:
    """(basis [E, D], weight [D, F], bias [D]) from n rows of F features x and E targets t: their number, sum [F + E], and sum of outer products.

    basis: the D directions with the most of sum (u . t)^2. Weight and bias: ridge regression of the targets in it on the features,
    argmin sum ||W x + b - U^T t||^2 + n r ||W||^2, with r = RIDGE of the features' mean variance.
    """
    basis = torch.linalg.eigh(products[features:, features:])[1].flip(1)[:, :dim]
    mean = sums / count
    covariance = products / count - torch.outer(mean, mean)
    of_features = covariance[:features, :features]
    ridge = RIDGE * of_features.diagonal().mean() * torch.eye(features, dtype=of_features.dtype, device=of_features.device)
    weight = torch.linalg.solve(of_features + ridge, covariance[:features, features:] @ basis).T
    return basis, weight, mean[features:] @ basis - weight @ mean[:features]
