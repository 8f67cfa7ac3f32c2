"""Embedding datasets: files that go row by row with their images, made once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from fashion_dml.config import Cluster, Data, Embed, Model
from fashion_dml.data.schema import Dataset
from fashion_dml.inference.embed import EmbedActor, EmbedRequest, embed_file, ensure_embeddings, read_embeddings
from fashion_dml.inference.encode import Encoder
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location, UserError

DATA = Data(height=32, width=32)


def model_directory(at: Path, seed: int) -> str:
    torch.manual_seed(seed)
    save_model(Location.of(at), Embedder(Model(trunk="test_efficientnet", weights="none", dim=16), 32, 32))
    return str(at)


def layout(file: Path | str) -> list[list[str]]:
    """Image ids by row group."""
    parquet = pq.ParquetFile(file)
    return [
        parquet.read_row_group(g, columns=["image_id"])["image_id"].to_pylist() for g in range(parquet.metadata.num_row_groups)
    ]


@pytest.mark.parametrize("batch", [1, 5, 1000])
def test_a_file_has_the_row_groups_of_its_images_and_their_vectors(batch: int, small: Dataset, tmp_path: Path) -> None:
    encoder = Encoder(model_directory(tmp_path / "model", 0))
    part = small.parts("train")[0]
    source, target = small.images_file(part), Location.of(tmp_path / "vectors") / part.relative
    rows = embed_file(encoder, source, target, batch)
    groups = layout(source.path)
    assert len(groups) > 1
    assert layout(target.path) == groups
    ids, found = read_embeddings(Location.of(tmp_path / "vectors"), part)
    assert ids == [i for group in groups for i in group]
    assert rows == len(ids)
    images = pq.read_table(source.path, columns=["image"])["image"].to_pylist()
    np.testing.assert_allclose(found, encoder.encode(images), atol=1e-5)


def spoilt(images: Location, at: Path, row: int) -> tuple[Location, str]:
    """A copy of an images file with other bytes in one row's photo, and that row's id."""
    table = pq.read_table(images.path)
    photos = table["image"].to_pylist()
    photos[row] = b"no photo"
    pq.write_table(table.set_column(table.schema.get_field_index("image"), "image", [photos]), at, row_group_size=5)
    return Location.of(at), table["image_id"][row].as_py()


@pytest.mark.parametrize("row", [0, 7, -1])
def test_a_damaged_photo_is_named_and_leaves_nothing_behind(row: int, small: Dataset, tmp_path: Path) -> None:
    images, image_id = spoilt(small.images_file(small.parts("train")[0]), tmp_path / "images.parquet", row)
    encoder = Encoder("color-histogram", height=32, width=32)
    message = rf"^The stored image '{image_id}' in {images} can't be decoded \(.*not a readable.*\): restore the dataset, or delete it and"
    with pytest.raises(UserError, match=message):
        embed_file(encoder, images, Location.of(tmp_path / "out" / "vectors.parquet"), 4)
    assert list((tmp_path / "out").iterdir()) == []


def test_an_actor_keeps_the_models_it_used_last(small: Dataset, tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    actor = EmbedActor(batch_images=16, actors=1)
    torch.set_num_threads(threads)
    part = small.parts("train")[0]
    models = [model_directory(tmp_path / f"model{i}", i) for i in range(3)]
    row = {"images": str(small.images_file(part)), "size": np.array([32, 32]), "mirror": False}
    for i, model in enumerate([models[0], models[1], models[0], models[2], models[0]]):
        actor({**row, "model": model, "output": str(tmp_path / f"{i}.parquet")})
    assert list(actor._models) == [models[2], models[0]]
    vectors = [pq.read_table(tmp_path / f"{i}.parquet") for i in range(5)]
    assert vectors[0].equals(vectors[2])
    assert vectors[0].equals(vectors[4])
    assert not vectors[0].equals(vectors[1])


@pytest.mark.cluster
def test_only_what_is_missing_is_made(ray_local: str, small: Dataset, tmp_path: Path) -> None:
    """One execution over several models; afterwards nothing is made again, and one lost file alone."""
    workspace = Location.of(tmp_path)
    one, two = (model_directory(tmp_path / f"model{i}", i) for i in (0, 1))
    train, test = small.parts("train"), small.parts("test")
    requests = [EmbedRequest(one, train + test), EmbedRequest(two, test, mirror=True), EmbedRequest("color-histogram", test)]

    def made() -> dict[str, int]:
        found = ensure_embeddings(
            workspace, small, requests, Embed(batch_images=8), Cluster(workers=2, cpus_per_worker=0.5), DATA
        )
        assert len({d.path for d in found.values()}) == 3
        files = {(found[r.model] / p.relative).path: p for r in requests for p in r.parts}
        for file, part in files.items():
            assert layout(file) == layout(small.images_file(part).path)
        assert {str(p) for p in (tmp_path / "embeddings").rglob("*.parquet")} == set(files)
        return {file: Path(file).stat().st_mtime_ns for file in files}

    first = made()
    encoder = Encoder(two)
    directory = next(Path(f).parents[2] for f in first if Path(f).parents[2].name.endswith(f"{encoder.sha256[:16]}-mirror"))
    images = pq.read_table(small.images_file(test[0]).path, columns=["image"])["image"].to_pylist()
    expected = encoder.encode(images, mirror=True)
    np.testing.assert_allclose(read_embeddings(Location.of(directory), test[0])[1], expected, atol=1e-5)
    assert made() == first
    lost = sorted(first)[1]
    Path(lost).unlink()
    again = made()
    assert again[lost] > first[lost]
    assert {k: v for k, v in again.items() if k != lost} == {k: v for k, v in first.items() if k != lost}


def test_a_model_that_cannot_be_is_refused_before_anything_starts(small: Dataset, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is no model"):
        ensure_embeddings(
            Location.of(tmp_path), small, [EmbedRequest("/nowhere", small.parts("test"))], Embed(), Cluster(), DATA
        )
    assert not (tmp_path / "embeddings").exists()
