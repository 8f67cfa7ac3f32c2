"""What all tests share: one Ray on this machine, one small dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from drawn import small_dataset

from fashion_dml.data.ray_data import IDLE_READERS
from fashion_dml.data.schema import Dataset

pytest_plugins = ["service_fixtures"]

# Inherited by Serve's controller when Ray starts: a killed shard actor is noticed soon.
os.environ["RAY_SERVE_DEPLOYMENT_ACTOR_HEALTH_CHECK_PERIOD_S"] = "1"
os.environ.update(IDLE_READERS)  # as jobs start it
os.environ["FASHION_DML_TOKEN"] = "a token for the tests only"


@pytest.fixture(scope="session")
def ray_local() -> Iterator[str]:
    """Address of a Ray that runs on this machine alone; one that is there already is used and left running."""
    import ray

    started = not ray.is_initialized()
    if started:
        ray.init(address="local", num_cpus=4, include_dashboard=False, object_store_memory=256 << 20, log_to_driver=False)
    yield ray.get_runtime_context().gcs_address
    if started:
        ray.shutdown()


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Two verticals of the generated catalogue; read only."""
    return small_dataset(tmp_path_factory.mktemp("small") / "dataset")
