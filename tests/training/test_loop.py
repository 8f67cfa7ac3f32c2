"""The training loop: goes on bit for bit wherever it was cut, refuses a diverged model, publishes what was asked for."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import Any

import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
import safetensors.torch
import torch
import torch.multiprocessing as mp
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from train_helpers import MODEL, Interrupted, dies_in_publish, embedder, recipe, run_training

from fashion_dml.config import Granularity, Loss, Memory, Optim
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, UserError
from fashion_dml.training.loop import convert_sync_batchnorm
from fashion_dml.training.recipe import finished

STEPS = 12
VARIANTS: dict[str, dict[str, Any]] = {"frozen batch norm": {}, "live batch norm": {"batch_norm": "live", "frozen_stages": 2}}


def manifest(output: Path, name: str = "model") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((output / name / "manifest.json").read_text())
    return found


@pytest.fixture(scope="module")
def undisturbed(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Manifests of trainings that nothing interrupted, by variant."""
    found = {}
    for name, model in VARIANTS.items():
        output = tmp_path_factory.mktemp("undisturbed")
        run_training(small, output, model=model)
        found[name] = manifest(output)
    return found


def same_result(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Weights, and all figures but those of the clock."""
    clock = ("seconds", "waited")
    return {k: v for k, v in one.items() if k not in clock} == {k: v for k, v in other.items() if k not in clock}


@pytest.mark.parametrize("step", range(1, STEPS + 1))
def test_goes_on_bit_for_bit_after_dying_in_any_step(
    step: int, small: Dataset, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    with pytest.raises(Interrupted):
        run_training(small, tmp_path, die_in_step=step)
    assert not (tmp_path / "model").exists()
    done = run_training(small, tmp_path)
    assert done["step"] == STEPS
    assert same_result(manifest(tmp_path), undisturbed["frozen batch norm"])


def _train_and_die_in_publish(dataset: Dataset, output: str) -> None:
    torch.set_num_threads(1)
    dies_in_publish("last", 2)  # of the second checkpoint: the first has nothing to move aside
    run_training(dataset, Path(output))


def test_a_process_killed_where_no_checkpoint_is_in_its_place_goes_on(
    small: Dataset, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    """A real SIGKILL between the two renames of the second checkpoint: the training goes on from the first, and tidies up."""
    output = tmp_path / "dresses"
    killed = mp.get_context("spawn").Process(target=_train_and_die_in_publish, args=(small, str(output)))
    killed.start()
    killed.join()
    assert killed.exitcode == -signal.SIGKILL
    assert not (output / "last").exists()
    steps: list[int] = []
    run_training(small, output, report=lambda progress: steps.append(progress["step"]))
    assert steps[0] == 6  # the first that is told of after step 5
    assert same_result(manifest(output), undisturbed["frozen batch norm"])
    assert sorted(p.name for p in output.iterdir()) == ["best", "last", "logs", "model"]


METHODS: dict[str, dict[str, Any]] = {
    "hard classes": {"loss": Loss(name="multi_objective"), "mode": "hard-classes"},
    "attributes": {"loss": Loss(name="granularity", granularity=Granularity(form="A", g="shuffled"))},
    "cascade": {"loss": Loss(name="cascade"), "model": {"taps": (2, 3), "dim": 24}},
    "memory": {"loss": Loss(name="focus_ranking", memory=Memory(size=16))},
    "averaged": {},
}


@pytest.mark.parametrize("method", METHODS)
def test_any_method_goes_on_bit_for_bit(method: str, small: Dataset, tmp_path: Path) -> None:
    """Proxies, where products were near when the stream began, the memory's embeddings, averages: all is in the checkpoint."""
    made = recipe(refresh=4, optim=Optim(learning_rate=1e-3, average=0.9 if method == "averaged" else 0))
    run_training(small, tmp_path / "undisturbed", made, **METHODS[method])
    with pytest.raises(Interrupted):
        run_training(small, tmp_path / "cut", made, die_in_step=8, **METHODS[method])
    run_training(small, tmp_path / "cut", made, **METHODS[method])
    assert same_result(manifest(tmp_path / "cut"), manifest(tmp_path / "undisturbed"))
    one, other = (pq.read_table(tmp_path / name / "model" / "curve.parquet") for name in ("undisturbed", "cut"))
    assert one.drop(["waited_ms"]).equals(other.drop(["waited_ms"]))


@pytest.mark.parametrize("variant", VARIANTS)
def test_goes_on_after_dying_at_every_report(
    variant: str, small: Dataset, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    """Each run gets one report further than the one before; the last report comes when the model is published."""
    allowed, told = 0, 0

    def report(progress: dict[str, Any]) -> None:
        nonlocal told
        told += 1
        if told > allowed:
            raise Interrupted

    for attempt in range(20):
        allowed, told = attempt, 0
        try:
            run_training(small, tmp_path, report=report, model=VARIANTS[variant])
        except Interrupted:
            continue
        break
    assert allowed >= 2
    assert same_result(manifest(tmp_path), undisturbed[variant])


def test_a_checkpoint_of_other_settings_is_not_taken_up(
    small: Dataset, tmp_path: Path, undisturbed: dict[str, dict[str, Any]]
) -> None:
    run_training(small, tmp_path, recipe(key="other", optim=Optim(learning_rate=3e-3)))
    run_training(small, tmp_path)
    assert same_result(manifest(tmp_path), undisturbed["frozen batch norm"])
    assert finished(Location.of(tmp_path), "key") is not None
    assert finished(Location.of(tmp_path), "other") is None


def test_a_finished_training_that_is_asked_for_again_only_publishes(small: Dataset, tmp_path: Path) -> None:
    """As after a death between the last checkpoint and the publication."""
    run_training(small, tmp_path)
    before = manifest(tmp_path)
    (tmp_path / "model" / "manifest.json").unlink()
    run_training(small, tmp_path, die_in_step=1)
    assert same_result(manifest(tmp_path), before)


@pytest.mark.parametrize("every", [1, 5, 50])
def test_a_diverged_model_stops_at_a_named_step_and_is_not_kept(every: int, small: Dataset, tmp_path: Path) -> None:
    made = recipe(optim=Optim(learning_rate=1e30, warmup=0), checkpoint_every=every)
    with pytest.raises(
        UserError, match=r"dresses: the loss is nan at step \d+; lower optim.learning_rate or look at its photos"
    ):
        run_training(small, tmp_path, made)
    assert not (tmp_path / "model").exists()
    if (tmp_path / "last").exists():  # of step 1 at most, taken before the loss could show anything
        assert manifest(tmp_path, "last")["step"] == 1


def test_the_step_named_is_the_first_that_is_looked_at(small: Dataset, tmp_path: Path) -> None:
    made = recipe(optim=Optim(learning_rate=1e30, warmup=0), checkpoint_every=50, validate_every=50)
    with pytest.raises(UserError, match="at step 10;"):
        run_training(small, tmp_path, made)
    made = recipe(optim=Optim(learning_rate=1e30, warmup=0), checkpoint_every=50, validate_every=4)
    with pytest.raises(UserError, match="at step 4;"):
        run_training(small, tmp_path, made)


def writers() -> list[threading.Thread]:
    """Threads that write TensorBoard files."""
    return [t for t in threading.enumerate() if "Writer" in type(t).__name__]


@pytest.mark.parametrize("scheme", ["file", "s3"])
@pytest.mark.parametrize("end", ["the loss is nan", "interrupted"])
def test_a_training_that_fails_leaves_its_curve_and_no_thread(end: str, scheme: str, small: Dataset, tmp_path: Path) -> None:
    """In an object store, too, where the curve goes up when the board is closed."""
    store = Location(pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem()), "run/dresses", "s3")
    output = store if scheme == "s3" else Location.of(tmp_path / "run" / "dresses")
    made = recipe(checkpoint_every=50, validate_every=50, optim=Optim(learning_rate=1e30 if "nan" in end else 1e-3, warmup=0))
    told: list[int] = []
    with pytest.raises((UserError, Interrupted), match=end if "nan" in end else None):
        run_training(
            small, output, made, die_in_step=None if "nan" in end else 5, report=lambda progress: told.append(len(writers()))
        )
    assert told == [1]
    assert writers() == []
    board = EventAccumulator(str(tmp_path / "run" / "dresses" / "logs"))
    board.Reload()
    assert [e.step for e in board.Scalars("train/loss")] == [1]


def test_figures_of_a_training(small: Dataset, tmp_path: Path) -> None:
    told: list[dict[str, Any]] = []
    run_training(small, tmp_path, report=told.append)
    found = manifest(tmp_path)
    assert (found["steps"], found["images"], found["name"], found["key"]) == (STEPS, STEPS * 2 * 4 * 2, "dresses", "key")
    assert [v["step"] for v in found["validations"]] == [6, 12]
    assert found["best"] == max(v["R@1"] for v in found["validations"])
    assert set(found["validations"][0]["verticals"]) == set(small.verticals("train"))
    waited = found["waited"]
    assert 0 <= waited["median_ms"] <= waited["p95_ms"] <= waited["longest_ms"] <= 1000 * waited["total_s"] + 1
    assert waited["total_s"] < found["seconds"]
    assert told[-1]["done"]
    assert [t["step"] for t in told] == sorted(t["step"] for t in told)
    assert list((tmp_path / "logs").glob("events.*"))


def test_training_changes_what_it_may_and_nothing_else(small: Dataset, tmp_path: Path) -> None:
    start = embedder(small, frozen_stages=2)
    run_training(small, tmp_path, model={"frozen_stages": 2})
    end = load_model(str(tmp_path / "model")).module.state_dict()
    trained = {n for n, p in start.named_parameters() if p.requires_grad}
    changed = {n for n, v in start.state_dict().items() if not torch.equal(v, end[n])}
    assert changed == trained


@pytest.mark.parametrize(("share", "moves"), [(1.0, False), (0.5, True)])
def test_the_head_may_learn_first(share: float, moves: bool, small: Dataset, tmp_path: Path) -> None:
    run_training(small, tmp_path, recipe(steps=4, optim=Optim(learning_rate=1e-3, head_first=share)))
    start, end = embedder(small).state_dict(), load_model(str(tmp_path / "model")).module.state_dict()
    assert not torch.equal(start["head.weight"], end["head.weight"])
    assert any(not torch.equal(end[n], v) for n, v in start.items() if n.startswith("trunk.")) is moves


@pytest.mark.parametrize("keep", ["best", "last"])
def test_keeps_the_model_asked_for(keep: str, small: Dataset, tmp_path: Path) -> None:
    """A rate that grows too high: the best model is an early one."""
    made = recipe(keep=keep, validate_every=1, optim=Optim(learning_rate=0.3, warmup=1.0))
    run_training(small, tmp_path, made)
    found, best, last = (manifest(tmp_path, name) for name in ("model", "best", "last"))
    assert best["step"] == found["best_step"] < STEPS
    assert best["sha256"] != last["sha256"]
    assert found["sha256"] == (best if keep == "best" else last)["sha256"]


def test_a_best_model_of_other_settings_is_not_published(small: Dataset, tmp_path: Path) -> None:
    torch.manual_seed(9)
    other = save_model(Location.of(tmp_path / "best"), Embedder(MODEL, 32, 32), key="other settings", step=3)
    unvalidated = Dataset(small.location, small.manifest, small.products.filter(small_train(small)))
    run_training(unvalidated, tmp_path, recipe(keep="best"))
    assert manifest(tmp_path)["validations"] == []
    assert manifest(tmp_path)["sha256"] == manifest(tmp_path, "last")["sha256"] != other


def small_train(dataset: Dataset) -> Any:
    import pyarrow.compute as pc

    return pc.field("split") == "train"


def test_bf16_training_ends_with_float32_weights(small: Dataset, tmp_path: Path) -> None:
    run_training(small, tmp_path, recipe(steps=3, optim=Optim(amp="bf16")))
    weights = safetensors.torch.load_file(tmp_path / "model" / "model.safetensors")
    assert {v.dtype for k, v in weights.items() if "num_batches" not in k} == {torch.float32}


def test_synchronised_batch_norm_keeps_the_activations() -> None:
    """timm's norm layers hold the activation; outside of training the converted trunk is the same function."""
    torch.manual_seed(0)
    trunk = Embedder(MODEL, 32, 32).trunk.eval()
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = trunk(images)
        convert_sync_batchnorm(trunk)
        assert any(isinstance(m, nn.SyncBatchNorm) for m in trunk.modules())
        torch.testing.assert_close(trunk(images), before)
