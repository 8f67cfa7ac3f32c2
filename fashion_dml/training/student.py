"""The student's trainings, distillation and the fine-tuning after it: settings, plans, and what each depends on."""

from __future__ import annotations

import pyarrow.compute as pc
from pydantic import model_validator

from fashion_dml.config import Data, Distill, Finetune
from fashion_dml.data.plan import Plan, PlanSettings
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import Location, UserError, manifest_sha256, require_manifest, sha256_json
from fashion_dml.training.assignments import (
    JOINT,
    NO_PART_OF_A_KEY,
    TrainSettings,
    assignments,
    check_weights,
    joint_names,
    lanes_short,
    plan_for,
)
from fashion_dml.training.recipe import Recipe
from fashion_dml.training.teachers import Teacher

UNIFIED, DISTILLED, FINETUNED, BLENDED = "unified", "distilled", "finetuned", "blended"


class DistillSettings(TrainSettings):
    """Sections that distillation reads; those of the specialists say how many images they saw."""

    distill: Distill = Distill()
    finetune: Finetune = Finetune()

    @model_validator(mode="after")
    def _anchor(self) -> DistillSettings:
        if self.finetune.steps and self.distill.loss == "projection":
            raise ValueError(
                "finetune.steps goes with a distance to the teachers, and distill.loss = projection learns one that isn't kept; "
                "use l2, cosine or relational, or finetune.steps = 0"
            )
        return self

    @model_validator(mode="after")
    def _blended(self) -> DistillSettings:
        if self.distill.teachers == "blended" and self.specialists.start != "joint":
            raise ValueError(
                f"distill.teachers = blended is the middle of the way from the joint model to a specialist, and specialists.start = "
                f"{self.specialists.start} begins elsewhere; use specialists.start = joint, or distill.teachers = specialists"
            )
        return self

    @model_validator(mode="after")
    def _joints(self) -> DistillSettings:
        if self.distill.start == "joints":
            if len(self.specialists.joint_draws) < 2:
                raise ValueError(
                    "distill.start = joints is the mean of several joint models, and specialists.joint_draws makes one; "
                    "give it two numbers or more, or use distill.start = joint"
                )
            if self.finetune.blend:
                raise ValueError(
                    "finetune.blend is the middle of the way from one joint model, and distill.start = joints begins at the mean of several; "
                    "use distill.start = joint, or finetune.blend = false"
                )
        return self

    @model_validator(mode="after")
    def _joined(self) -> DistillSettings:
        if self.distill.teachers != "joined":
            return self
        if len(self.specialists.joint_draws) < 2:
            raise ValueError(
                "distill.teachers = joined takes further joint models beside the specialists, and specialists.joint_draws makes none; "
                "give it two numbers or more, or use distill.teachers = specialists"
            )
        if self.model.taps and self.distill.loss != "relational":
            raise ValueError(
                f"distill.teachers = joined fits the student's head to the teachers, which takes one linear map, and model.taps = {list(self.model.taps)} "
                f"makes several; use distill.loss = relational, or no taps"
            )
        if self.finetune.steps and (self.finetune.blend or (self.finetune.anchor and self.distill.loss != "relational")):
            raise ValueError(
                "distill.teachers = joined gives the student directions of its own, in which neither finetune.anchor to the specialists' embeddings "
                "nor finetune.blend with the joint model means anything; use anchor = 0 and blend = false, or finetune.steps = 0"
            )
        return self

    @model_validator(mode="after")
    def _student_lanes(self) -> DistillSettings:
        if self.cluster.most > self.data.lanes:
            raise ValueError(lanes_short("cluster.workers", self.cluster.most, self.data.lanes))
        return self


def distill_plan(dataset: Dataset, settings: DistillSettings) -> Plan:
    """Shuffled images of all verticals; labels play no part."""
    products = dataset.products.filter(pc.field("split") == "train")
    d = settings.distill
    check_weights("distill", d.weights, dataset.verticals("train"))
    return Plan(
        products,
        PlanSettings(
            "images", settings.data.lanes, settings.data.window_images, settings.seed, images_per_batch=d.images_per_batch,
            weights=tuple(sorted(d.weights.items())),
        ),
    )  # fmt: skip


def recipe_for(dataset: Dataset, teachers: dict[str, Teacher], settings: DistillSettings) -> Recipe:
    """The student's training. Without `distill.steps` it sees as many images as all specialists together."""
    d = settings.distill
    steps = d.steps
    if not steps:
        total = sum(a.images for a in assignments(dataset, settings, joint=False))
        steps = max(1, round(total / distill_plan(dataset, settings).images_per_step(0)))
    inputs = {v: t.sha256 for v, t in sorted(teachers.items())} | {"dataset": manifest_sha256(dataset.location)}
    for name in begun_from(settings):
        inputs[name] = joint_start(Location.of(settings.workspace), settings, name)
    for name, directory in further_teachers(settings).items():
        inputs[name] = str(require_manifest(directory, made_by="python -m jobs.train_specialists")["sha256"])
    of_views = {"targets", "teachers"} if d.targets == "stored" else set()  # as before there were views
    config = {
        "distill": {**d.model_dump(mode="json", exclude=of_views), "steps": steps}, "model": settings.model.model_dump(mode="json"), "seed": settings.seed,
        "data": settings.data.model_dump(mode="json", include={"height", "width", "lanes", "window_images"}),
        "mirror": sorted(v for v, t in teachers.items() if t.mirror),
    }  # fmt: skip
    return Recipe(
        UNIFIED, steps, settings.seed, d.optim, d.augment, settings.data, d.validate_every, d.checkpoint_every, d.keep,
        sha256_json([config, inputs]), config, inputs, tracking=settings.tracking,
    )  # fmt: skip


def begun_from(settings: DistillSettings) -> tuple[str, ...]:
    """Names of the joint models where the student or its teachers start."""
    if settings.distill.start == "joints":
        return joint_names(settings.specialists)
    return (JOINT,) * (settings.distill.start == "joint" or settings.distill.teachers == "blended")


def further_teachers(settings: DistillSettings) -> dict[str, Location]:
    """Name -> directory of the models that teach all verticals beside the specialists."""
    names = joint_names(settings.specialists)[1:] if settings.distill.teachers == "joined" else ()
    return {name: Location.of(settings.workspace) / "specialists" / name / "model" for name in names}


def recipes_for(dataset: Dataset, teachers: dict[str, Teacher], settings: DistillSettings) -> list[Recipe]:
    """Distillation, and what comes after it; the last one's key stands for the unified model."""
    distilled = recipe_for(dataset, teachers, settings)
    return [distilled, finetune_recipe(distilled, settings)] if settings.finetune.steps else [distilled]


def joint_start(workspace: Location, settings: DistillSettings, name: str = JOINT) -> str:
    """The sha256 of a joint model, where the student or its teachers start. Raises UserError if it isn't there or is another architecture."""
    directory = workspace / "specialists" / name / "model"
    manifest = require_manifest(directory, made_by="python -m jobs.train_specialists")
    from fashion_dml.models.store import load_model  # torch: only where there is a joint model to look at

    asked, instead = (
        (f"distill.start = {settings.distill.start}", "distill.start = initial")
        if settings.distill.start != "initial"
        else ("distill.teachers = blended", "distill.teachers = specialists")
    )
    joint, model, data = load_model(directory), settings.model, settings.data
    theirs = joint.module.settings
    for setting, has, wanted in (
        ("model.trunk", theirs.trunk, model.trunk), ("model.dim", theirs.dim, model.dim), ("model.taps", theirs.taps, model.taps),
        ("data.height", joint.height, data.height), ("data.width", joint.width, data.width),
    ):  # fmt: skip
        if has != wanted:
            raise UserError(
                f"{asked}, but the {name} model has {setting} = {has} and the student {wanted}; make them equal or use {instead}."
            )
    return str(manifest["sha256"])


def finetune_data(settings: DistillSettings) -> Data:
    """The data section with the input size of the fine-tuning."""
    f, d = settings.finetune, settings.data
    return d.model_copy(update={"height": f.height or d.height, "width": f.width or d.width})


def finetune_plan(dataset: Dataset, settings: DistillSettings) -> Plan:
    """Batches of products of all verticals, as the joint model's."""
    return plan_for(dataset, tuple(dataset.verticals("train")), settings)


def finetune_recipe(distilled: Recipe, settings: DistillSettings) -> Recipe:
    """The fine-tuning of the student that the recipe `distilled` makes; its inputs are that one's too, by way of its key."""
    f, data = settings.finetune, finetune_data(settings)
    batches = settings.specialists.model_dump(mode="json", exclude=NO_PART_OF_A_KEY | {"optim", "augment", "keep"})
    config = {
        "finetune": f.model_dump(mode="json", exclude={"blend"}), "loss": settings.loss.model_dump(mode="json"), "batches": batches,
        "anchor": settings.distill.loss, "model": settings.model.model_dump(mode="json"), "seed": settings.seed,
        "data": data.model_dump(mode="json", include={"height", "width", "lanes", "window_images"}),
    }  # fmt: skip
    inputs = {DISTILLED: distilled.key}
    return Recipe(
        FINETUNED, f.steps, settings.seed, f.optim, f.augment, data, f.validate_every, f.checkpoint_every, f.keep,
        sha256_json([config, inputs]), config, distilled.inputs | inputs, settings.specialists.refresh_every, settings.tracking,
    )  # fmt: skip


def unified_key(last: Recipe, settings: DistillSettings) -> str:
    """The key of the unified model, by the recipe of its last training."""
    return sha256_json([last.key, BLENDED]) if settings.finetune.steps and settings.finetune.blend else last.key
