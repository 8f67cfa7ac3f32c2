"""Checkpoints: all state comes back, a killed save leaves the one before, and damage is named."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pytest
import torch
import torch.multiprocessing as mp
from torch import nn
from train_helpers import dies_in_publish

from fashion_dml.config import Loss, Model, Optim
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model
from fashion_dml.storage import Location, UserError, recover
from fashion_dml.training import checkpoint
from fashion_dml.training.checkpoint import Progress
from fashion_dml.training.optim import create_optimizer
from fashion_dml.training.task import MetricTask

MODEL = Model(trunk="test_efficientnet", weights="none", dim=8)
PROGRESS = Progress(7, 0.25, 5, 3.5, [{"step": 5, "R@1": 0.25, "verticals": {"shoes": 0.25}}])


class DiesWhileSaved(Embedder):
    """Its size is asked for when the weights are already written: then the machine fails."""

    armed = False

    def __getattribute__(self, name: str) -> Any:
        if name == "height" and object.__getattribute__(self, "armed"):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getattribute__(name)


def make(seed: int, cls: type[Embedder] = Embedder) -> tuple[MetricTask, torch.optim.Optimizer]:
    """A task whose loss has parameters and a buffer, after two steps of training."""
    torch.manual_seed(seed)
    task = MetricTask(cls(MODEL, 32, 32), Loss())
    task.loss.register_parameter("proxies", nn.Parameter(torch.randn(4, 8)))
    task.loss.register_buffer("bank", torch.randn(6))
    optimizer = create_optimizer(task, Optim())
    for _ in range(2):
        optimizer.zero_grad()
        found = task.embedder(torch.rand(4, 3, 32, 32))
        (found * task.loss.proxies).sum().backward()  # type: ignore[operator]
        optimizer.step()
    return task, optimizer


def location(directory: Path) -> Location:
    """The directory; below a folder called `store` as an object store sees it, which knows no renaming."""
    if "store" not in directory.parts:
        return Location.of(directory)
    top = directory.parent.parent
    return Location(pafs.SubTreeFileSystem(str(top), pafs.LocalFileSystem()), str(directory.relative_to(top)), "s3")


def save(directory: Path, task: MetricTask, optimizer: torch.optim.Optimizer, progress: Progress = PROGRESS) -> None:
    checkpoint.save(location(directory), task.embedder, task.loss, optimizer, progress, "key")


def load(directory: Path, task: MetricTask, optimizer: torch.optim.Optimizer, key: str = "key") -> Progress | None:
    return checkpoint.load(location(directory), task.embedder, task.loss, optimizer, key)


def flat(state: Any, at: str = "") -> dict[str, Any]:
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {k: v for name, value in items for k, v in flat(value, f"{at}/{name}").items()}
    return {at: state}


def same(one: Any, other: Any) -> bool:
    a, b = flat(one), flat(other)
    return a.keys() == b.keys() and all(
        torch.equal(v, b[k]) if isinstance(v, torch.Tensor) else v == b[k] for k, v in a.items()
    )


def test_everything_comes_back(tmp_path: Path) -> None:
    task, optimizer = make(0)
    save(tmp_path / "last", task, optimizer)
    other, other_optimizer = make(1)
    assert not same(other.state_dict(), task.state_dict())
    assert not same(other_optimizer.state_dict(), optimizer.state_dict())
    assert load(tmp_path / "last", other, other_optimizer) == PROGRESS
    assert same(other.state_dict(), task.state_dict())
    assert same(other_optimizer.state_dict(), optimizer.state_dict())


def test_a_checkpoint_is_a_model_that_can_be_used(tmp_path: Path) -> None:
    task, optimizer = make(0)
    save(tmp_path / "last", task, optimizer)
    assert same(load_model(str(tmp_path / "last")).module.state_dict(), task.embedder.state_dict())


def test_none_where_there_is_no_checkpoint_of_the_key(tmp_path: Path) -> None:
    task, optimizer = make(0)
    save(tmp_path / "last", task, optimizer)
    other, other_optimizer = make(1)
    before = {k: v.clone() for k, v in other.state_dict().items()}
    assert load(tmp_path / "nowhere", other, other_optimizer) is None
    assert load(tmp_path / "last", other, other_optimizer, key="other settings") is None
    assert same(other.state_dict(), before)


def _save_and_die(directory: str) -> None:
    task, optimizer = make(1, DiesWhileSaved)
    task.embedder.armed = True  # type: ignore[assignment]
    save(Path(directory), task, optimizer, Progress(step=8))


@pytest.mark.parametrize("kind", ["local", "store"])
def test_a_process_killed_while_saving_leaves_the_checkpoint_before(tmp_path: Path, kind: str) -> None:
    """A real SIGKILL, after the weights of the new checkpoint are written and before its manifest."""
    home = tmp_path / kind
    home.mkdir()
    task, optimizer = make(0)
    save(home / "last", task, optimizer)
    killed = mp.get_context("spawn").Process(target=_save_and_die, args=(str(home / "last"),))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    begun = ".last.*" if kind == "local" else "last-other"
    assert list(home.glob(f"{begun}/model.safetensors"))
    other, other_optimizer = make(1)
    assert load(home / "last", other, other_optimizer) == PROGRESS
    assert same(other.state_dict(), task.state_dict())
    for step in (9, 10, 11):  # what is left of the dead draft is in nobody's way
        save(home / "last", other, other_optimizer, Progress(step=step))
        assert load(home / "last", *make(2)) == Progress(step=step)


def _save_and_die_in_publish(directory: str, renames: int) -> None:
    task, optimizer = make(1)
    dies_in_publish("last", renames)
    save(Path(directory), task, optimizer, Progress(step=8))


@pytest.mark.parametrize(("renames", "step"), [(1, 7), (2, 8)])
def test_a_process_killed_between_two_renames_leaves_a_checkpoint(tmp_path: Path, renames: int, step: int) -> None:
    """A real SIGKILL where the one before is moved aside and the new one isn't in its place, and where it is and the old one isn't removed."""
    save(tmp_path / "last", *make(0))
    killed = mp.get_context("spawn").Process(target=_save_and_die_in_publish, args=(str(tmp_path / "last"), renames))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob(".last.*.old"))) == 1
    assert (tmp_path / "last").exists() == (renames == 2)
    for _ in range(2):  # by every worker of a team
        recover(Location.of(tmp_path / "last"))
    found = load(tmp_path / "last", *make(2))
    assert found is not None
    assert found.step == step
    assert [p.name for p in tmp_path.iterdir()] == ["last"]


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut": cut,
    "empty": lambda file: file.write_bytes(b""),
    "noise": lambda file: file.write_bytes(random.Random(0).randbytes(4096)),
    "text": lambda file: file.write_bytes(b"not a checkpoint at all"),
    "missing": Path.unlink,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
@pytest.mark.parametrize("file", ["model.safetensors", "state.pt"])
def test_damage_is_named_with_what_to_do(tmp_path: Path, file: str, damage: Callable[[Path], object]) -> None:
    save(tmp_path / "last", *make(0))
    damage(tmp_path / "last" / file)
    with pytest.raises(UserError, match=r"The checkpoint .*last is damaged \(\w+\); delete it to train from the start"):
        load(tmp_path / "last", *make(1))


@pytest.mark.parametrize("file", ["model.safetensors", "state.pt"])
def test_one_flipped_bit_is_noticed(tmp_path: Path, file: str) -> None:
    save(tmp_path / "last", *make(0))
    data = bytearray((tmp_path / "last" / file).read_bytes())
    data[len(data) // 2] ^= 4
    (tmp_path / "last" / file).write_bytes(data)
    with pytest.raises(UserError, match="is damaged"):
        load(tmp_path / "last", *make(1))
