"""R@1 while training is the R@1 of the evaluation, on the validation products alone."""

from __future__ import annotations

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from train_helpers import DATA, MODEL, embedder

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


def test_holds_no_more_images_than_its_share(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole products, the first of the vertical, within the budget shared among verticals."""
    vertical = small.verticals("train")[0]
    rows = small.products.filter((pc.field("split") == "validation") & (pc.field("vertical") == vertical))["rows"].to_pylist()
    monkeypatch.setattr(validation, "MOST_IMAGES", sum(rows[:2]))
    made = Validation(small, [vertical], DATA)
    assert len(made.images[vertical]) == sum(rows[:2]) == len(made.labels[vertical])
    assert len(rows) == 2 or sum(rows[:2]) < sum(rows)


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
    verticals = small.verticals("train")
    held = small.products.filter(pc.field("split") == "validation")
    whole = {v: pc.sum(held.filter(pc.field("vertical") == v)["rows"]).as_py() for v in verticals}
    assert measurable(small, verticals) == whole
    assert len(set(whole.values())) > 1
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "MOST_IMAGES", sum(whole.values()))  # more than half of it for one of two
        assert measurable(small, verticals) == whole


def test_a_vertical_with_one_validation_product_is_left_out(small: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(validation, "MOST_IMAGES", 2)
    assert Validation(small, small.verticals("train"), DATA).images == {}
