"""ONE Ray Train run that trains joint models and specialists: its workers form teams, a queue hands the teams the work.

Models that others start from come first, by all workers as one team; then the longest training, so that the teams end at
about the same time. A specialist publishes by itself and goes on from its own cursor, so a dead worker costs the steps
since the last checkpoints and nothing else.
"""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pyarrow as pa
import ray
import torch
import torch.distributed as dist
from ray.exceptions import RayTaskError

from fashion_dml.config import Cluster
from fashion_dml.data.read import Sources
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model
from fashion_dml.storage import Location, UserError
from fashion_dml.training import tracking
from fashion_dml.training.assignments import FROM_COARSE, FROM_JOINT, INITIAL, Assignment, TrainSettings, assignments, plan_for
from fashion_dml.training.loop import train
from fashion_dml.training.queue import Queue
from fashion_dml.training.recipe import finished
from fashion_dml.training.signals import Listener, stops_gently
from fashion_dml.training.start import initial_model, metric_task, trainable
from fashion_dml.training.stopping import Ask, Stopped
from fashion_dml.training.team import Team
from fashion_dml.training.validation import Validation
from fashion_dml.training.workers import check_lanes, check_norms, companion, fit, join_team, tell_waiting

DAMAGED = (pa.ArrowInvalid, FileNotFoundError)  # what reading a broken or lost file raises
RAY_ADVICE = re.compile(r"(?:\n|: ')Failed to apply UDF")  # Ray Data adds it to an error's text, or as the name of its file


def run(settings: TrainSettings, watch: Callable[[Any, threading.Event], None]) -> dict[str, str]:
    """Train what isn't finished; returns the failures by name. `watch(queue, stop)` runs in a thread meanwhile."""
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(workspace / "dataset")
    todo, home = assignments(dataset, settings, joint=settings.specialists.joint), workspace / "specialists"
    if settings.specialists.coarse_steps:
        coarse, weightless = settings.coarse.data, settings.model.model_copy(update={"weights": "none"})
        trainable(Embedder(weightless, coarse.height, coarse.width), settings.model, settings.data)
    return train_all(todo, settings, dataset, home, watch, together=settings.together)


def train_all(
    todo: list[Assignment], settings: TrainSettings, dataset: Dataset, home: Location, watch: Callable[[Any, threading.Event], None],
    *, together: tuple[str, ...] = (),
) -> dict[str, str]:  # fmt: skip
    """One Ray Train run of teams over the assignments that aren't finished under `home`; the failures by name.

    settings: those of the run as a whole, its cluster section above all. together: names of trainings that come before all others, one
    after the other, each by all workers as one team; nothing comes after one that fails.
    """
    todo = [a for a in todo if finished(home / a.name, a.recipe.key) is None]
    if not todo:
        return {}
    for i, assignment in enumerate(todo):
        if assignment.settings not in [a.settings for a in todo[:i]]:  # specialists share theirs, and a model takes a while
            check(assignment, dataset, settings.cluster.most if assignment.name in together else settings.cluster.team)
    starts = {a.initial: a.settings for a in todo if a.initial not in (FROM_COARSE, FROM_JOINT)}
    first = [a for name in together for a in todo if a.name == name]
    rest = [a for a in todo if a.name not in together]
    check_lanes(lanes_of(first, dataset), "cluster.workers", settings.cluster.most)
    others = ", or put small verticals into groups (specialists.groups)"
    check_lanes(lanes_of(rest, dataset), "cluster.team", settings.cluster.team, others)
    return train_queue(Queue, (rest, first), starts, settings.cluster, dataset, home, watch, together=bool(first))


def train_queue(
    kind: type[Queue], arguments: tuple[Any, ...], starts: dict[str, TrainSettings], cluster: Cluster, dataset: Dataset, home: Location,
    watch: Callable[[Any, threading.Event], None], *, together: bool = False,
) -> dict[str, str]:  # fmt: skip
    """One Ray Train run of teams over what a queue hands out; the failures by name.

    starts: the initial models to make first. together: the queue has trainings for all workers as one team.
    """
    queue = companion(kind, *arguments)
    config = {
        "queue": queue,
        "starts": starts,
        "cluster": cluster,
        "dataset": str(dataset.location),
        "home": str(home),
        "together": together,
    }
    with watched(queue, watch, cluster):
        fit(_worker, config, cluster, name="specialists")
    _, ended = ray.get(queue.state.remote())
    if (failure := ended.get(INITIAL)) is not None:
        raise UserError(failure)
    return {name: failure for name, failure in ended.items() if failure is not None}


@contextlib.contextmanager
def watched(queue: Any, watch: Callable[[Any, threading.Event], None], cluster: Cluster) -> Iterator[None]:
    """`watch(queue, stop)` runs in a thread meanwhile, another tells of waiting. Raises Stopped where a signal has stopped the run."""
    stop = threading.Event()
    watcher = threading.Thread(target=watch, args=(queue, stop), daemon=True)
    watcher.start()
    threading.Thread(target=tell_waiting, args=(cluster, queue, stop), daemon=True).start()
    try:
        with stops_gently(queue):
            yield
    finally:
        stop.set()
        watcher.join()


def check(assignment: Assignment, dataset: Dataset, team: int) -> None:
    """Raise UserError, before any worker starts, where loss, model, dataset and a team of so many workers don't fit."""
    settings = assignment.settings
    tracking.check(settings.tracking)
    check_norms(settings.model, settings.cluster, team)
    model = settings.model.model_copy(update={"weights": "none"})
    metric_task(Embedder(model, settings.data.height, settings.data.width), dataset, assignment.verticals, settings)


def lanes_of(todo: Iterable[Assignment], dataset: Dataset) -> Iterator[tuple[str, int]]:
    """(name, lanes) of each training: fewer lanes than `data.lanes` where its verticals have few row groups."""
    return ((a.name, plan_for(dataset, a.verticals, a.settings).lanes) for a in todo)


def _worker(config: dict[str, Any]) -> None:
    """What every worker of the run does."""
    cluster, queue = config["cluster"], config["queue"]
    home, dataset = Location.of(config["home"]), Dataset.open(config["dataset"])
    context = ray.train.get_context()
    rank, workers = context.get_world_rank(), context.get_world_size()
    teams: list[tuple[int | None, Team | None]] = [(rank // cluster.team, join_team(cluster, cluster.team))]
    if config["together"]:
        teams.insert(0, (None, join_team(cluster, workers)))
    if rank == 0:
        ray.get(queue.restart.remote())
    start_together(dataset, home, config["starts"], rank, queue)
    asks = Listener(queue)
    with contextlib.suppress(Stopped):
        for number, team in teams:
            if team is not None:
                train_given(number, team, dataset, home, queue, asks)


def train_given(number: int | None, team: Team, dataset: Dataset, home: Location, queue: Any, asks: Callable[[], Ask]) -> None:
    """What the queue gives team `number`, None for all workers as one, until it gives no more. Raises Stopped where that is asked for."""
    turn = 0
    while (assignment := ray.get(queue.take.remote(number, turn))) is not None:
        failure = None
        try:
            train_one(assignment, dataset, home, team, queue, asks)
        except (UserError, *DAMAGED) as error:
            failure = sentence(error)
        if team.rank == 0 or failure is not None:
            ray.get(queue.end.remote(assignment.name, failure))
        if failure is not None and team.size > 1:
            # The others of the team may be waiting for this worker in a collective: start the group again without this training.
            raise RuntimeError(f"{assignment.name} failed: {failure}")
        turn += 1


def start_together(dataset: Dataset, home: Location, initial: dict[str, TrainSettings], rank: int, queue: Any) -> None:
    """Rank 0 makes the initial models under `home`, the others wait. Where that can't be, all stop: another try would end likewise."""
    if rank == 0:
        try:
            for name, settings in initial.items():
                initial_model(dataset, settings, home / name)
        except (UserError, *DAMAGED) as error:
            ray.get(queue.end.remote(INITIAL, sentence(error)))
    dist.barrier()


def sentence(error: Exception) -> str:
    """What the user is told; of what a reading task raised, without its traceback and Ray Data's own advice."""
    cause = error.cause if isinstance(error, RayTaskError) else error
    text = RAY_ADVICE.split(str(cause))[0]
    if isinstance(cause, UserError):
        return text
    return f"a file of the dataset is damaged or missing ({' '.join(text.split())}): ingest the dataset again."


def train_one(
    assignment: Assignment, dataset: Dataset, home: Location, team: Team, queue: Any, asks: Callable[[], Ask]
) -> None:
    """One specialist (or the joint model) on this worker's team. Raises Stopped where that is asked for."""
    settings, output = assignment.settings, home / assignment.name
    if finished(output, assignment.recipe.key) is not None:
        return
    torch.manual_seed(settings.seed)
    embedder = trainable(load_model(home / assignment.initial).module, settings.model, settings.data)
    task = metric_task(embedder, dataset, assignment.verticals, settings, team)
    sources = Sources(str(dataset.location / "images"), "train", None, task.loss.needs_attributes, settings.cluster.data_labels)
    validation = Validation(dataset, list(assignment.verticals), settings.data) if team.rank == 0 else None
    train(
        assignment.recipe, task, plan_for(dataset, assignment.verticals, settings), sources, validation, output, team,
        lambda progress: queue.report.remote(progress), asks,
    )  # fmt: skip
