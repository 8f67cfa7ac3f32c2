"""What the driver of an ingestion holds: the list of a million images, checked and cut into files, in a process of its own."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fashion_dml.config import Ingest
from fashion_dml.data.ingest import prepare
from jobs.benchmarks import Row
from jobs.benchmarks.memory import forget_peak, resident

IMAGES = 1_000_000


def listed(count: int) -> pa.Table:
    """Rows as a source makes them: 4 images a product, 8 verticals, every tenth product for testing, one attribute."""
    number = np.arange(count)
    product = number // 4

    def named(prefix: str, values: np.ndarray) -> pa.Array:
        return pc.binary_join_element_wise(prefix, pa.array(values).cast(pa.string()), "")

    return pa.table(
        {"ref": named("photos/", number), "image_id": named("i", number), "product_id": named("p", product),
         "vertical": named("v", product % 8), "split": pa.array(np.where(product % 10, "train", "test")),
         "domain": pa.array(["shop"] * count), "view": pa.array([""] * count), "colour": named("c", number % 20)}
    )  # fmt: skip


def run(workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """Seconds, and peak memory above that of the process before: the list itself, and all that is made of it."""
    out = subprocess.run([sys.executable, "-m", "jobs.benchmarks.ingest"], capture_output=True, text=True, check=True).stdout
    found = json.loads(out)
    return [
        Row("list_1m_images_gib", found["bytes"] / 2**30, "GiB", None, "lower"),
        Row("list_1m_images_s", found["seconds"], "s", None, "lower"),
    ], found


def main() -> None:
    """The process that `run` measures."""
    rows = listed(IMAGES)
    before = resident("VmRSS") - rows.nbytes
    forget_peak()
    began = time.perf_counter()
    files = len(prepare(rows, "the list", Ingest(), 0, {}).work)
    seconds, taken = time.perf_counter() - began, resident("VmHWM") - before
    print(json.dumps({"bytes": taken, "list": rows.nbytes, "seconds": seconds, "files": files}))


if __name__ == "__main__":
    main()
