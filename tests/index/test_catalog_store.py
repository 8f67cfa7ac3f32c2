"""The log of changes in an object store."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from catalog_helpers import (
    batch_name,
    filled,
    killed_writers,
    made,
    opened,
    same,
    several_writers,
)
from serve_helpers import until

from fashion_dml.index.catalog import Catalog
from fashion_dml.storage import UserError


@pytest.fixture(scope="module")
def bucket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Variables that lead to an S3 server with the empty bucket `bucket`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{probe.getsockname()[1]}"
    log = tmp_path_factory.mktemp("store") / "moto.log"
    host, port = endpoint.split(":")
    with log.open("wb") as stream:
        argv = [str(Path(sys.executable).with_name("moto_server")), "-H", host, "-p", port]
        server = subprocess.Popen(argv, stdout=stream, stderr=subprocess.STDOUT)
    try:

        def answers() -> bool:
            assert server.poll() is None, log.read_text()
            with suppress(httpx.TransportError):
                return httpx.put(f"http://{endpoint}/bucket").status_code == 200
            return False

        until(answers)
        yield {
            "AWS_ENDPOINT_URL": f"http://{endpoint}", "AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1", "AWS_EC2_METADATA_DISABLED": "true",
        }  # fmt: skip
    finally:
        server.terminate()
        server.wait()


@pytest.fixture
def store(bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    for name, value in bucket.items():
        monkeypatch.setenv(name, value)
    return bucket


def test_an_object_store(store: dict[str, str]):
    catalog = made("s3://bucket/one/catalog")
    history = filled(catalog, 20)
    behind = opened("s3://bucket/one/catalog")
    same([*behind.since(0)], history)
    history += filled(catalog, 1, "x")
    history.append((behind.append(history[0][1]), history[0][1]))
    assert history[-1][0] == 22
    for reader in (catalog, behind, opened("s3://bucket/one/catalog")):
        same([*reader.since(15)], history[15:])
    (catalog.location / batch_name(catalog, 20)).write_bytes(b"PAR1")
    with pytest.raises(UserError, match=r"^s3://bucket/one/catalog/changes-\w+\.parquet is damaged"):
        [*catalog.since(15)]
    with pytest.raises(UserError, match=r"s3://nowhere/run.* can't be written to"):
        made("s3://nowhere/run")


@pytest.mark.slow
def test_several_writers_in_an_object_store(store: dict[str, str]):
    several_writers("s3://bucket/two/catalog", 8, env=store)


@pytest.mark.slow
def test_killed_writers_in_an_object_store(store: dict[str, str]):
    killed_writers("s3://bucket/four/catalog", 6, env=store)


def test_an_answer_that_was_lost(store: dict[str, str], monkeypatch: pytest.MonkeyPatch):
    """The log decides whether a commit is in, not what was said of it."""
    catalog = made("s3://bucket/five/catalog")
    commit = Catalog._commit

    def loses(self: Catalog, *args: Any) -> None:
        commit(self, *args)
        raise OSError("connection reset")

    monkeypatch.setattr(Catalog, "_commit", loses)
    same(filled(catalog, 2), [*catalog.since(0)])

    def fails(self: Catalog, *args: Any) -> None:
        raise OSError("connection refused")

    monkeypatch.setattr(Catalog, "_commit", fails)
    with pytest.raises(UserError, match=r"s3://bucket/five/catalog can't be written to \(connection refused\)"):
        filled(catalog, 1)
    assert catalog.latest() == 2
