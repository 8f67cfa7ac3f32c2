"""Trainings of tests run on one thread: small matrices gain nothing from more, and a busy machine loses."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fashion_dml.data.schema import Dataset


@pytest.fixture(autouse=True, scope="package")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def workspace(small: Dataset, tmp_path: Path) -> Path:
    """A workspace with the small dataset and nothing else."""
    (tmp_path / "dataset").symlink_to(str(small.location))
    return tmp_path
