"""Mean embeddings of products before training, by one worker and by several."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch.nn import functional as F
from train_helpers import (
    DATA,
    Interrupted,
    embedder,
    metric_plan,
    metric_task,
    products,
    recipe,
    run_training,
    sources,
    together,
)

from fashion_dml.config import Loss, MultiObjective
from fashion_dml.data.decode import decode
from fashion_dml.data.schema import Dataset, Part
from fashion_dml.training.centres import class_centres
from fashion_dml.training.team import Team

PROXIES = Loss(name="multi_objective", multi_objective=MultiObjective(pair_weight=0))


def centres_of(team: Team, dataset: Dataset, classes: torch.Tensor) -> torch.Tensor:
    return class_centres(embedder(dataset).train(), classes, metric_plan(dataset), sources(dataset), DATA, team)


def shown(dataset: Dataset) -> list[int]:
    """Labels of products that make pairs."""
    return sorted(r["label"] for r in products(dataset).to_pylist() if r["rows"] >= 2)


def brute_force(dataset: Dataset) -> dict[int, torch.Tensor]:
    """One image after the other, by the list of products."""
    model, found = embedder(dataset).eval(), {}
    for row in products(dataset).to_pylist():
        file = Path(str(dataset.images_file(Part("train", row["vertical"], row["shard"]))))
        table = pq.ParquetFile(file).read_row_group(row["row_group"]).slice(row["first_row"], row["rows"])
        assert set(table["label"].to_pylist()) == {row["label"]}
        images = [torch.from_numpy(decode(data, 32, 32).copy()) for data in table["image"].to_pylist()]
        with torch.inference_mode():
            found[row["label"]] = F.normalize(sum(model(i[None].permute(0, 3, 1, 2))[0] for i in images), dim=0)
    return found


def test_they_are_the_means_of_the_products_photos(small: Dataset) -> None:
    labels = shown(small)
    centres = centres_of(Team(), small, torch.tensor(labels))
    expected = brute_force(small)
    torch.testing.assert_close(centres, torch.stack([expected[label] for label in labels]), rtol=0, atol=1e-5)


def test_a_class_without_photos_is_zero_and_other_products_are_passed_over(small: Dataset) -> None:
    labels = shown(small)
    classes = torch.tensor([-5, *labels[1:3], max(labels) + 7])
    centres = centres_of(Team(), small, classes)
    expected = brute_force(small)
    assert not centres[0].any()
    assert not centres[3].any()
    torch.testing.assert_close(centres[1:3], torch.stack([expected[label] for label in labels[1:3]]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("workers", [2, 3])
def test_several_workers_find_the_same(workers: int, small: Dataset) -> None:
    classes = torch.tensor(shown(small))
    found = together(workers, centres_of, small, classes)
    assert all(torch.equal(f, found[0]) for f in found)
    torch.testing.assert_close(found[0], centres_of(Team(), small, classes), rtol=0, atol=1e-6)


def test_the_model_stays_in_its_mode(small: Dataset) -> None:
    for training in (True, False):
        made = embedder(small).train(training)
        before = {n: t.clone() for n, t in made.state_dict().items()}
        class_centres(made, torch.tensor(shown(small)), metric_plan(small), sources(small), DATA, Team())
        assert made.training is training
        assert all(torch.equal(t, before[n]) for n, t in made.state_dict().items())


@pytest.mark.parametrize("start", ["photos", "random"])
def test_proxies_start_there_if_asked(start: Any, small: Dataset) -> None:
    loss = PROXIES.model_copy(update={"multi_objective": MultiObjective(proxy_start=start)})
    task = metric_task(embedder(small), small, loss, Team())
    assert task.classes is not None
    drawn, centres = task.near(), centres_of(Team(), small, task.classes)
    task.begin(metric_plan(small), sources(small), DATA, Team())
    found = task.near()
    assert drawn is not None
    assert found is not None
    known = centres.norm(dim=1) > 0
    expected = torch.where(known[:, None], centres, torch.from_numpy(drawn.vectors)) if start == "photos" else drawn.vectors
    torch.testing.assert_close(torch.from_numpy(found.vectors), torch.as_tensor(expected), rtol=0, atol=1e-6)
    assert task.begun is (start == "photos")


def test_a_training_that_goes_on_keeps_the_proxies_it_has(
    small: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos are looked at once, by the first start."""
    import fashion_dml.training.task as module

    calls = []
    monkeypatch.setattr(module, "class_centres", lambda *args: calls.append(1) or class_centres(*args))
    made = recipe(steps=6, checkpoint_every=3)
    with pytest.raises(Interrupted):
        run_training(small, tmp_path / "stopped", made, die_in_step=5, loss=PROXIES)
    run_training(small, tmp_path / "stopped", made, loss=PROXIES)
    assert calls == [1]
    run_training(small, tmp_path / "whole", made, loss=PROXIES)
    one, other = (pq.read_table(tmp_path / name / "model" / "curve.parquet")["loss"] for name in ("stopped", "whole"))
    assert one.equals(other)
