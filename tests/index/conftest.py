"""Fixtures of the index's tests."""

from __future__ import annotations

from pathlib import Path

import pytest
from catalog_helpers import made

from fashion_dml.index.catalog import Catalog


@pytest.fixture
def catalog(tmp_path: Path) -> Catalog:
    return made(tmp_path / "catalog")
