"""README's searches and changes, and the service's pages, run as written against a real service of the demo's catalogue."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow.parquet as pq
import pytest
import torch
from pages import ROOT, blocks
from s3_server import free_port
from serve_helpers import until

from fashion_dml.config import Ingest, Model, read_config
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import save_model
from fashion_dml.storage import Location
from jobs.ingest import IngestSettings, ingest

pytestmark = [pytest.mark.slow, pytest.mark.serve]
TOKEN = "a token of the pages' test"
STRICT = 'curl() { command curl -sS --fail-with-body -o reply "$@" || { cat reply; exit 1; }; }\n'


def run(home: Path, command: str, port: int) -> str:
    """A block's output, in a shell that ends at the first command that fails; the service is at `port`."""
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "FASHION_DML_"))}
    env |= {"PATH": f"{Path(sys.executable).parent}:{env['PATH']}", "PYTHONPATH": str(ROOT), "FASHION_DML_TOKEN": TOKEN}
    text = STRICT + command.replace(":8000", f":{port}")
    done = subprocess.run(
        ["bash", "-e", "-c", text], cwd=home, env=env, capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, f"{command}\n{(done.stdout + done.stderr)[-2000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with the demo's catalogue, a model of random weights, an index, and photos, as the pages call them."""
    home = tmp_path_factory.mktemp("pages")
    drawn = Ingest.model_validate(read_config(str(ROOT / "jobs" / "configs" / "demo.yaml"))["ingest"])
    ingest(IngestSettings(workspace=str(home / "run"), ingest=drawn))
    torch.manual_seed(0)
    model = Embedder(Model(trunk="test_efficientnet", weights="none", dim=128), 64, 48)
    save_model(Location.of(home / "run" / "unified" / "model"), model.eval())
    dataset = Dataset.open(str(home / "run" / "dataset"))
    (first, *_) = dataset.parts()
    stored = pq.read_table(dataset.images_file(first).path, columns=["image"])["image"].to_pylist()
    for name, data in zip(("photo.jpg", "one.jpg", "two.jpg"), stored, strict=False):
        (home / name).write_bytes(data)
    run(home, "python -m jobs.build_index --workspace run", 0)
    return home


@pytest.fixture(scope="module")
def port(home: Path) -> Iterator[int]:
    """The service of `jobs.serve`, as a user starts it."""
    port = free_port()
    env = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "FASHION_DML_"))} | {"FASHION_DML_TOKEN": TOKEN}
    command = [sys.executable, "-m", "jobs.serve", "--workspace", str(home / "run"), "--serve.port", str(port)]
    with (home / "serve.log").open("wb") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=log, stderr=subprocess.STDOUT)
    try:
        until(lambda: process.poll() is not None or ready(port), 180)
        assert process.poll() is None, (home / "serve.log").read_text()[-2000:]
        yield port
    finally:
        process.terminate()
        process.wait(60)


def ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


def of_page(name: str, pattern: str) -> list[str]:
    """Blocks of a page in which the pattern is found; at least one."""
    found = [block for _, block in blocks(ROOT / name) if re.search(pattern, block)]
    assert found, (name, pattern)
    return found


def test_readme_searches_and_changes(home: Path, port: int) -> None:
    for block in of_page("README.md", r"^(curl|json=)"):
        run(home, block, port)
    assert httpx.get(f"http://127.0.0.1:{port}/v1/items/sku-7", timeout=30).status_code == 404  # made, and deleted again


def test_readme_batch_in_python(home: Path, port: int) -> None:
    (block,) = of_page("README.md", "import base64, httpx")
    given, told = "import numpy as np\n\nvectors = np.eye(3, 128)\n", "print([len(a['results']) for a in answers])\n"
    (home / "batch.py").write_text(given + block.replace(":8000", f":{port}") + told)
    assert run(home, "python batch.py", port).strip() == "[10, 10, 10]"


def test_serve_md_changes_versions(home: Path, port: int) -> None:
    def live() -> str:
        return str(httpx.get(f"http://127.0.0.1:{port}/v1/index", timeout=30).json()["version"])

    (block,) = of_page("docs/serve.md", r"jobs\.build_index .*--activate")
    before = live()
    run(home, block.replace("VERSION", before).replace("--activate true", "--activate true --force true"), port)
    until(lambda: live() == before)
    assert len(list((home / "run" / "index" / "versions").iterdir())) == 2


def test_index_md_changes_the_log(home: Path, port: int) -> None:
    (block,) = of_page("docs/index.md", "Catalog.open_or_create")
    (home / "log.py").write_text(block + "\nprint(version)\n")
    words = httpx.get(f"http://127.0.0.1:{port}/v1/index", timeout=30).json()["attributes"]
    assert words
    (home / "other" / "run").mkdir(parents=True)
    assert int(run(home / "other", f"python {home / 'log.py'}", port)) >= 1


def test_hostile_md_finds_nothing(home: Path, port: int) -> None:
    (block,) = of_page("docs/hostile.md", "jobs.benchmarks.hostile")
    assert " 0 answered wrongly" in run(home, block, port)
    with pytest.raises(AssertionError, match="is no running search service"):
        run(home, block, free_port())


def test_scale_md_counts(home: Path) -> None:
    (block,) = of_page("docs/scale.md", "scale_table")
    assert "| 3,000,000 | 64 |" in run(home, block, 0)
