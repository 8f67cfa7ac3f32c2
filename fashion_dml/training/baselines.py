"""What a user would train instead of specialists and a student: one joint model by a known recipe."""

from __future__ import annotations

import difflib

from fashion_dml.config import Baselines
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import UserError, manifest_sha256
from fashion_dml.training.ablation import changed
from fashion_dml.training.assignments import Assignment, TrainSettings, assignments, plan_for, recipe_of
from fashion_dml.training.ladders import OWN, Changes

SEMI_HARD = {"loss.miner": "TripletMarginMiner", "loss.miner_arguments": {"margin": 0.2, "type_of_triplets": "semihard"}}
RECIPES: dict[str, Changes] = {
    "joint-triplet": {"loss.name": "triplet", "loss.mining": "semi-hard", "loss.margin": 0.2},
    "pml-triplet": {"loss.name": "pml:TripletMarginLoss", "loss.arguments": {"margin": 0.2}, **SEMI_HARD},
    "pml-multi-similarity": {"loss.name": "pml:MultiSimilarityLoss", "loss.miner": "MultiSimilarityMiner"},
}
PLAIN: Changes = {**OWN, "loss.memory.size": 0}


class BaselineSettings(TrainSettings):
    """Sections that baselines read; trunk, batches, optimiser and augmentation are those of the specialists."""

    baselines: Baselines = Baselines()


def baselines(dataset: Dataset, settings: BaselineSettings) -> list[Assignment]:
    """The trainings, all of the same trunk, images and steps. Raises UserError for an unknown recipe."""
    verticals = tuple(dataset.verticals("train"))
    images = settings.baselines.images or sum(a.images for a in assignments(dataset, settings, joint=False))
    inputs = {"dataset": manifest_sha256(dataset.location)}
    found = []
    for name in settings.baselines.recipes:
        if name not in RECIPES:
            near = difflib.get_close_matches(name, RECIPES, 1)
            raise UserError(f"baselines.recipes names {name!r}; known are {', '.join(near or RECIPES)}.")
        mine = changed(settings, {**PLAIN, **RECIPES[name]})
        steps = max(1, round(images / plan_for(dataset, verticals, mine).images_per_step(0)))
        found.append(Assignment(recipe_of(name, verticals, steps, mine, inputs), verticals, images, mine))
    return found
