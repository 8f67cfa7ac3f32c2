"""Joint models by known recipes: same trunk, images and steps."""

from __future__ import annotations

import pytest
from train_helpers import DATA, MODEL

from fashion_dml.config import Baselines, Loss, Memory, Specialists
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import UserError
from fashion_dml.training.assignments import assignments
from fashion_dml.training.baselines import RECIPES, BaselineSettings, baselines
from fashion_dml.training.specialists import check

SETTINGS = BaselineSettings(
    data=DATA, model=MODEL, specialists=Specialists(epochs=3, min_steps=1, products_per_batch=4),
    loss=Loss(name="focus_ranking", memory=Memory(size=64)),
)  # fmt: skip


def test_all_are_alike_but_for_the_loss(small: Dataset) -> None:
    found = baselines(small, SETTINGS)
    assert [a.name for a in found] == list(RECIPES)
    assert len({(a.recipe.steps, a.images, a.verticals) for a in found}) == 1
    assert len({a.recipe.key for a in found}) == len(RECIPES)
    for a in found:
        assert a.settings.model == SETTINGS.model
        assert a.settings.specialists == SETTINGS.specialists
        assert a.settings.data == SETTINGS.data
        check(a, small, team=1)  # the loss can be made


@pytest.mark.parametrize(
    "base",
    [
        Loss(name="hard_triplet"),
        Loss(mining="batch-hard", soft_margin=True, margin=0.5),
        Loss(
            name="pml:ContrastiveLoss", arguments={"pos_margin": 0.1}, miner="BatchHardMiner", miner_arguments={"distance": 1}
        ),
    ],
)
def test_a_recipe_is_what_its_name_says_whatever_loss_the_settings_name(base: Loss, small: Dataset) -> None:
    plain = baselines(small, SETTINGS.model_copy(update={"loss": Loss()}))
    found = baselines(small, SETTINGS.model_copy(update={"loss": base}))
    for a, b in zip(plain, found, strict=True):
        ours = {"margin": a.settings.loss.margin, "mining": a.settings.loss.mining}  # other losses' than pml's
        assert b.settings.loss.model_copy(update=ours if a.name.startswith("pml") else {}) == a.settings.loss


def test_they_see_as_many_images_as_the_specialists_or_as_were_given(small: Dataset) -> None:
    total = sum(a.images for a in assignments(small, SETTINGS, joint=False))
    one = baselines(small, SETTINGS)[0]
    per_step = one.images / one.recipe.steps
    assert one.images == total
    assert one.recipe.steps * per_step == pytest.approx(total, abs=per_step / 2)
    given = SETTINGS.model_copy(update={"baselines": Baselines(images=1000)})
    assert {a.images for a in baselines(small, given)} == {1000}
    assert baselines(small, given)[0].recipe.steps > one.recipe.steps


def test_an_unknown_recipe_is_named(small: Dataset) -> None:
    with pytest.raises(UserError, match=r"baselines\.recipes names 'pml-triplets'; known are pml-triplet\."):
        baselines(small, SETTINGS.model_copy(update={"baselines": Baselines(recipes=("pml-triplets",))}))
