"""Metric learning held by the teachers, and which of two models becomes the unified one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from test_gather import one_step
from torch.nn import functional as F
from train_helpers import DATA, MODEL, embedder, metric_plan, metric_task, recipe

from fashion_dml.config import Distill, Finetune, Loss, Model, MultiObjective, validate
from fashion_dml.data.schema import Dataset
from fashion_dml.losses import create_loss
from fashion_dml.losses.distillation import DistillationLoss
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, UserError, read_manifest
from fashion_dml.training.finetune import anchored_task, blend, check, choose, finetune, validated
from fashion_dml.training.stopping import Ask, Stopped, nobody_asks
from fashion_dml.training.student import DistillSettings, finetune_recipe, unified_key
from fashion_dml.training.team import Team

SETTINGS = DistillSettings(data=DATA, model=MODEL, loss=Loss(margin=0.3), finetune=Finetune(steps=5, anchor=0.5))


def with_finetune(**changes: Any) -> DistillSettings:
    return SETTINGS.model_copy(update={"finetune": SETTINGS.finetune.model_copy(update=changes)})


@pytest.mark.parametrize("name", ["l2", "cosine", "relational", "l2+relational"])
def test_the_loss_is_that_of_metric_learning_and_the_weighed_distance(name: Any, small: Dataset) -> None:
    settings = SETTINGS.model_copy(update={"distill": Distill(loss=name)})
    task = anchored_task(embedder(small), small, settings)
    x = F.normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(0)), dim=1).requires_grad_(True)
    targets = F.normalize(torch.randn(8, 16, generator=torch.Generator().manual_seed(1)), dim=1)
    labels = torch.arange(8) // 2
    found = task.parts(x, labels, None, None, targets)
    metric, anchor = create_loss(Loss(margin=0.3))(x, labels)["loss"], DistillationLoss(name)(x, targets)["loss"]
    assert found["loss"].item() == pytest.approx((metric + 0.5 * anchor).item(), rel=1e-6)
    assert (float(found["metric"]), float(found["anchor"])) == pytest.approx((metric.item(), anchor.item()), rel=1e-6)
    assert float(found["anchor"]) > 0
    (ours,) = torch.autograd.grad(found["loss"], x)
    (theirs,) = torch.autograd.grad(metric + 0.5 * anchor, x)
    torch.testing.assert_close(ours, theirs)


def test_without_an_anchor_it_is_metric_learning(small: Dataset) -> None:
    made, plan = embedder(small), metric_plan(small)
    plain = one_step(metric_task(made, small, SETTINGS.loss, Team()), plan, small, Team())
    held = one_step(anchored_task(made, small, with_finetune(anchor=0)), plan, small, Team())
    assert torch.equal(plain["gradient"], held["gradient"])
    assert torch.equal(plain["loss"], held["loss"])


def test_the_recipe_depends_on_the_distilled_model_and_what_teaches() -> None:
    distilled = recipe(key="distilled")
    keys = {
        finetune_recipe(r, s).key
        for r, s in (
            (distilled, SETTINGS),
            (recipe(key="other"), SETTINGS),
            (distilled, with_finetune(anchor=1.0)),
            (distilled, with_finetune(height=48)),
            (distilled, with_finetune(blend=True)),  # as without
            (distilled, SETTINGS.model_copy(update={"loss": Loss(margin=0.1)})),
            (distilled, SETTINGS.model_copy(update={"distill": Distill(loss="cosine")})),
        )
    }
    assert len(keys) == 6
    other = SETTINGS.model_copy(
        update={"workspace": "elsewhere", "cluster": SETTINGS.cluster.model_copy(update={"workers": 1})}
    )
    assert finetune_recipe(distilled, other).key == finetune_recipe(distilled, SETTINGS).key


def test_larger_photos_at_the_end(small: Dataset) -> None:
    """A convolutional trunk takes any size; the model says which it is for."""
    settings, start = with_finetune(height=48, width=40), embedder(small)
    task = anchored_task(start, small, settings)
    assert (task.embedder.height, task.embedder.width) == (48, 40)
    assert all(torch.equal(a, b) for a, b in zip(start.state_dict().values(), task.embedder.state_dict().values(), strict=True))
    made = finetune_recipe(recipe(), settings)
    assert (made.data.height, made.data.width) == (48, 40)


PROXIES = Loss(name="multi_objective", multi_objective=MultiObjective(proxy_start="random"))


def tuned(unified: Path, dataset: Dataset, drawn: int, asks: Callable[[], Ask] = nobody_asks) -> str:
    """Fine-tune the distilled model under `unified` by a loss that draws where its proxies start; the weights' sha256.

    drawn: the seed of what was drawn before in this process.
    """
    settings = with_finetune(anchor=0.0, steps=6).model_copy(update={"loss": PROXIES})
    home = Location.of(unified)
    save_model(home / "distilled" / "model", embedder(dataset))
    torch.manual_seed(drawn)
    finetune(finetune_recipe(recipe(), settings), home, dataset, {}, settings, Team(), lambda progress: None, asks)
    return str((read_manifest(home / "finetuned" / "model") or {})["sha256"])


def test_it_ends_the_same_whatever_was_drawn_before(small: Dataset, tmp_path: Path) -> None:
    """In the process that distilled, in one that goes on after it, and cut in the middle."""
    first = tuned(tmp_path / "one", small, 1)
    assert tuned(tmp_path / "two", small, 2) == first
    looks = iter(["", "", "stop"])

    def asks() -> Ask:
        return next(looks)  # type: ignore[return-value]

    with pytest.raises(Stopped):
        tuned(tmp_path / "cut", small, 3, asks)
    assert tuned(tmp_path / "cut", small, 4) == first


def test_a_trunk_for_one_size_is_refused_at_another(small: Dataset) -> None:
    vit = Model(trunk="vit_tiny_patch16_224", weights="none", dim=16)
    fits = SETTINGS.model_copy(update={"model": vit})
    check(small, fits)
    with pytest.raises(
        UserError, match=r"vit_tiny_patch16_224 are for 32 x 32 pixels and can't be used for 48 x 32: train it at one size"
    ):
        check(small, fits.model_copy(update={"finetune": Finetune(steps=5, height=48)}))


def test_a_learned_projection_is_no_anchor() -> None:
    message = r"^The settings can't be used together: finetune\.steps goes with a distance [^{}]*finetune\.steps = 0\.$"
    with pytest.raises(UserError, match=message):
        validate(DistillSettings, {"distill": {"loss": "projection"}, "finetune": {"steps": 1}})
    validate(DistillSettings, {"distill": {"loss": "projection"}})


def test_a_blend_needs_a_fine_tuned_model() -> None:
    with pytest.raises(UserError, match=r"blend takes the fine-tuned model, and steps = 0 makes none; set steps above 0"):
        validate(DistillSettings, {"finetune": {"blend": True}})


def candidate(unified: Path, name: str, seed: int, recall: list[float], kept: str) -> str:
    """A model directory as a training leaves it."""
    torch.manual_seed(seed)
    validations = [{"step": step, "R@1": r, "verticals": {}} for step, r in enumerate(recall)]
    figures = {"steps": 3, "images": 9, "waited": [], "best": max(recall, default=-1.0), "best_step": 0, "corrupt": []}
    return save_model(
        Location.of(unified / name / "model"), Embedder(MODEL, 32, 32), seconds=2.0, files={"curve.parquet": b"curve"},
        validations=validations, kept=kept, **figures,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("distilled", "finetuned", "kept", "chosen"),
    [
        ([0.2, 0.6], [0.7, 0.5], "last", "distilled"),
        ([0.2, 0.6], [0.7, 0.5], "best", "finetuned"),
        ([0.2, 0.6], [0.5, 0.61], "last", "finetuned"),
        ([0.6], [0.6], "last", "distilled"),
        ([], [], "last", "distilled"),
    ],
)
def test_the_better_on_validation_products_is_published(
    distilled: list[float], finetuned: list[float], kept: str, chosen: str, tmp_path: Path
) -> None:
    candidate(tmp_path, "blended", 2, [0.9], kept)  # of an earlier run: not asked for now
    digests = {
        "distilled": candidate(tmp_path, "distilled", 0, distilled, kept),
        "finetuned": candidate(tmp_path, "finetuned", 1, finetuned, kept),
    }
    manifest = choose(Location.of(tmp_path), "key")
    assert manifest == read_manifest(Location.of(tmp_path / "model"))
    assert (manifest["chosen"], manifest["sha256"], manifest["key"]) == (chosen, digests[chosen], "key")
    assert manifest["seconds"] == 4.0
    both = {n: validated(read_manifest(Location.of(tmp_path / n / "model")) or {}) for n in digests}
    assert manifest["candidates"] == both
    assert (tmp_path / "model" / "curve.parquet").read_bytes() == b"curve"


def test_a_blend_is_half_of_the_way_and_chosen_like_the_others(tmp_path: Path, small: Dataset) -> None:
    settings, unified = with_finetune(blend=True), Location.of(tmp_path / "unified")
    distilled = recipe(inputs={"dataset": "digest"})
    made = finetune_recipe(distilled, settings)
    assert made.key == finetune_recipe(distilled, SETTINGS).key  # nothing is trained again for it
    assert unified_key(made, settings) != unified_key(made, SETTINGS) == made.key
    candidate(tmp_path / "start", "joint", 0, [], "last")
    candidate(tmp_path / "unified", "distilled", 0, [], "last")
    candidate(tmp_path / "unified", "finetuned", 1, [], "last")
    manifest = read_manifest(unified / "finetuned" / "model")
    assert manifest is not None
    (unified / "finetuned" / "model" / "manifest.json").write_json(manifest | {"key": made.key, "inputs": made.inputs})
    blend(made, unified, Location.of(tmp_path / "start" / "joint" / "model"), small, settings, Team())
    states = [
        load_model(str(tmp_path / name / "model")).module.state_dict()
        for name in ("start/joint", "unified/finetuned", "unified/blended")
    ]
    for first, last, between in zip(*(s.values() for s in states), strict=True):
        torch.testing.assert_close(between, (first + last) / 2 if last.is_floating_point() else last)
    chosen = choose(unified, "key", ("distilled", "finetuned", "blended"))
    assert (chosen["chosen"], chosen["inputs"].keys()) == ("blended", {"dataset", "distilled", "start", "finetuned"})
    verticals = chosen["validations"][-1]["verticals"]
    assert set(verticals) == set(small.verticals("train"))
    assert chosen["candidates"]["blended"] == pytest.approx(sum(verticals.values()) / len(verticals))
