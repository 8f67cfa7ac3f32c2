"""A training that is asked to save or to stop, alone and in a team, and a queue that hands out nothing more."""

from __future__ import annotations

import itertools
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from test_loop import STEPS, manifest
from train_helpers import recipe, run_training, together

from fashion_dml.data.schema import Dataset
from fashion_dml.training.queue import Queue
from fashion_dml.training.signals import stops_gently
from fashion_dml.training.stopping import Ask, Stopped
from fashion_dml.training.team import Team


def asks_at(step: int, what: Ask) -> Any:
    """Asks at the `step`-th look, and after it where it is to stop."""
    looks = itertools.count(1)
    return lambda: what if (n := next(looks)) == step or (n > step and what == "stop") else ""


def test_a_stopped_training_ends_as_if_it_had_not_been(small: Dataset, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    run_training(small, whole)
    with pytest.raises(Stopped, match=r"dresses stopped at step 3 of 12"):
        run_training(small, parts, asks=asks_at(3, "stop"))
    assert manifest(parts, "last")["step"] == 3  # checkpoint_every is 5
    assert not (parts / "model").exists()
    run_training(small, parts)
    assert manifest(parts)["sha256"] == manifest(whole)["sha256"]


def test_one_that_is_asked_in_its_last_step_is_published(small: Dataset, tmp_path: Path) -> None:
    run_training(small, tmp_path, asks=asks_at(STEPS, "stop"))
    assert manifest(tmp_path)["steps"] == STEPS


def test_saving_early_changes_nothing_else(small: Dataset, tmp_path: Path) -> None:
    seen: list[int] = []
    run_training(small, tmp_path / "plain")

    def asks() -> Ask:
        last = tmp_path / "asked" / "last" / "manifest.json"
        if last.exists():
            seen.append(manifest(tmp_path / "asked", "last")["step"])
        return "save" if len(seen) == 0 else ""

    run_training(small, tmp_path / "asked", asks=asks)
    assert seen[0] == 1
    assert manifest(tmp_path / "asked")["sha256"] == manifest(tmp_path / "plain")["sha256"]


def _stopped_team(team: Team, dataset: Dataset, home: str) -> Any:
    """Only the first worker is asked; both stop, at the same step."""
    passes: list[int] = []
    made = recipe(steps=30)
    try:
        run_training(
            dataset, Path(home), made, team=team, asks=lambda: "stop" if team.rank == 0 and passes.append(1) is None else ""
        )
    except Stopped as stopped:
        return str(stopped)
    return "not stopped"


@pytest.mark.cluster
def test_a_team_stops_together(small: Dataset, tmp_path: Path) -> None:
    said = together(2, _stopped_team, small, str(tmp_path))
    assert said == ["dresses stopped at step 10 of 30"] * 2
    assert manifest(tmp_path, "last")["step"] == 10


def test_a_queue_that_stops_hands_out_nothing_new_and_keeps_its_word() -> None:
    class Two(Queue):
        def wanted(self, running: int) -> Any:
            return [type("A", (), {"name": name})() for name in ("a", "b", "c")]

    queue = Two()
    assert queue.stop() is False  # nobody to wait for
    queue = Two()
    assert not queue.heard()
    given = queue.take(0, 0)
    assert queue.asks() == ""
    assert queue.heard()
    assert queue.stop() is True
    assert queue.asks() == "stop"
    assert queue.take(0, 0) is given  # a team's other worker, which asks later
    assert queue.take(1, 0) is None
    assert queue.take(0, 1) is None


def terminated(queue: Any, for_ever: bool) -> None:
    """SIGTERM to this process during a run that ends when its queue asks to stop, or never."""
    import ray

    with stops_gently(queue):
        os.kill(os.getpid(), signal.SIGTERM)
        while for_ever or ray.get(queue.asks.remote()) == "":
            time.sleep(0.01)


@pytest.mark.cluster
def test_a_signal_asks_the_queue_and_a_run_that_nobody_joined_ends_at_once(ray_local: str) -> None:
    import ray

    queue: Any = ray.remote(num_cpus=0)(Queue).remote()
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped, match="did at once"):
        terminated(queue, for_ever=True)
    assert signal.getsignal(signal.SIGTERM) is before

    queue = ray.remote(num_cpus=0)(Queue).remote()
    assert ray.get(queue.asks.remote()) == ""
    with pytest.raises(Stopped, match="asked to stop; 0 trainings have ended"):
        terminated(queue, for_ever=False)
    assert signal.getsignal(signal.SIGTERM) is before


def test_no_handler_of_errors_holds_it_up() -> None:
    assert not issubclass(Stopped, Exception)
