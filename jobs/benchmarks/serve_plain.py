"""What a team writes before it looks for a product: one process with FastAPI, torch and FAISS, and no more.

    python -m jobs.benchmarks.serve_plain WORKSPACE PORT

The same model, vectors, decoding and answer (ids and scores of the nearest) as the service, from the workspace of `serve_workspace`. FastAPI's
threads embed a photo each; there are no filters, changes, refusals, metrics, batching or second process. One OpenMP thread a request:
with the libraries' defaults the threads of 32 requests fight for the cores.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from fastapi import FastAPI, UploadFile

from jobs.benchmarks.serve_limits import AT


def application(workspace: str) -> FastAPI:
    """The FastAPI application."""
    import faiss
    import torch

    from fashion_dml.data.decode import decode
    from fashion_dml.index.manifest import index_root
    from fashion_dml.index.shard import Shard
    from fashion_dml.models.store import load_model
    from fashion_dml.storage import Location
    from jobs.benchmarks.index_versions import DIM
    from jobs.benchmarks.serve_workspace import SHARDS, VERSION

    torch.set_num_threads(1)
    faiss.omp_set_num_threads(1)
    home = Location.of(workspace)
    loaded = load_model(home / "unified" / "model")
    model = loaded.module.eval()
    index, ids = faiss.IndexFlatIP(DIM), []
    for number in range(SHARDS):
        shard = Shard.open(index_root(home), VERSION, number, threads=1)
        index.add(np.stack([shard.vector(row) for row in range(shard.rows)]))
        ids += [shard.item_id(row) for row in range(shard.rows)]
    app = FastAPI()

    @app.get("/readyz")
    def ready() -> dict[str, str]:
        return {"status": "ok"}

    @app.post("/v1/search")
    def search(image: UploadFile, k: int = AT) -> dict[str, Any]:
        pixels = torch.from_numpy(decode(image.file.read(), loaded.height, loaded.width)).permute(2, 0, 1)[None]
        with torch.inference_mode():
            query = model(pixels).numpy()
        scores, rows = index.search(query, k)
        return {"results": [{"item_id": ids[r], "score": float(s)} for r, s in zip(rows[0], scores[0], strict=True)]}

    return app


@contextmanager
def plain(workspace: str, port: int) -> Iterator[None]:
    """The process, started; ended with the block."""
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.Popen([sys.executable, "-m", "jobs.benchmarks.serve_plain", workspace, str(port)], env=environment)
    try:
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    import uvicorn

    uvicorn.run(application(sys.argv[1]), host="127.0.0.1", port=int(sys.argv[2]), log_level="warning")
