"""ONE Ray Train run that trains all specialists: its workers form teams, a queue hands the teams the work.

The longest training goes first, so that the teams end at about the same time. A specialist publishes by itself and
goes on from its own cursor, so a dead worker costs the steps since the last checkpoints and nothing else.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import ray
import torch
import torch.distributed as dist
from pydantic import model_validator

from fashion_dml.config import Cluster, Data, JobSettings, Loss, Model, Specialists
from fashion_dml.data.plan import Cursor, Plan, PlanSettings
from fashion_dml.data.read import Sources
from fashion_dml.data.schema import VERTICAL_NAME, Dataset
from fashion_dml.data.stream import stream
from fashion_dml.models.embedder import Embedder, pca_head
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, UserError, manifest_sha256, read_manifest, sha256_json
from fashion_dml.training.loop import Recipe, Team, finished, train
from fashion_dml.training.task import MetricTask
from fashion_dml.training.validation import Validation
from fashion_dml.training.workers import check_norms, fit, join_team

JOINT = "joint"
INITIAL = "initial"
HEAD_IMAGES = 2048
DAMAGED = (pa.ArrowInvalid, FileNotFoundError)  # what reading a broken or lost file raises


class TrainSettings(JobSettings):
    """Sections that train specialists."""

    data: Data = Data()
    model: Model = Model()
    loss: Loss = Loss()
    specialists: Specialists = Specialists()
    cluster: Cluster = Cluster()

    @model_validator(mode="after")
    def _lanes(self) -> TrainSettings:
        if self.cluster.team > self.data.lanes:
            raise ValueError(lanes_short("cluster.team", self.cluster.team, self.data.lanes))
        return self


def lanes_short(setting: str, workers: int, lanes: int) -> str:
    """Why workers that train one model together can't be more than lanes."""
    return (
        f"{setting} = {workers} workers share data.lanes = {lanes} lanes, and each needs one; "
        f"raise data.lanes (the global batch grows with it) or lower {setting}"
    )


@dataclass(frozen=True)
class Assignment:
    """One training of the queue."""

    recipe: Recipe
    verticals: tuple[str, ...]
    images: int

    @property
    def name(self) -> str:
        return self.recipe.name


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
    for name, meaning in ((JOINT, "the model of all verticals"), (INITIAL, "where all trainings start")):
        if name in groups:
            raise UserError(f"A specialist can't be called {name!r}, that is {meaning}; rename the vertical or group.")
    return groups


def check_weights(section: str, weights: dict[str, float], verticals: list[str]) -> None:
    """Raises UserError for the weight of a vertical that the dataset doesn't have."""
    for vertical in weights:
        if vertical not in verticals:
            raise UserError(f"{section}.weights names the vertical {vertical!r}, the dataset has {', '.join(verticals)}.")


def plan_for(dataset: Dataset, verticals: tuple[str, ...], settings: TrainSettings) -> Plan:
    """The plan of one training."""
    products = dataset.products.filter((pc.field("split") == "train") & pc.field("vertical").isin(list(verticals)))
    s = settings.specialists
    return Plan(
        products,
        PlanSettings(
            s.batches, settings.data.lanes, settings.data.window_images, settings.seed, products_per_batch=s.products_per_batch,
            images_per_product=s.images_per_product, neighbours=s.neighbours, weights=tuple(sorted(s.weights.items())),
        ),
    )  # fmt: skip


def assignments(dataset: Dataset, settings: TrainSettings, *, joint: bool) -> list[Assignment]:
    """All trainings, longest first. The joint model sees as many images as all specialists together."""
    s = settings.specialists
    shared = {"data": settings.data.model_dump(mode="json", include={"height", "width", "lanes", "window_images"}), "seed": settings.seed,
              "model": settings.model.model_dump(mode="json"), "loss": settings.loss.model_dump(mode="json"),
              "specialists": s.model_dump(mode="json", exclude={"groups", "joint", "epochs", "min_steps", "max_steps"})}  # fmt: skip
    inputs = {"dataset": manifest_sha256(dataset.location)}

    def make(name: str, verticals: tuple[str, ...], steps: int, images: int) -> Assignment:
        config = {**shared, "verticals": list(verticals), "steps": steps}
        recipe = Recipe(
            name, steps, settings.seed, s.optim, s.augment, settings.data, s.validate_every, s.checkpoint_every, s.keep,
            sha256_json([config, inputs]), config, inputs,
        )  # fmt: skip
        return Assignment(recipe, verticals, images)

    made = []
    for name, verticals in groups_of(dataset, s).items():
        plan = plan_for(dataset, verticals, settings)
        steps = min(s.max_steps, max(s.min_steps, round(s.epochs * plan.steps(0))))
        made.append(make(name, verticals, steps, steps * images_per_step(plan)))
    if joint:
        verticals = tuple(dataset.verticals("train"))
        plan = plan_for(dataset, verticals, settings)
        total = sum(a.images for a in made)
        made.append(make(JOINT, verticals, max(1, round(total / images_per_step(plan))), total))
    return sorted(made, key=lambda a: (-a.images, a.name))


def images_per_step(plan: Plan) -> int:
    """Images of a global batch in the first epoch."""
    report = plan.report(0)
    return report.used // report.steps * (1 if plan.settings.mode == "images" else plan.settings.images_per_product)


@ray.remote(num_cpus=0)
class Queue:
    """Hands out trainings. After a restart of the workers every team asks anew; finished ones are passed over by name."""

    def __init__(self, names: list[str]) -> None:
        self._names = names
        self._ended: dict[str, str | None] = {}
        self._progress: dict[str, dict[str, Any]] = {}
        self.restart()

    def restart(self) -> None:
        self._waiting = [n for n in self._names if n not in self._ended]
        self._given: dict[tuple[int, int], str | None] = {}

    def take(self, team: int, turn: int) -> str | None:
        """The `turn`-th training of a team; every worker of the team gets the same answer. Nothing without a start."""
        if self._ended.get(INITIAL) is not None:
            return None
        if (team, turn) not in self._given:
            self._given[team, turn] = self._waiting.pop(0) if self._waiting else None
        return self._given[team, turn]

    def report(self, progress: dict[str, Any]) -> None:
        self._progress[progress["name"]] = progress

    def end(self, name: str, failure: str | None) -> None:
        self._ended[name] = failure

    def state(self) -> tuple[dict[str, dict[str, Any]], dict[str, str | None]]:
        return self._progress, self._ended


def run(settings: TrainSettings, watch: Callable[[Any, threading.Event], None]) -> dict[str, str]:
    """Train what isn't finished; returns the failures by name. `watch(queue, stop)` runs in a thread meanwhile."""
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(workspace / "dataset")
    todo = assignments(dataset, settings, joint=settings.specialists.joint)
    todo = [a for a in todo if finished(workspace / "specialists" / a.name, a.recipe.key) is None]
    if not todo:
        return {}
    check_norms(settings.model, settings.cluster, settings.cluster.team)
    queue = Queue.remote([a.name for a in todo])  # type: ignore[attr-defined]
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(queue, stop), daemon=True)
    watcher.start()
    try:
        fit(_worker, {"settings": settings, "queue": queue}, settings.cluster, name="specialists")
    finally:
        stop.set()
        watcher.join()
    _, ended = ray.get(queue.state.remote())
    if (failure := ended.get(INITIAL)) is not None:
        raise UserError(failure)
    return {name: failure for name, failure in ended.items() if failure is not None}


def _worker(config: dict[str, Any]) -> None:
    """What every worker of the run does."""
    settings, queue = config["settings"], config["queue"]
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(workspace / "dataset")
    world = ray.train.get_context().get_world_rank()
    team = join_team(settings.cluster, settings.cluster.team)
    if world == 0:
        ray.get(queue.restart.remote())
    start_together(dataset, settings, world, queue)
    if team is None:
        return
    by_name = {a.name: a for a in assignments(dataset, settings, joint=settings.specialists.joint)}
    turn = 0
    while (name := ray.get(queue.take.remote(world // team.size, turn))) is not None:
        failure = None
        try:
            train_one(by_name[name], dataset, settings, team, queue)
        except (UserError, *DAMAGED) as error:
            failure = sentence(error)
        if team.rank == 0 or failure is not None:
            ray.get(queue.end.remote(name, failure))
        if failure is not None and team.size > 1:
            # The others of the team may be waiting for this worker in a collective: start the group again without this training.
            raise RuntimeError(f"{name} failed: {failure}")
        turn += 1


def start_together(dataset: Dataset, settings: TrainSettings, rank: int, queue: Any) -> None:
    """Rank 0 makes the initial model, the others wait. Where that can't be, all stop: another try would end likewise."""
    if rank == 0:
        try:
            initial_model(dataset, settings)
        except (UserError, *DAMAGED) as error:
            ray.get(queue.end.remote(INITIAL, sentence(error)))
    dist.barrier()


def sentence(error: Exception) -> str:
    """What the user is told."""
    if isinstance(error, UserError):
        return str(error)
    return f"a file of the dataset is damaged or missing ({' '.join(str(error).split())}): ingest the dataset again."


def train_one(assignment: Assignment, dataset: Dataset, settings: TrainSettings, team: Team, queue: Any) -> None:
    """One specialist (or the joint model) on this worker's team."""
    output = dataset.location.parent / "specialists" / assignment.name
    if finished(output, assignment.recipe.key) is not None:
        return
    torch.manual_seed(settings.seed)
    initial = load_model(dataset.location.parent / "specialists" / INITIAL).module
    embedder = trainable(initial, settings.model)
    task = MetricTask(embedder, settings.loss, team.group)
    sources = Sources(str(dataset.location / "images"), "train")
    validation = Validation(dataset, list(assignment.verticals), settings.data) if team.rank == 0 else None
    train(
        assignment.recipe, task, plan_for(dataset, assignment.verticals, settings), sources, validation, output, team,
        lambda progress: queue.report.remote(progress),
    )  # fmt: skip


def trainable(loaded: Embedder, settings: Model) -> Embedder:
    """A fresh module with the weights of a loaded one, so that frozen stages are those of the settings."""
    embedder = Embedder(settings.model_copy(update={"weights": "none"}), loaded.height, loaded.width)
    embedder.load_state_dict(loaded.state_dict())
    embedder.settings = settings
    return embedder


def initial_model(dataset: Dataset, settings: TrainSettings) -> None:
    """Publish `specialists/initial`, where all trainings start: pretrained trunk, and the head of `model.head`.

    The head is fitted on a seeded sample of training images of all verticals; it uses no labels. Corrupt images are
    passed over, however many: they are for the trainings of their verticals to report.
    """
    output = dataset.location.parent / "specialists" / INITIAL
    config = {
        "model": settings.model.model_dump(mode="json"),
        "data": settings.data.model_dump(mode="json", include={"height", "width"}),
        "seed": settings.seed,
    }
    key = sha256_json([config, manifest_sha256(dataset.location)])
    known = read_manifest(output)
    if known is not None and known.get("key") == key:
        return
    torch.manual_seed(settings.seed)
    embedder = Embedder(settings.model, settings.data.height, settings.data.width).eval()
    if settings.model.head == "pca":
        products = dataset.products.filter(pc.field("split") == "train")
        plan = Plan(products, PlanSettings("images", 1, 4 * HEAD_IMAGES, settings.seed, images_per_batch=64))
        steps = max(1, min(plan.steps(0), HEAD_IMAGES // 64))
        threads = settings.data.model_copy(update={"executor": "threads", "max_corrupt": 1.0})
        with torch.inference_mode():
            found = [
                embedder.features(batch.images.permute(0, 3, 1, 2))
                for batch in stream(
                    plan, Sources(str(dataset.location / "images"), "train"), threads, start=Cursor(), steps=steps
                )
            ]
        assert isinstance(embedder.head, torch.nn.Linear)
        pca_head(embedder.head, torch.cat(found).clone())
    save_model(output, embedder, config=config, inputs={"dataset": manifest_sha256(dataset.location)}, key=key)
