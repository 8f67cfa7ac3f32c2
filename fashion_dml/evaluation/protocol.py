"""SEPARATE and MERGED indexes: the same queries against their own vertical only, or against all verticals at once.

Specialists are trained apart, so their embeddings of different verticals may overlap in the merged index; a unified
model's shouldn't (Song et al. 2017, arXiv 1707.05929). Both figures of one model say how much that costs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from fashion_dml.evaluation.metrics import RECALL_AT, Level, Retrieval, join, measure
from fashion_dml.evaluation.refine import Refinement
from fashion_dml.storage import UserError

Protocol = Literal["separate", "merged"]
PROTOCOLS: tuple[Protocol, ...] = ("separate", "merged")


@dataclass(frozen=True)
class Items:
    """Embedded images: vectors [N, D] float32, labels [N] int64 (the product), image_ids [N] str."""

    vectors: np.ndarray
    labels: np.ndarray
    image_ids: np.ndarray

    def __post_init__(self) -> None:
        if not len(self.vectors) == len(self.labels) == len(self.image_ids):
            raise UserError(
                f"There are {len(self.vectors)} vectors, {len(self.labels)} labels and {len(self.image_ids)} image ids; "
                "give one of each for every image."
            )


@dataclass(frozen=True)
class Vertical:
    """One vertical, embedded by the model that serves it. gallery None: the queries search among themselves.

    With a gallery there may be no queries: its images are then in the merged index only.
    """

    name: str
    queries: Items
    gallery: Items | None = None

    @property
    def index(self) -> Items:
        """What is searched."""
        return self.queries if self.gallery is None else self.gallery


@dataclass(frozen=True)
class Measured:
    """Queries of all verticals in their order, under one protocol. verticals: name of each query's vertical [Q] str."""

    protocol: Protocol
    level: Level
    names: tuple[str, ...]
    verticals: np.ndarray
    query_ids: np.ndarray
    queries: Retrieval
    by_vertical: dict[str, Retrieval] = field(repr=False)

    def macro(self) -> dict[str, float]:
        """Mean over the verticals of each vertical's mean; verticals without a scored query are left out."""
        means = [part.summary() for part in self.by_vertical.values() if part.scored.any()]
        return {name: float(np.mean([m[name] for m in means])) if means else float("nan") for name in self.queries.values}


@dataclass(frozen=True)
class LeftOut:
    """A protocol that can't be measured for a model, and why."""

    protocol: Protocol
    reason: str


def evaluate(
    verticals: Sequence[Vertical],
    protocol: Protocol,
    *,
    level: Level = "image",
    recall_at: Sequence[int] = RECALL_AT,
    whole_list: bool = True,
    refinement: Refinement = Refinement(),
    memory_bytes: int = 256 << 20,
    device: str | None = None,
) -> Measured | LeftOut:
    """Every query of every vertical, under one protocol.

    LeftOut where the index can't exist: a merged one of embeddings with different dimensions. A product with images in
    two verticals (a bikini set under one number) is a right answer in both, where the index holds both.
    Raises UserError on empty or repeated verticals.
    """
    _check(verticals)
    dims = {v.name: v.queries.vectors.shape[1] for v in verticals}
    if protocol == "merged" and len(set(dims.values())) > 1:
        listed = ", ".join(f"{name} {dim}" for name, dim in dims.items())
        return LeftOut(protocol, f"its embeddings differ in dimensions ({listed}), so no index can hold them all")

    def measured(queries: Items, index: Items, exclude: np.ndarray | None) -> Retrieval:
        return measure(
            queries.vectors,
            queries.labels,
            index.vectors,
            index.labels,
            exclude=exclude,
            level=level,
            recall_at=recall_at,
            whole_list=whole_list,
            refinement=refinement,
            memory_bytes=memory_bytes,
            device=device,
        )

    if protocol == "separate":
        parts = {v.name: measured(v.queries, *searched(verticals, v, protocol)) for v in verticals}
        whole = join(list(parts.values()))
    else:
        # All queries at once: what the index needs is made once.
        rows = [searched(verticals, v, protocol)[1] for v in verticals]
        lengths = [len(v.queries.labels) for v in verticals]
        exclude = np.concatenate([np.full(n, -1) if r is None else r for n, r in zip(lengths, rows, strict=True)])
        whole = measured(together([v.queries for v in verticals]), merged_index(verticals), exclude)
        starts = np.cumsum([0, *lengths])
        parts = {v.name: whole.select(np.arange(a, a + n)) for v, a, n in zip(verticals, starts, lengths, strict=False)}
    return Measured(
        protocol,
        level,
        tuple(parts),
        np.repeat(list(parts), [len(p) for p in parts.values()]),
        np.concatenate([v.queries.image_ids for v in verticals]),
        whole,
        parts,
    )


def searched(verticals: Sequence[Vertical], vertical: Vertical, protocol: Protocol) -> tuple[Items, np.ndarray | None]:
    """The index that a vertical's queries search, and the row [Q] that each query itself has in it (None: in no row)."""
    own = None if vertical.gallery is not None else np.arange(len(vertical.queries.labels))
    if protocol == "separate":
        return vertical.index, own
    if protocol != "merged":
        raise UserError(f"The protocol is {protocol!r}; choose separate or merged.")
    before = 0
    for other in verticals:
        if other.name == vertical.name:
            break
        before += len(other.index.labels)
    return merged_index(verticals), None if own is None else own + before


def merged_index(verticals: Sequence[Vertical]) -> Items:
    """All indexes in one, in the order of the verticals; image ids become objects, so that none is cut short."""
    return together([v.index for v in verticals])


def together(parts: Sequence[Items]) -> Items:
    """Items of several verticals one after the other."""
    return Items(
        np.concatenate([p.vectors for p in parts]),
        np.concatenate([p.labels for p in parts]),
        np.concatenate([np.asarray(p.image_ids, object) for p in parts]),
    )


def _check(verticals: Sequence[Vertical]) -> None:
    names = [v.name for v in verticals]
    if not names:
        raise UserError("There is no vertical to evaluate; choose a split that holds products.")
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise UserError(f"The vertical {twice[0]!r} is given {names.count(twice[0])} times; give each once.")
    for vertical in verticals:
        if not len(vertical.queries.labels) and vertical.gallery is None:
            raise UserError(f"The vertical {vertical.name!r} has no query image; leave it out or choose another split.")
    if not any(len(v.queries.labels) for v in verticals):
        raise UserError(f"None of the verticals {', '.join(names)} has a query image; choose another split.")
