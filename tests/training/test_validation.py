"""R@1 while training is the R@1 of the evaluation, on the validation products alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from drawn import SMALL, small_dataset
from hypothesis import given
from hypothesis import strategies as st
from train_helpers import DATA, MODEL, embedder, run_training

from fashion_dml.data.decode import decode
from fashion_dml.data.schema import Dataset
from fashion_dml.evaluation.metrics import measure
from fashion_dml.models.embedder import Embedder
from fashion_dml.training import validation
from fashion_dml.training.validation import Validation, even_shares, measurable


def stored(dataset: Dataset, vertical: str) -> tuple[np.ndarray, np.ndarray]:
    """(pixels, labels) of the vertical's validation images, straight from the files."""
    rows = [
        r for part in dataset.parts("validation", [vertical]) for r in pq.read_table(dataset.images_file(part).path).to_pylist()
    ]
    return np.stack([decode(r["image"], 32, 32) for r in rows]), np.array([r["label"] for r in rows])


def test_is_the_measure_of_the_evaluation(small: Dataset) -> None:
    model = embedder(small)
    verticals = small.verticals("train")
    found = Validation(small, verticals, DATA).recall(model, torch.device("cpu"))
    assert list(found) == verticals
    for vertical in verticals:
        pixels, labels = stored(small, vertical)
        with torch.inference_mode():
            vectors = model.eval()(torch.from_numpy(pixels).permute(0, 3, 1, 2)).numpy()
        expected = measure(vectors, labels, vectors, labels, exclude=np.arange(len(labels)), recall_at=(1,)).summary()["R@1"]
        assert found[vertical] == pytest.approx(expected)


def test_tells_models_apart(small: Dataset) -> None:
    """A trained start against one that maps everything to a point."""
    verticals = small.verticals("train")
    made = Validation(small, verticals, DATA)
    flat = Embedder(MODEL, 32, 32)
    with torch.no_grad():
        flat.head.weight.zero_()
    assert set(made.recall(flat, torch.device("cpu")).values()) == {0.0}
    assert max(made.recall(embedder(small), torch.device("cpu")).values()) > 0


@pytest.mark.parametrize("training", [True, False])
def test_leaves_the_model_as_it_was(training: bool, small: Dataset) -> None:
    model = embedder(small, batch_norm="live").train(training)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    Validation(small, small.verticals("train"), DATA).recall(model, torch.device("cpu"))
    assert [m.training for m in model.modules()] == modes
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """As `small`, with half of the training products held out."""
    return small_dataset(tmp_path_factory.mktemp("many") / "dataset", SMALL.model_copy(update={"validation_share": 0.5}))


def held(dataset: Dataset, vertical: str) -> list[int]:
    """Images of each of the vertical's validation products."""
    found = dataset.products.filter((pc.field("split") == "validation") & (pc.field("vertical") == vertical))
    return [int(n) for n in found["rows"].to_pylist()]


def with_rows(dataset: Dataset, rows: dict[str, list[int]]) -> Dataset:
    """The dataset with so many images, at most as many as there are, of a vertical's first validation products, and none of the others."""
    left = {v: iter(n) for v, n in rows.items()}
    listed = dataset.products.to_pylist()
    for row in listed:
        if row["split"] == "validation" and row["vertical"] in left:
            row["rows"] = min(row["rows"], next(left[row["vertical"]], 0))
    products = pa.Table.from_pylist([row for row in listed if row["rows"]], schema=dataset.products.schema)
    return Dataset(dataset.location, dataset.manifest, products)


def test_holds_no_more_images_than_its_share(many: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole products, the first of the vertical, within the budget shared among verticals."""
    first, second = many.verticals("train")
    rows = held(many, first)
    share = sum(rows[:3])
    assert share < min(sum(rows), sum(held(many, second)))
    monkeypatch.setattr(validation, "MOST_IMAGES", 2 * share)
    made = Validation(many, [first], DATA)
    assert len(made.images[first]) == share == len(made.labels[first])
    assert sum(measurable(many).values()) <= 2 * share
    assert set(measurable(many)) == {first, second}


@pytest.mark.parametrize("most", [1, 9, 17, 4096])
def test_a_vertical_is_validated_on_the_same_photos_in_every_training(
    most: int, many: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that R@1 of a specialist, a merge and the student can be compared; the search for groups knows how many photos they are."""
    monkeypatch.setattr(validation, "MOST_IMAGES", most)
    verticals = many.verticals("train")
    together, model = Validation(many, verticals, DATA), embedder(many)
    found = together.recall(model, torch.device("cpu"))
    assert {v: len(n) for v, n in together.labels.items()} == measurable(many)
    for vertical in verticals:
        alone = Validation(many, [vertical], DATA)
        assert torch.equal(alone.images[vertical], together.images[vertical])
        assert alone.labels[vertical].tolist() == together.labels[vertical].tolist()
        assert alone.recall(model, torch.device("cpu")) == {vertical: found[vertical]}


@pytest.mark.parametrize("rows", [[2, 2, 2], [2, 1, 2], [1, 1, 2, 2], [1, 2, 1], [2, 1]])
def test_two_products_are_held_whatever_the_share(rows: list[int], many: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that make pairs where there are two, though a product before them fills the share."""
    monkeypatch.setattr(validation, "MOST_IMAGES", 2)
    vertical = many.verticals("train")[0]
    changed = with_rows(many, {vertical: rows})
    kept = Validation(changed, [vertical], DATA).labels[vertical]
    pairs = sum(np.unique(kept, return_counts=True)[1] >= 2)
    assert pairs == min(2, sum(n >= 2 for n in rows))
    assert len(np.unique(kept)) >= 2
    assert 0 <= Validation(changed, [vertical], DATA).recall(embedder(many), torch.device("cpu"))[vertical] <= 1


def test_a_vertical_of_single_photos_is_left_out_of_the_mean(small: Dataset, tmp_path: Path) -> None:
    """Nothing can be found there; the training goes through and its report can be read."""
    first, second = small.verticals("train")
    singles = with_rows(small, {first: [1] * len(held(small, first))})
    assert set(measurable(singles)) == {second}
    run_training(singles, tmp_path)
    manifest = json.loads((tmp_path / "model" / "manifest.json").read_text())
    assert [v["verticals"].keys() for v in manifest["validations"]] == [{second}] * 2
    assert [v["R@1"] for v in manifest["validations"]] == [v["verticals"][second] for v in manifest["validations"]]


@given(st.dictionaries(st.text("abcdefgh", min_size=1), st.integers(0, 500), min_size=1), st.integers(1, 2000))
def test_shares_are_even_and_what_small_verticals_leave_goes_to_others(images: dict[str, int], most: int) -> None:
    shares = even_shares(images, most)
    assert set(shares) == set(images)
    assert all(shares[v] <= images[v] for v in images)
    # One apiece is the least: a vertical that could be measured isn't given nothing.
    assert sum(shares.values()) <= max(most, len(images))
    if most >= len(images):
        assert sum(shares.values()) == min(most, sum(images.values()))
    short = [shares[v] for v in images if shares[v] < images[v]]
    assert not short or max(shares.values()) - min(short) <= 1


def test_all_images_are_used_where_they_are_few_enough(small: Dataset) -> None:
    whole = {v: sum(held(small, v)) for v in small.verticals("train")}
    assert measurable(small) == whole
    assert len(set(whole.values())) > 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "MOST_IMAGES", sum(whole.values()))  # more than half of it for one of two
        assert measurable(small) == whole


def test_a_vertical_with_one_validation_product_is_left_out(small: Dataset) -> None:
    alone = with_rows(small, {v: [2] for v in small.verticals("train")})
    assert Validation(alone, small.verticals("train"), DATA).images == {}
