"""The stream: the plan's batches, the same from threads and Ray Data, for any number of workers, from any cursor."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from ray import cloudpickle
from ray.data import DataContext
from stream_helpers import PLAN, THREADS, collect, rewrite, same, sources, teacher, training_plan

from fashion_dml.config import Data
from fashion_dml.data.batch import to_batch
from fashion_dml.data.decode import decode
from fashion_dml.data.plan import Cursor
from fashion_dml.data.ray_data import Unhurried, quiet_context
from fashion_dml.data.read import read_window
from fashion_dml.data.schema import Dataset
from fashion_dml.data.stream import StreamStats, _reader, stream
from fashion_dml.data.stream import _ray_tables as ray_tables
from fashion_dml.data.stream import _thread_tables as thread_tables
from fashion_dml.storage import UserError

IMAGES = replace(PLAN, mode="images")
CORRUPT_SHARE = 0.12


def on_ray(decode: str) -> Data:
    return Data.model_validate({**THREADS.model_dump(), "executor": "ray", "decode": decode})


@pytest.fixture(scope="module")
def damaged(small: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """The last image of every other product is damaged: cut short, or no image at all."""

    def change(row: dict) -> bytes:  # type: ignore[type-arg]
        if row["label"] % 2 == 0 and row["image_id"].endswith("-1"):
            return row["image"][: len(row["image"]) // 2] if row["label"] % 4 else b"no image"
        return row["image"]

    return rewrite(small, tmp_path_factory.mktemp("damaged") / "dataset", change)


def stored(dataset: Dataset) -> dict[tuple[str, int, int, int], dict]:  # type: ignore[type-arg]
    rows = {}
    for part in dataset.parts("train"):
        file = pq.ParquetFile(dataset.images_file(part).path)
        for g in range(file.num_row_groups):
            for i, row in enumerate(file.read_row_group(g).to_pylist()):
                rows[part.vertical, part.shard, g, i] = row
    return rows


@pytest.mark.parametrize("settings", [PLAN, IMAGES], ids=["products", "images"])
def test_batches_are_the_plans_images_and_labels(small: Dataset, settings: object) -> None:
    plan = training_plan(small, settings)  # type: ignore[arg-type]
    steps = plan.steps(0) + 2
    rows = stored(small)
    expected: dict[tuple[int, int], list[dict]] = {}  # type: ignore[type-arg]
    for lane in range(plan.lanes):
        for window in plan.windows(lane, Cursor(), steps):
            for b, pick in enumerate(plan.picks(window)):
                for slot, row in pick:
                    vertical, shard, group = plan.group_key[window.groups[slot]]
                    found = rows[plan.verticals[vertical], shard, group, row]
                    expected.setdefault((window.epoch, window.first_step + b), []).append(found)
    told = collect(small, steps, settings=settings)  # type: ignore[arg-type]
    assert {(b.epoch, b.step) for b in told} == set(expected)
    for batch in told:
        wanted = expected[batch.epoch, batch.step]
        assert batch.labels.tolist() == [r["label"] for r in wanted]
        assert batch.images.dtype == torch.uint8
        assert np.array_equal(batch.images.numpy(), np.stack([decode(r["image"], 40, 32) for r in wanted]))
        assert batch.attributes is not None
        assert batch.attributes.tolist() == [r["attributes"] for r in wanted]
        assert batch.digest == sum(zlib.crc32(r["image_id"].encode()) for r in wanted)
        assert batch.lane.tolist() == sorted(batch.lane.tolist())
        assert batch.row.tolist() == list(range(len(wanted) // plan.lanes)) * plan.lanes


@pytest.mark.parametrize("at", [0, 1, 4, 9])
def test_a_restart_from_a_cursor_gives_the_tail(small: Dataset, at: int) -> None:
    full = collect(small, 10)
    assert len({b.epoch for b in full}) > 1
    same(collect(small, 10 - at, start=training_plan(small).cursor(at)), full[at:])


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_workers_parts_together_are_one_workers_batches(small: Dataset, workers: int) -> None:
    full = collect(small, 6)
    parts = [collect(small, 6, rank=rank, workers=workers) for rank in range(workers)]
    for t, whole in enumerate(full):
        mine = [p[t] for p in parts]
        assert {(b.epoch, b.step) for b in mine} == {(whole.epoch, whole.step)}
        lanes = torch.cat([b.lane for b in mine])
        order = torch.argsort(lanes, stable=True)
        assert torch.equal(lanes[order], whole.lane)
        for name in ("labels", "row", "images"):
            assert torch.equal(torch.cat([getattr(b, name) for b in mine])[order], getattr(whole, name))


def test_more_workers_than_lanes_are_refused(small: Dataset) -> None:
    with pytest.raises(UserError, match=r"4 workers share the 3 lanes of .*lower cluster\.team, or raise data\.lanes\.$"):
        collect(small, 1, workers=4)
    few = training_plan(small, replace(PLAN, lanes=64))
    assert few.lanes < 64
    with pytest.raises(UserError, match=r"lower cluster\.team, or train them with other verticals in a group\.$"):
        next(stream(few, sources(small), THREADS, start=Cursor(), steps=1, workers=few.lanes + 1))


@pytest.mark.cluster
@pytest.mark.parametrize("where", ["task", "worker"])
def test_ray_data_and_threads_give_the_same_batches(
    ray_local: str, small: Dataset, damaged: Dataset, tmp_path: Path, where: str
) -> None:
    data = on_ray(where)
    same(collect(small, 9, data), collect(small, 9))
    start = training_plan(small).cursor(4)
    same(collect(small, 3, data, start=start, rank=1, workers=2), collect(small, 3, start=start, rank=1, workers=2))
    counted, told = StreamStats(), StreamStats()
    limits = {"max_corrupt": 1.0}
    bad = collect(damaged, 8, THREADS.model_copy(update=limits), stats=counted)
    same(collect(damaged, 8, data.model_copy(update=limits), stats=told), bad)
    assert told.corrupt == counted.corrupt != []
    little = {"prefetch_bytes": 1 << 20}  # fewer bytes than the blocks of a task: it goes on all the same
    same(collect(small, 9, data.model_copy(update=little)), collect(small, 9))
    teacher(small, tmp_path)
    same(collect(small, 5, data, settings=IMAGES, targets=tmp_path), collect(small, 5, settings=IMAGES, targets=tmp_path))


@pytest.mark.cluster
@pytest.mark.parametrize("images", [1, 2048], ids=["both", "early alone"])
def test_batches_come_before_ray_data_has_started(
    images: int, ray_local: str, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run is a window, or all there is: Ray Data, held up until the first batch is there, reads the rest, or nothing."""
    started, read = threading.Event(), []

    def held_up(*args: Any) -> Iterator[pa.Table]:
        assert started.wait(60)
        for table in ray_tables(*args):
            read.append(table)
            yield table

    monkeypatch.setattr("fashion_dml.data.stream._ray_tables", held_up)
    monkeypatch.setattr("fashion_dml.data.stream.TASK_IMAGES", images)
    for rank, workers in ((0, 1), (1, 2)):
        started.clear()
        read.clear()
        plan = training_plan(small)
        batches = stream(plan, sources(small), on_ray("worker"), start=plan.cursor(4), steps=9, rank=rank, workers=workers)
        first = next(batches)
        started.set()
        same([first, *batches], collect(small, 9, start=plan.cursor(4), rank=rank, workers=workers))
        assert (len(read) > 0) == (images == 1)


@pytest.mark.parametrize(
    ("labels", "room", "early"), [({}, 256 << 20, True), ({"role": "data"}, 256 << 20, False), ({}, 1 << 19, False)]
)
def test_the_trainer_reads_early_what_fits_and_where_nobody_else_is_named(
    labels: dict[str, str], room: int, early: bool, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three lanes of windows of 12 images: half a megabyte holds five of a lane, by their limit. What is left to Ray Data is read by threads here."""
    given = []

    def left(plan: Any, near: Any, read: Any, runs: Any, *_: Any) -> Any:
        given.extend(runs)
        return thread_tables(plan, near, read, iter(given))

    monkeypatch.setattr("fashion_dml.data.stream._ray_tables", left)
    plan, data = training_plan(small), on_ray("worker").model_copy(update={"prefetch_bytes": room})
    steps = 3 * plan.steps(0)
    same(list(stream(plan, replace(sources(small), labels=labels), data, start=Cursor(), steps=steps)), collect(small, steps))
    assert any((run[0].epoch, run[0].first_step) == (0, 0) for run in given) != early


@pytest.mark.parametrize("room", [1 << 20, 256 << 20])
def test_no_more_batches_are_ready_than_their_bytes_allow(room: int, small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 3 lanes x 4 images of 128 x 224 x 3 is a megabyte: one is ready and one waits to be, whatever the number allows."""
    made = []

    def counting(*args: object) -> object:
        made.append(args)
        return to_batch(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("fashion_dml.data.stream.to_batch", counting)
    large = THREADS.model_copy(update={"height": 128, "width": 224, "prefetch_bytes": room, "prefetch_batches": 50})
    batches = stream(training_plan(small), sources(small), large, start=Cursor(), steps=300)
    ahead = [len(made) - n for n, _ in enumerate(itertools.islice(batches, 40), 1)]
    if room == 1 << 20:
        assert max(ahead) <= 2
    else:
        end = time.monotonic() + 60
        while len(made) < 60 and time.monotonic() < end:
            time.sleep(0.01)
        assert len(made) >= 60
    batches.close()  # type: ignore[attr-defined]


@pytest.mark.cluster
def test_ray_data_leaves_the_cpu_to_a_trainer_that_is_slower(
    ray_local: str, small: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With more to read than may be held, all tasks wait to give: their scheduling loop must not turn without a pause."""
    began: list[float] = []
    pause = Unhurried.on_execution_step

    def counted(self: Unhurried, executor: object) -> None:
        began.append(time.perf_counter())
        pause(self, executor)

    monkeypatch.setattr(Unhurried, "on_execution_step", counted)
    settings = on_ray("worker").model_copy(update={"prefetch_bytes": 1 << 20})
    plan = training_plan(small)
    batches = stream(plan, sources(small), settings, start=Cursor(), steps=40 * plan.steps(0), early=False)
    with closing(batches):
        next(batches)
        looked = len(began)
        deadline = time.monotonic() + 60
        while len(began) < looked + 25 and time.monotonic() < deadline:
            threading.Event().wait(0.01)
    assert len(began) >= looked + 25  # the loop runs while nothing is taken
    assert min(later - earlier for earlier, later in itertools.pairwise(began)) >= 0.9 * Unhurried.PAUSE


def test_large_actors_are_no_news_to_the_user() -> None:
    """Ours only: other Ray Data work of the same process is still warned."""
    every = [c.issue_detectors_config.high_memory_detector_config for c in (quiet_context(), DataContext.get_current())]
    assert every[0].detection_time_interval_s == -1
    assert every[1].detection_time_interval_s > 0


def test_processes_that_read_do_not_import_torch(small: Dataset) -> None:
    """What Ray carries to them: a read task that decodes, the plan, and the context. Their start would take twice as long."""
    carried = (_reader(None, [], sources(small), (32, 32)), training_plan(small), quiet_context())
    script = "import sys; from ray import cloudpickle; cloudpickle.load(sys.stdin.buffer); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], input=cloudpickle.dumps(carried), capture_output=True, check=True)
    assert done.stdout.decode().strip() == "False"


@pytest.mark.cluster
def test_a_refusal_inside_a_ray_task_keeps_its_sentence(ray_local: str, small: Dataset, tmp_path: Path) -> None:
    from jobs.common import user_error

    with pytest.raises(Exception, match="teacher embeddings") as caught:
        collect(small, 1, on_ray("task"), targets=tmp_path)
    found = user_error(caught.value)
    assert found is not None
    assert str(found).startswith("The teacher embeddings of split=train/vertical=")


def test_a_corrupt_image_is_replaced_by_another_of_its_product_and_counted(damaged: Dataset) -> None:
    stats = StreamStats()
    told = collect(damaged, 8, THREADS.model_copy(update={"max_corrupt": 1.0}), stats=stats)
    rows = stored(damaged).values()
    bad = {r["image_id"] for r in rows if r["label"] % 2 == 0 and r["image_id"].endswith("-1")}
    assert set(stats.corrupt) <= bad
    assert len(stats.corrupt) == sum(len(b.corrupt) for b in told) > 3
    assert stats.images == sum(len(b.images) for b in told)
    readable: dict[int, list[bytes]] = {}
    for r in rows:
        if r["image_id"] not in bad:
            readable.setdefault(r["label"], []).append(decode(r["image"], 40, 32).tobytes())
    for batch in told:
        for image, label in zip(batch.images.numpy(), batch.labels.tolist(), strict=True):
            assert image.tobytes() in readable[label]


def test_too_many_corrupt_images_stop_the_stream(small: Dataset, tmp_path: Path) -> None:
    half = rewrite(small, tmp_path / "dataset", lambda r: b"" if r["image_id"].endswith("-1") else r["image"])
    stats = StreamStats()
    with pytest.raises(UserError, match=r"of \d+ images are corrupt, more than data\.max_corrupt = 1\.0%; the last is '.*-1'"):
        collect(half, 200, stats=stats)
    assert 10 < len(stats.corrupt) < 20  # ten are always borne: one in a small dataset is more than its share


def test_a_batch_without_a_readable_image_is_refused(small: Dataset, tmp_path: Path) -> None:
    none = rewrite(small, tmp_path / "dataset", lambda r: b"gone")
    with pytest.raises(UserError, match=r"All stored images of a batch are corrupt, first '.+': ingest the dataset again\."):
        collect(none, 1)


def test_targets_follow_their_images(small: Dataset, damaged: Dataset, tmp_path: Path) -> None:
    known = teacher(small, tmp_path)
    vector = {decode(r["image"], 40, 32).tobytes(): known[r["image_id"]] for r in stored(small).values()}
    assert len(vector) == len(known)
    for dataset in (small, damaged):
        settings = THREADS.model_copy(update={"max_corrupt": 1.0})
        for batch in collect(dataset, 8, settings, settings=IMAGES, targets=tmp_path):
            assert batch.targets is not None
            assert batch.targets.dtype == torch.float32
            for image, target in zip(batch.images.numpy(), batch.targets.numpy(), strict=True):
                assert np.array_equal(vector[image.tobytes()], target)


def test_a_missing_file_reaches_the_trainer_as_an_error(small: Dataset, tmp_path: Path) -> None:
    plan = training_plan(small)
    elsewhere = replace(sources(small), images=str(tmp_path))
    with pytest.raises(FileNotFoundError):
        next(stream(plan, elsewhere, THREADS, start=Cursor(), steps=3))


def test_a_stream_left_early_ends_its_threads(small: Dataset) -> None:
    def threads() -> Iterator[str]:
        return (t.name for t in threading.enumerate() if t.name.startswith("stream"))

    batches = stream(training_plan(small), sources(small), THREADS, start=Cursor(), steps=300)
    next(batches)
    assert any(threads())
    batches.close()  # type: ignore[attr-defined]
    assert not any(threads())


def test_the_stream_reads_only_a_few_windows_ahead(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    read = []

    def counting(*args: object) -> Iterator[object]:
        read.append(args)
        return read_window(*args)  # type: ignore[arg-type]

    monkeypatch.setattr("fashion_dml.data.stream.read_window", counting)
    monkeypatch.setattr("fashion_dml.data.stream.TASK_IMAGES", 8)
    batches = stream(training_plan(small), sources(small), THREADS, start=Cursor(), steps=300)
    for _ in range(3):
        next(batches)
    batches.close()  # type: ignore[attr-defined]
    assert 3 <= len(read) < 60
