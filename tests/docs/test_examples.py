"""The examples of docs/extend.md, registered as the page says, do what it says."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from drawn import photo

import fashion_dml.index.train as train_module
from fashion_dml.config import Ingest, Loss
from fashion_dml.data.ingest import prepare
from fashion_dml.losses import LOSSES, create_loss
from fashion_dml.storage import UserError

DOCS = Path(__file__).parents[2] / "docs"


def example(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, DOCS / "examples" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_each_is_under_sixty_lines_and_named_by_the_page() -> None:
    page = (DOCS / "extend.md").read_text()
    files = sorted((DOCS / "examples").glob("*.py"))
    assert len(files) == 3
    for file in files:
        assert len(file.read_text().splitlines()) < 60
        assert f"(examples/{file.name})" in page


def test_the_loss_is_that_of_pytorch_metric_learning(monkeypatch: pytest.MonkeyPatch) -> None:
    from pytorch_metric_learning.losses import SupConLoss as Oracle

    made = example("supcon_loss").SupConLoss
    monkeypatch.setitem(LOSSES, "supcon", lambda settings, about, memory: made(memory=memory))
    loss = create_loss(Loss(name="supcon"))
    generator = torch.Generator().manual_seed(3)
    labels = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3])  # 2 has no positive
    ours = torch.randn(8, 16, generator=generator, dtype=torch.float64).requires_grad_()
    theirs = ours.detach().clone().requires_grad_()
    value = loss(torch.nn.functional.normalize(ours, dim=1), labels)["loss"]
    expected = Oracle(temperature=0.1)(theirs, labels)  # it normalises by itself
    torch.testing.assert_close(value, expected)
    value.backward()
    expected.backward()
    torch.testing.assert_close(ours.grad, theirs.grad)


def test_the_loss_of_a_batch_without_positives_is_nothing() -> None:
    x = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=1).requires_grad_()
    value = example("supcon_loss").SupConLoss()(x, torch.arange(4))["loss"]
    value.backward()
    assert value.item() == 0
    assert x.grad is not None
    assert not x.grad.any()


def test_the_source_reads_a_tree_of_folders(tmp_path: Path) -> None:
    read_tree = example("tree_source").read_tree
    for vertical in ("dresses", "shoes"):
        for product in range(8):
            for image in range(2):
                file = tmp_path / vertical / f"p{product}" / f"{image}.jpg"
                file.parent.mkdir(parents=True, exist_ok=True)
                photo(100 * product + image).save(file)
    (tmp_path / "loose.jpg").write_bytes(b"")
    (tmp_path / "dresses" / "p0" / "notes.txt").write_text("no photo")
    rows, reader, inputs = read_tree(str(tmp_path), Ingest())
    assert rows.num_rows == 32
    assert set(rows["split"].to_pylist()) == {"train", "test"}
    assert reader.load(rows["ref"][0].as_py()).size == (30, 40)
    assert read_tree(str(tmp_path), Ingest())[2] == inputs
    prepared = prepare(rows, str(tmp_path), Ingest(), 0, inputs)
    assert set(prepared.table["vertical"].to_pylist()) == {"dresses", "shoes"}
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"No image of .* can be used"):
        read_tree(str(tmp_path / "empty"), Ingest())


@pytest.mark.parametrize("store", ["fp32", "fp16"])
def test_the_index_kind_finds_what_is_near(store: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train_module, "KINDS", (*train_module.KINDS, "ivf_hnsw"))
    monkeypatch.setitem(train_module._APPROXIMATE, "ivf_hnsw", example("graph_of_cells").ivf_hnsw)
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 24)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    trained = train_module.train("ivf_hnsw", store, 24, len(vectors), vectors)
    assert trained.candidates is not None
    trained.candidates.add(vectors)
    trained.candidates.nprobe = 64
    _, found = trained.candidates.search(vectors[:50], 10)
    exact = np.argsort(-(vectors[:50] @ vectors.T), axis=1)[:, :10]
    hits = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(found, exact, strict=True)])
    assert hits > 0.9
