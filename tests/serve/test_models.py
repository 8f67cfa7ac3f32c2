"""Models in a process: the library's embeddings, batched over callers, of the model that was asked for."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from drawn import encoded, photo

from fashion_dml.config import Model, Serve
from fashion_dml.index.manifest import keep_model
from fashion_dml.inference.encode import Encoder
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location, UserError
from serve.models import Models
from serve.query import pixels


@pytest.fixture(scope="module")
def index(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, list[str]]:
    """(an index's address, sha256 of two models that lie in it)."""
    home = Location.of(tmp_path_factory.mktemp("models"))
    names = []
    for seed in range(2):
        torch.manual_seed(seed)
        made = Embedder(Model(trunk="test_efficientnet", weights="none", dim=16), 48, 32)
        names.append(save_model(home / f"made-{seed}", made))
        keep_model(home / "index", home / f"made-{seed}", names[-1])
    return str(home / "index"), names


def test_answers_are_the_librarys(index: tuple[str, list[str]]) -> None:
    """A photo's path through the service, against Encoder.encode with torch: to 1e-5."""
    root, names = index
    data = [encoded(photo(i, 60 + i, 40)) for i in range(12)]
    models = Models(root, names[0], Serve(encoder_batch=4))

    async def whole() -> list[np.ndarray]:
        images = [pixels(d, None, 48, 32)[None] for d in data]
        return await asyncio.gather(*(models.embed(names[i % 2], image) for i, image in enumerate(images)))

    found = asyncio.run(whole())
    for i, vectors in enumerate(found):
        encoder = Encoder(str(Path(root).parent / f"made-{i % 2}"), runtime="torch")
        assert vectors.shape == (1, 16)
        assert vectors.dtype == np.float32
        assert np.abs(vectors - encoder.encode([data[i]])).max() <= 1e-5
    assert asyncio.run(models.holds(names[1]))


def test_several_images_of_a_caller_stay_together(index: tuple[str, list[str]]) -> None:
    root, names = index
    models = Models(root, names[0], Serve(encoder_batch=4))
    given = [np.random.default_rng(n).integers(0, 256, (n, 48, 32, 3), dtype=np.uint8) for n in (1, 6, 2, 3)]

    async def whole() -> list[np.ndarray]:
        return await asyncio.gather(*(models.embed(names[0], images) for images in given))

    encoder = Encoder(str(Path(root).parent / "made-0"))
    for images, vectors in zip(given, asyncio.run(whole()), strict=True):
        assert np.abs(vectors - encoder.embed(images)).max() <= 1e-5


def test_a_model_that_is_not_there_is_refused_and_the_others_stay(index: tuple[str, list[str]]) -> None:
    root, names = index
    models = Models(root, names[0], Serve())
    image = np.zeros((1, 48, 32, 3), np.uint8)

    async def whole() -> None:
        with pytest.raises(UserError):
            await models.prepare("f" * 64)
        with pytest.raises(UserError):
            await models.embed("f" * 64, image)
        assert not await models.holds("f" * 64)
        assert (await models.embed(names[0], image)).shape == (1, 16)

    asyncio.run(whole())
