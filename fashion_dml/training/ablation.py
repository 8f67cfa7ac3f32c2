"""The trainings of an ablation: every rung of a ladder with every seed, alike but for the rung."""

from __future__ import annotations

import difflib
from typing import Any

from fashion_dml.config import Ablate, validate
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import UserError, manifest_sha256, sha256_json
from fashion_dml.training.assignments import Assignment, TrainSettings, plan_for, recipe_of
from fashion_dml.training.ladders import LADDERS, Changes, Ladder

COLUMNS = "loss.granularity.columns"


class AblateSettings(TrainSettings):
    """Sections that an ablation reads; those of the specialists give learning rate, batch and augmentation."""

    ablate: Ablate = Ablate()


def ladder_of(method: str) -> Ladder:
    """The ladder of a method. Raises UserError for an unknown one."""
    if method not in LADDERS:
        near = difflib.get_close_matches(method, LADDERS, 1)
        raise UserError(f"There is no ladder for the method {method!r}; known are {', '.join(near or LADDERS)}.")
    return LADDERS[method]


def changed(settings: TrainSettings, changes: Changes) -> TrainSettings:
    """The settings with dotted changes, validated anew."""
    values: dict[str, Any] = settings.model_dump()
    for dotted, value in changes.items():
        *path, leaf = dotted.split(".")
        node = values
        for name in path:
            node = node[name]
        node[leaf] = value
    return validate(TrainSettings, values)


def present(changes: Changes, dataset: Dataset) -> Changes:
    """The changes, with the attribute columns of them that the dataset has. Raises UserError if it has none of them."""
    columns = changes.get(COLUMNS)
    if not columns:
        return changes
    known = {word.partition("=")[0] for word in dataset.attributes}
    if not (kept := [c for c in columns if c in known]):
        raise UserError(
            f"The dataset has none of the attributes {', '.join(columns)}, which this ladder compares; ingest them."
        )
    return {**changes, COLUMNS: kept}


def verticals_of(dataset: Dataset, settings: Ablate) -> tuple[str, ...]:
    """The verticals to train and measure on. Raises UserError for one that the dataset doesn't have."""
    known = dataset.verticals("train")
    for vertical in settings.verticals:
        if vertical not in known:
            raise UserError(f"ablate.verticals names {vertical!r}, the dataset has {', '.join(known)}.")
    return settings.verticals or tuple(known)


def trials(dataset: Dataset, method: str, settings: AblateSettings) -> dict[tuple[str, int], Assignment]:
    """(rung, seed) -> its training: all verticals in one model, `ablate.steps` steps.

    Raises UserError where two rungs would see different numbers of images, or be the same training.
    """
    ladder, verticals = ladder_of(method), verticals_of(dataset, settings.ablate)
    inputs = {"dataset": manifest_sha256(dataset.location)}
    found: dict[tuple[str, int], Assignment] = {}
    images: dict[str, int] = {}
    of_key: dict[str, str] = {}
    for number, rung in enumerate(ladder.rungs):
        for seed in range(settings.seed, settings.seed + settings.ablate.seeds):
            mine = changed(settings, {**ladder.shared, **present(rung.changes, dataset), "seed": seed})
            recipe = recipe_of(f"{number}-seed{seed}", verticals, settings.ablate.steps, mine, inputs)
            if (other := of_key.setdefault(recipe.key, rung.name)) != rung.name:
                raise UserError(
                    f"The rungs {other!r} and {rung.name!r} would be the same training with these settings; leave out of them what tells the two apart."
                )
            images[rung.name] = recipe.steps * plan_for(dataset, verticals, mine).images_per_step(0)
            start = sha256_json([mine.model.model_dump(mode="json"), seed])[:8]
            found[rung.name, seed] = Assignment(recipe, verticals, images[rung.name], mine, f"initial-{start}")
    if len(set(images.values())) > 1:
        raise UserError(
            f"The rungs would see different numbers of images ({images}); give specialists.weights that are 1, or none."
        )
    return found
