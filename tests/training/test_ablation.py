"""The trainings of an ablation are alike but for their rung."""

from __future__ import annotations

import pytest
from train_helpers import DATA, MODEL

from fashion_dml.config import Ablate, FocusRanking, Loss, Model, MultiObjective, Specialists
from fashion_dml.data.schema import Dataset
from fashion_dml.losses import create_loss
from fashion_dml.losses.triplet import TripletLoss
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


BASES = {
    "hard_triplet": Loss(name="hard_triplet", margin=0.2),
    "soft margin": Loss(mining="semi-hard", soft_margin=True),
    "pml": Loss(name="pml:MultiSimilarityLoss", arguments={"alpha": 3}, miner="MultiSimilarityMiner", miner_arguments={"epsilon": 0.2}),
    "focus_ranking": Loss(name="focus_ranking", focus_ranking=FocusRanking(rank_weight=True)),
    "multi_objective": Loss(name="multi_objective", multi_objective=MultiObjective(proxy_start="random")),
}  # fmt: skip
TRIPLETS = {
    "all triplets": ("all", False),
    "semi-hard": ("semi-hard", False),
    "batch-hard": ("batch-hard", False),
    "batch-hard, soft margin": ("batch-hard", True),
    "triplet": ("all", False),
}


@pytest.mark.parametrize("base", BASES)
@pytest.mark.parametrize("method", LADDERS)
def test_a_rung_is_what_its_name_says_whatever_loss_the_settings_name(method: str, base: str, small: Dataset) -> None:
    found = trials(small, method, SETTINGS.model_copy(update={"loss": BASES[base]}))
    for (rung, seed), trial in found.items():
        loss = trial.settings.loss
        assert (loss.miner, loss.arguments, loss.miner_arguments) == ("", {}, {})
        if rung in TRIPLETS:
            assert (loss.name, loss.mining, loss.soft_margin) == ("triplet", *TRIPLETS[rung])
            made = create_loss(loss)
            assert isinstance(made, TripletLoss)
            assert (made.mining, made.soft) == TRIPLETS[rung]
        else:
            assert loss.name == method
            assert loss.focus_ranking.rank_weight == (rung == "focus, hinge, rank weights") or method != "focus_ranking"
            assert (
                loss.multi_objective.proxy_start == ("random" if "random" in rung else "photos") or method != "multi_objective"
            )
        if seed == 0:
            check(trial, small, team=1)


def test_hard_classes_are_compared_with_batches_that_are_not(small: Dataset) -> None:
    hard = SETTINGS.model_copy(update={"specialists": Specialists(products_per_batch=4, batches="hard-classes")})
    found = trials(small, "multi_objective", hard)
    assert {rung for rung, _ in found if found[rung, 0].settings.specialists.batches == "hard-classes"} == {
        "all three, hard classes"
    }


def test_a_method_is_not_compared_with_itself(small: Dataset) -> None:
    without = SETTINGS.model_copy(update={"loss": Loss(multi_objective=MultiObjective(proxy_proxy_weight=0))})
    with pytest.raises(
        UserError, match=r"^The rungs 'proxy' and 'proxy \+ proxy-proxy' would be the same training with these settings; leave"
    ):
        trials(small, "multi_objective", without)


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
