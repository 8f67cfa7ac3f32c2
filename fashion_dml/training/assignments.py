"""Which trainings there are: the joint model, coarse and fine, and specialists of verticals or groups; what each depends on."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from pydantic import model_validator

from fashion_dml.config import Cluster, Data, JobSettings, Loss, Model, Specialists, Tracking
from fashion_dml.data.plan import Plan, PlanSettings
from fashion_dml.data.schema import VERTICAL_NAME, Dataset
from fashion_dml.storage import Location, UserError, manifest_sha256, require_manifest, sha256_json
from fashion_dml.training.recipe import Recipe

JOINT = "joint"
COARSE = "joint-coarse"
INITIAL = "initial"
INITIAL_COARSE = "initial-coarse"
FROM_JOINT, FROM_COARSE = f"{JOINT}/model", f"{COARSE}/model"
NO_PART_OF_A_KEY = {
    "groups",
    "joint",
    "joint_steps",
    "joint_draws",
    "coarse_steps",
    "coarse_height",
    "coarse_width",
    "start",
    "start_rate",
    "epochs",
    "min_steps",
    "max_steps",
}  # of one training


class TrainSettings(JobSettings):
    """Sections that train specialists."""

    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    specialists: Specialists = Specialists()
    cluster: Cluster = Cluster()
    tracking: Tracking = Tracking()

    @model_validator(mode="after")
    def _lanes(self) -> TrainSettings:
        if self.cluster.team > self.data.lanes:
            raise ValueError(lanes_short("cluster.team", self.cluster.team, self.data.lanes))
        if self.together and self.cluster.most > self.data.lanes:
            raise ValueError(lanes_short("cluster.workers", self.cluster.most, self.data.lanes))
        return self

    @property
    def together(self) -> tuple[str, ...]:
        """The trainings that come before all others, one after the other, each by all workers as one team; see `train_all`."""
        s = self.specialists
        return (COARSE,) * bool(s.coarse_steps) + joint_names(s) * (s.start == "joint")

    @property
    def coarse(self) -> TrainSettings:
        """The same on the smaller photos that the joint model begins with."""
        s = self.specialists
        return self.model_copy(
            update={"data": self.data.model_copy(update={"height": s.coarse_height, "width": s.coarse_width})}
        )


def joint_names(settings: Specialists) -> tuple[str, ...]:
    """joint, joint-2, ...: one for each of `specialists.joint_draws`."""
    return (JOINT, *(f"{JOINT}-{n}" for n in range(2, len(settings.joint_draws) + 1)))


def lanes_short(setting: str, workers: int, lanes: int) -> str:
    """Why workers that train one model together can't be more than lanes."""
    return (
        f"{setting} = {workers} workers share data.lanes = {lanes} lanes, and each needs one; "
        f"raise data.lanes (the global batch grows with it) or lower {setting}"
    )


@dataclass(frozen=True)
class Assignment:
    """One training of the queue, with its own settings; `initial` names the model it starts from."""

    recipe: Recipe
    verticals: tuple[str, ...]
    images: int
    settings: TrainSettings
    initial: str = INITIAL

    @property
    def name(self) -> str:
        return self.recipe.name


def with_groups(dataset: Dataset, settings: TrainSettings) -> TrainSettings:
    """The settings with the groups that `jobs.group_verticals` found, if those are asked for.

    Raises UserError where nothing was found, or on another dataset.
    """
    if settings.specialists.grouping == "given":
        return settings
    home = Location.of(settings.workspace) / "groups"
    manifest = require_manifest(home, made_by="python -m jobs.group_verticals")
    if manifest["inputs"]["dataset"] != manifest_sha256(dataset.location):
        raise UserError(
            f"{home} was found on another dataset than {dataset.location}: run `python -m jobs.group_verticals` again."
        )
    groups = {name: tuple(verticals) for name, verticals in manifest["groups"].items()}
    found = settings.specialists.model_copy(update={"groups": groups, "grouping": "given"})
    return settings.model_copy(update={"specialists": found})


def groups_of(dataset: Dataset, settings: Specialists) -> dict[str, tuple[str, ...]]:
    """Group name -> verticals; a vertical in no configured group stands alone. Raises UserError on unknown or doubled ones."""
    verticals = dataset.verticals("train")
    groups = dict(settings.groups)
    listed = [v for members in groups.values() for v in members]
    for vertical in listed:
        if vertical not in verticals:
            raise UserError(f"specialists.groups names the vertical {vertical!r}, the dataset has {', '.join(verticals)}.")
        if listed.count(vertical) > 1:
            raise UserError(f"specialists.groups has the vertical {vertical!r} twice; a vertical belongs to one group.")
    for name in groups:
        if not VERTICAL_NAME.fullmatch(name) or (name in verticals and name not in listed):
            raise UserError(
                f"specialists.groups has the group {name!r}: its name must match {VERTICAL_NAME.pattern} and not be that of a "
                f"vertical outside all groups; rename it."
            )
    check_weights("specialists", settings.weights, verticals)
    groups.update({v: (v,) for v in verticals if v not in listed})
    for name, meaning in (
        (JOINT, "the model of all verticals"),
        (COARSE, "that model on smaller photos"),
        (INITIAL, "where all trainings start"),
        (INITIAL_COARSE, "where those on smaller photos start"),
        *((name, "a further model of all verticals") for name in joint_names(settings)[1:]),
    ):
        if name in groups:
            raise UserError(f"A specialist can't be called {name!r}, that is {meaning}; rename the vertical or group.")
    return groups


def check_weights(section: str, weights: dict[str, float], verticals: list[str]) -> None:
    """Raises UserError for the weight of a vertical that the dataset doesn't have."""
    for vertical in weights:
        if vertical not in verticals:
            raise UserError(f"{section}.weights names the vertical {vertical!r}, the dataset has {', '.join(verticals)}.")


def training_products(dataset: Dataset, verticals: tuple[str, ...]) -> pa.Table:
    """Rows of schema.PRODUCTS that are trained on."""
    return dataset.products.filter((pc.field("split") == "train") & pc.field("vertical").isin(list(verticals)))


def plan_for(dataset: Dataset, verticals: tuple[str, ...], settings: TrainSettings) -> Plan:
    """The plan of one training."""
    s = settings.specialists
    return Plan(
        training_products(dataset, verticals),
        PlanSettings(
            s.batches, settings.data.lanes, settings.data.window_images, settings.seed, products_per_batch=s.products_per_batch,
            images_per_product=s.images_per_product, neighbours=s.neighbours, weights=tuple(sorted(s.weights.items())),
        ),
    )  # fmt: skip


def drawn_by(dataset: Dataset, verticals: tuple[str, ...], settings: TrainSettings, number: int) -> TrainSettings:
    """The settings of joint model `number`, 0 the first: a seed of its own, and the weights that `specialists.joint_draws` give.

    A vertical of n products that make pairs is drawn as if it had n ** draw of them, and an epoch is as long as before.
    """
    s, power = settings.specialists, settings.specialists.joint_draws[number]
    weights = dict(s.weights)
    if power != 1:
        products = training_products(dataset, verticals)
        paired = products.filter(pc.field("rows") >= 2)["vertical"].value_counts().to_pylist()
        scale = sum(row["counts"] for row in paired) / sum(row["counts"] ** power for row in paired)
        for vertical, n in sorted((row["values"], row["counts"]) for row in paired):
            weights[vertical] = round(weights.get(vertical, 1.0) * scale * n**power / n, 6)
    return settings.model_copy(
        update={"seed": settings.seed + number, "specialists": s.model_copy(update={"weights": weights})}
    )


def assignments(dataset: Dataset, settings: TrainSettings, *, joint: bool) -> list[Assignment]:
    """All trainings, longest first; with or without the joint models.

    Each of those sees as many images as all specialists together, unless `specialists.joint_steps` says otherwise, and before them those of
    `specialists.coarse_steps`, smaller ones, in a training of its own. Specialists that start from the joint model depend on the first.
    """
    settings = with_groups(dataset, settings)
    s = settings.specialists
    inputs = {"dataset": manifest_sha256(dataset.location)}
    sized = []
    for name, verticals in groups_of(dataset, s).items():
        plan = plan_for(dataset, verticals, settings)
        steps = min(s.max_steps, max(s.min_steps, round(s.epochs * plan.steps(0))))
        sized.append((name, verticals, steps, steps * plan.images_per_step(0)))
    total = sum(images for *_, images in sized)
    made = []
    if joint or s.start == "joint":
        verticals = tuple(dataset.verticals("train"))
        per_step = plan_for(dataset, verticals, settings).images_per_step(0)
        steps = s.joint_steps or max(1, round(total / per_step))
        images = steps * per_step if s.joint_steps else total
        begun, initial = inputs, INITIAL
        if s.coarse_steps:
            coarse = recipe_of(COARSE, verticals, s.coarse_steps, settings.coarse, inputs)
            made.append(Assignment(coarse, verticals, s.coarse_steps * per_step, settings.coarse, INITIAL_COARSE))
            begun, initial = {**inputs, COARSE: coarse.key}, FROM_COARSE
        for number, name in enumerate(joint_names(s)):
            theirs = drawn_by(dataset, verticals, settings, number)
            made.append(Assignment(recipe_of(name, verticals, steps, theirs, begun), verticals, images, theirs, initial))
    initial, theirs = INITIAL, settings
    if s.start == "joint":
        (first,) = (a for a in made if a.name == JOINT)
        inputs, initial = {**inputs, JOINT: first.recipe.key}, FROM_JOINT
        slower = s.optim.model_copy(update={"learning_rate": s.optim.learning_rate * s.start_rate})
        theirs = settings.model_copy(update={"specialists": s.model_copy(update={"optim": slower})})
    for name, verticals, steps, images in sized:
        made.append(Assignment(recipe_of(name, verticals, steps, theirs, inputs), verticals, images, theirs, initial))
    left_out = () if joint else (COARSE, *joint_names(s))
    return sorted((a for a in made if a.name not in left_out), key=lambda a: (-a.images, a.name))


def recipe_of(name: str, verticals: tuple[str, ...], steps: int, settings: TrainSettings, inputs: dict[str, str]) -> Recipe:
    """What a training depends on; the parts of the settings that don't concern it are left out of its key."""
    s = settings.specialists
    config = {
        "data": settings.data.model_dump(mode="json", include={"height", "width", "lanes", "window_images"}), "seed": settings.seed,
        "model": settings.model.model_dump(mode="json"), "loss": settings.loss.model_dump(mode="json"),
        "specialists": s.model_dump(mode="json", exclude=NO_PART_OF_A_KEY),
        "verticals": list(verticals), "steps": steps,
    }  # fmt: skip
    return Recipe(
        name, steps, settings.seed, s.optim, s.augment, settings.data, s.validate_every, s.checkpoint_every, s.keep,
        sha256_json([config, inputs]), config, inputs, s.refresh_every, settings.tracking,
    )  # fmt: skip
