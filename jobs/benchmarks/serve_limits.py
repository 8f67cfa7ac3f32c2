"""What a search costs without a service: decode, encode and search in the process that asks, one photo after another.

    python -m jobs.benchmarks.serve_limits WORKSPACE      (a line {"what", "seconds"} on stdin each, a line of milliseconds out)

A process for each core is what the machine can do at most with one photo at a time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Literal

import numpy as np

from fashion_dml.index.live import LiveShard
from fashion_dml.index.manifest import index_root
from fashion_dml.index.merge import merge
from fashion_dml.index.shard import Shard
from fashion_dml.storage import Location

What = Literal["photos", "vectors"]
AT, BATCH = 10, 32


def main() -> None:
    """Serve commands until stdin ends."""
    from fashion_dml.inference.encode import Encoder  # torch: not where this module is imported for its processes alone
    from jobs.benchmarks.index_versions import embeddings
    from jobs.benchmarks.serve_workspace import SHARDS, VERSION

    workspace = Location.of(sys.argv[1])
    encoder = Encoder(workspace / "unified" / "model", threads=1)
    shards = [LiveShard(Shard.open(index_root(workspace), VERSION, n, threads=1), n, SHARDS) for n in range(SHARDS)]
    photos = [f.read_bytes() for f in (workspace / "photos").children()]
    queries = embeddings(BATCH, seed=1)

    def search(vectors: np.ndarray) -> object:
        parts = [shard.find(vectors, AT) for shard in shards]
        return [merge(of_query, AT) for of_query in zip(*parts, strict=True)]

    turn = 0

    def photo() -> object:
        nonlocal turn
        turn += 1
        return search(encoder.encode([photos[turn % len(photos)]]))

    calls: dict[str, Callable[[], object]] = {"photos": photo, "vectors": lambda: search(queries)}
    for call in calls.values():
        call()
    print(json.dumps([]), flush=True)
    for line in sys.stdin:
        asked = json.loads(line)
        call, found = calls[asked["what"]], []
        end = time.perf_counter() + asked["seconds"]
        while (began := time.perf_counter()) < end:
            call()
            found.append(1000 * (time.perf_counter() - began))
        print(json.dumps(found), flush=True)


class Limits:
    """Processes of `main`, one a core."""

    def __init__(self, processes: list[subprocess.Popen[str]]) -> None:
        self._processes = processes
        for process in processes:
            self._answer(process)  # ready

    @staticmethod
    def _pipe(pipe: IO[str] | None) -> IO[str]:
        assert pipe is not None
        return pipe

    def _answer(self, process: subprocess.Popen[str]) -> list[float]:
        line = self._pipe(process.stdout).readline()
        if not line:
            raise RuntimeError(f"a process of the in-process limit ended with {process.wait()}")
        return list(json.loads(line))

    def run(self, what: What, seconds: float, *, processes: int = 0) -> list[list[float]]:
        """Milliseconds of each call, of each of so many processes at once (0: all)."""
        chosen = self._processes[: processes or None]
        for process in chosen:
            pipe = self._pipe(process.stdin)
            pipe.write(json.dumps({"what": what, "seconds": seconds}) + "\n")
            pipe.flush()
        return [self._answer(process) for process in chosen]

    def per_second(self, what: What, seconds: float) -> float:
        """Calls a second of all processes together."""
        return sum(1000 * len(found) / sum(found) for found in self.run(what, seconds))


@contextmanager
def limits(workspace: str, processes: int) -> Iterator[Limits]:
    """Started and warm; ended with the block."""
    command = [sys.executable, "-m", "jobs.benchmarks.serve_limits", workspace]
    started = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(processes)]
    try:
        yield Limits(started)
    finally:
        for process in started:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
