"""The trainings of an ablation are alike but for their rung."""

from __future__ import annotations

import pytest
from train_helpers import DATA, MODEL

from fashion_dml.config import Ablate, Model, Specialists
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import UserError
from fashion_dml.training.ablation import AblateSettings, changed, trials
from fashion_dml.training.ladders import LADDERS
from fashion_dml.training.specialists import check

SETTINGS = AblateSettings(
    data=DATA,
    model=Model(**{**MODEL.model_dump(), "dim": 24}),
    ablate=Ablate(seeds=2, steps=5),
    specialists=Specialists(products_per_batch=4),
)


@pytest.mark.parametrize("method", LADDERS)
def test_every_rung_sees_as_many_images_and_can_be_trained(method: str, small: Dataset) -> None:
    found = trials(small, method, SETTINGS)
    ladder = LADDERS[method]
    assert list(found) == [(rung.name, seed) for rung in ladder.rungs for seed in (0, 1)]
    assert len({a.images for a in found.values()}) == 1
    assert len({a.recipe.key for a in found.values()}) == len({a.name for a in found.values()}) == len(found)
    assert {a.settings.seed for a in found.values()} == {0, 1}
    assert len({a.settings.model.dim for a in found.values()}) == 1
    for rung in ladder.rungs:
        check(found[rung.name, 0], small, team=1)


@pytest.mark.parametrize("method", LADDERS)
def test_claims_are_about_rungs_that_there_are(method: str) -> None:
    names = {rung.name for rung in LADDERS[method].rungs}
    for claim in LADDERS[method].claims:
        assert {claim.better, claim.worse} <= names
        assert claim.better != claim.worse


def test_changes_are_validated() -> None:
    assert changed(SETTINGS, {"loss.focus_ranking.form": "softplus", "seed": 3}).loss.focus_ranking.form == "softplus"
    with pytest.raises(UserError, match=r"There is no setting 'loss\.focus_ranking.shape'"):
        changed(SETTINGS, {"loss.focus_ranking.shape": 1})


def test_what_cannot_be_ablated(small: Dataset) -> None:
    with pytest.raises(UserError, match="There is no ladder for the method 'granular'; known are granularity"):
        trials(small, "granular", SETTINGS)
    hats = SETTINGS.model_copy(update={"ablate": Ablate(verticals=("hats",))})
    with pytest.raises(UserError, match=r"ablate\.verticals names 'hats', the dataset has"):
        trials(small, "triplet", hats)
