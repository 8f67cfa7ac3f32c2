"""The trainings of the search for groups, and the queue that hands them out as results come in."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import pyarrow.compute as pc

from fashion_dml.data.schema import Dataset
from fashion_dml.storage import Location, UserError, manifest_sha256, sha256_json
from fashion_dml.training.assignments import INITIAL, Assignment, plan_for, recipe_of
from fashion_dml.training.grouping import Findings, GroupSettings, Members, curve_sets, likely, members, merge_orders, walk
from fashion_dml.training.queue import Queue
from fashion_dml.training.recipe import finished
from fashion_dml.training.specialists import check, lanes_of, train_queue
from fashion_dml.training.validation import measurable
from fashion_dml.training.workers import check_lanes

NEVER = 1 << 30  # validation comes at the end only


class Trials:
    """The sets of verticals to train, in the order in which the search wants them, and what they have shown.

    A set sees as many images of each of its verticals as that vertical's specialist does, so that more company is not
    less training. Every trial starts from the pretrained trunk.
    """

    def __init__(self, dataset: Dataset, settings: GroupSettings) -> None:
        """Raises UserError for a dataset without validation products."""
        self.dataset, self.settings = dataset, settings
        self.home = Location.of(settings.workspace) / "groups" / "trials"
        train = dataset.products.filter(pc.field("split") == "train")
        sizes = {v: pc.sum(train.filter(pc.field("vertical") == v)["rows"]).as_py() for v in dataset.verticals("train")}
        self.order = sorted(sizes, key=lambda v: (-sizes[v], v))
        queries = measurable(dataset)
        if not queries:
            raise UserError(f"{dataset.location} has no validation products to decide on: ingest with ingest.validation_share.")
        g = settings.group
        self.findings = Findings(queries, g.tolerance, g.chance)
        self.orders = merge_orders(self.order, g.orders, settings.seed)
        specialists = settings.specialists.model_copy(update={"validate_every": NEVER, "keep": "last"})
        self.mine = settings.model_copy(update={"specialists": specialists})
        self.inputs = {"dataset": manifest_sha256(dataset.location)}
        self._images: dict[str, int] = {}
        self._made: dict[Members, Assignment] = {}

    def assignment(self, verticals: Members) -> Assignment:
        """The training of a set."""
        if verticals not in self._made:
            images = sum(self._images_alone(v) for v in verticals)
            steps = max(1, round(images / plan_for(self.dataset, verticals, self.mine).images_per_step(0)))
            name = verticals[0] if len(verticals) == 1 else f"{len(verticals)}-{sha256_json(list(verticals))[:8]}"
            recipe = recipe_of(name, verticals, steps, self.mine, self.inputs)
            self._made[verticals] = Assignment(recipe, verticals, images, self.mine)
        return self._made[verticals]

    def _images_alone(self, vertical: str) -> int:
        if vertical not in self._images:
            plan, g = plan_for(self.dataset, (vertical,), self.mine), self.settings.group
            steps = max(g.min_steps, round(g.epochs * plan.steps(0)))
            self._images[vertical] = steps * plan.images_per_step(0)
        return self._images[vertical]

    def wanted(self, ahead: int) -> list[Members]:
        """Sets without a result, most wanted first: each vertical alone, the merge that the search asks about, what the
        curves need, and at last merges that it may ask about, which may turn out to be of no use.

        `ahead`: how many merges to look forward to. Takes in what has been trained by now.
        """
        while True:
            sets: list[Members] = [(v,) for v in self.order]
            merges = likely(self.order, self.findings.keeps, ahead)
            sets += merges[:1]
            sets += [s for order in self.orders for s in curve_sets(order, self.settings.group.sizes)]
            sets += merges[1:]
            unknown = [s for s in dict.fromkeys(sets) if s not in self.findings.recall and s not in self.findings.failed]
            new = [self._take_in(s) for s in unknown]
            if not any(new):
                return unknown

    def _take_in(self, verticals: Members) -> bool:
        made = self.assignment(verticals)
        if (manifest := finished(self.home / made.name, made.recipe.key)) is None:
            return False
        measured = manifest["validations"]  # none where no vertical of the set can be measured
        self.findings.recall[verticals] = measured[-1]["verticals"] if measured else {}
        return True


class SearchQueue(Queue):
    """Hands out the trials that the search wants, by what has been found so far."""

    def __init__(self, dataset: str, settings: GroupSettings) -> None:
        super().__init__()
        self._trials = Trials(Dataset.open(dataset), settings)
        self._members: dict[str, Members] = {}

    def wanted(self, running: int) -> Sequence[Assignment]:
        found = [self._trials.assignment(s) for s in self._trials.wanted(running + 1)]
        self._members.update({a.name: a.verticals for a in found})
        return found

    def end(self, name: str, failure: str | None) -> None:
        super().end(name, failure)
        if failure is not None and name in self._members:
            self._trials.findings.failed.add(self._members[name])


def search(settings: GroupSettings, watch: Callable[[Any, threading.Event], None]) -> Trials:
    """Train what the search needs and isn't trained yet, in one Ray Train run of teams; returns what was found.

    Raises UserError when a trial fails.
    """
    dataset = Dataset.open(Location.of(settings.workspace) / "dataset")
    trials = Trials(dataset, settings)
    if trials.wanted(1):
        check(trials.assignment(members(trials.order)), dataset, settings.cluster.team)
        alone = (trials.assignment((v,)) for v in trials.order)  # merges have no fewer lanes than the least of their members
        check_lanes(lanes_of(alone, dataset), "cluster.team", settings.cluster.team)
        failures = train_queue(
            SearchQueue, (str(dataset.location), settings), {INITIAL: trials.mine}, settings.cluster, dataset, trials.home, watch
        )  # fmt: skip
        if failures:
            raise UserError(f"{len(failures)} trials failed: " + "; ".join(f"{n}: {f}" for n, f in failures.items()))
        if left := trials.wanted(1):
            raise RuntimeError(f"the run ended before {len(left)} trials, first {'+'.join(left[0])}")
    return trials


def found_groups(trials: Trials) -> dict[str, Members]:
    """The groups of more than one vertical, by a name of their own."""
    groups, _ = walk(trials.order, trials.findings.keeps)
    largest = {g: min(g, key=trials.order.index) for g in groups}
    return {f"{largest[g][:40]}-and-{len(g) - 1}": g for g in groups if len(g) > 1}


def curves(trials: Trials) -> list[dict[str, Any]]:
    """For each order: the numbers of verticals trained together, and each vertical's R@1 at them (None: not among them)."""
    found = []
    for order in trials.orders:
        sets = curve_sets(order, trials.settings.group.sizes)
        recall = {v: [trials.findings.recall[s].get(v) for s in sets] for v in order}
        found.append({"order": order, "sizes": [len(s) for s in sets], "recall": recall})
    return found
