"""The service over HTTP against the same work without one, and against a plain FastAPI process: latency, photos, batches of vectors.

A process of its own starts Ray with four logical CPUs and the service with its default settings on this machine, so generator,
service, limits and peer share the same cores. All are measured in turns; ratios are medians of the turns'.
"""

from __future__ import annotations

import base64
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any

from jobs.benchmarks import Row
from jobs.benchmarks.index_versions import embeddings
from jobs.benchmarks.load import Ask, Seen, load
from jobs.benchmarks.ports import free_port
from jobs.benchmarks.serve_limits import AT, BATCH, Limits, limits
from jobs.benchmarks.serve_plain import plain
from jobs.benchmarks.serve_workspace import Made, make
from jobs.common import console

CPUS = 4  # logical: Serve's processes ask for fractions
TURNS = 3
ALONE_S, MANY_S = 3.0, 4.0  # seconds of a measurement with one request at a time, and with many
CONNECTIONS, BATCH_CONNECTIONS = 32, 4
BOUNDARY = "fashion-dml-benchmark"
READY_S = 120.0


def run(workspace: str) -> tuple[list[Row], dict[str, Any]]:
    """All rows of `serve`; nothing of `workspace` is read."""
    del workspace
    environment = {k: v for k, v in os.environ.items() if k != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-m", "jobs.benchmarks.serve"], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    found = json.loads(done.stdout.splitlines()[-1])
    rows = [Row(**row) for row in found["rows"]]
    console.print("serve: " + ", ".join(f"{r.name} {r.value:.3g} {r.unit}" for r in rows))
    return rows, found["details"]


def main() -> None:
    """The measuring process: JSON on the last line of stdout."""
    from fashion_dml.config import Serve
    from serve.tuning import set_environment

    port = free_port()
    settings = Serve(port=port, **json.loads(os.environ.get("FASHION_DML_BENCHMARK_SERVE", "{}")))
    set_environment(settings)
    import ray
    from ray import serve as ray_serve

    from jobs.benchmarks.serve_bare import start_bare
    from serve.app import start

    with tempfile.TemporaryDirectory() as home:
        made = make(Path(home))
        ray.init(address="local", num_cpus=CPUS, include_dashboard=False, log_to_driver=False, object_store_memory=256 << 20)
        try:
            start({"workspace": made.workspace, **settings.model_dump(mode="json")})
            start_bare()
            ready(port, "/readyz", "/bare/")
            check(port, made)
            peer = free_port()
            with limits(made.workspace, os.cpu_count() or 1) as processes, plain(made.workspace, peer):
                ready(peer, "/readyz")
                finds(peer, made, photo_ask)
                rows, details = measure(port, peer, made, processes)
        finally:
            ray_serve.shutdown()
            ray.shutdown()
    print(
        json.dumps({"rows": [asdict(row) for row in rows], "details": details | {"settings": settings.model_dump(mode="json")}})
    )


def measure(port: int, peer: int, made: Made, processes: Limits) -> tuple[list[Row], dict[str, Any]]:
    """Everything in turns. peer: port of the plain process."""
    photos, batches, bare = [photo_ask(data) for data in made.photos.values()], [batch_ask()], [Ask("GET", "/bare/")]
    can_batch = answers(port, batches[0])
    found: dict[str, list[Any]] = {}

    def note(name: str, value: Any) -> None:
        found.setdefault(name, []).append(value)

    def service(name: str, asks: list[Ask], connections: int, seconds: float, at: int = port) -> None:
        seen = load(at, asks, connections=connections, seconds=seconds)
        if seen.refused:
            raise RuntimeError(
                f"{seen.refused} of {len(seen.milliseconds)} requests were refused, the first: {seen.first_refusal}"
            )
        note(name, seen)

    steps: list[Callable[[], None]] = [
        lambda: note("alone", processes.run("photos", ALONE_S, processes=1)[0]),
        lambda: service("bare", bare, 1, ALONE_S),
        lambda: service("one", photos, 1, ALONE_S),
        lambda: service("plain_one", photos, 1, ALONE_S, peer),
        lambda: note("photos", processes.per_second("photos", MANY_S)),
        lambda: service("many", photos, CONNECTIONS, MANY_S),
        lambda: service("plain_many", photos, CONNECTIONS, MANY_S, peer),
    ]
    if can_batch:
        steps += [
            lambda: note("vectors", BATCH * processes.per_second("vectors", MANY_S)),
            lambda: service("batch", batches, BATCH_CONNECTIONS, MANY_S),
        ]
    for at in (port, peer):
        service("warm", photos, CONNECTIONS, ALONE_S, at)
    for turn in range(TURNS):
        for step in steps[:: -1 if turn % 2 else 1]:  # the machine's own drift falls on all
            step()
    told: dict[str, Any] = {name: [_told(value) for value in values] for name, values in found.items() if name != "alone"}
    return rows_of(found), told | {"stages_ms": stages(port, photos)}


def stages(port: int, asks: list[Ask]) -> dict[str, float]:
    """Medians of what the replies say of their own time, one request at a time."""
    told = [reply["milliseconds"] for ask in asks if (reply := answers(port, ask))]
    return {name: statistics.median(one[name] for one in told) for name in told[0]}


def _told(value: Any) -> Any:
    return asdict(value) | {"milliseconds": len(value.milliseconds)} if isinstance(value, Seen) else value


def rows_of(found: dict[str, list[Any]]) -> list[Row]:
    """Medians over turns."""
    p50 = {
        name: [statistics.median(v if name == "alone" else v.milliseconds) for v in found[name]]
        for name in ("alone", "bare", "one", "plain_one")
    }
    floors = [alone + 2 * bare for alone, bare in zip(p50["alone"], p50["bare"], strict=True)]
    rates, plain_rates = ([seen.per_second for seen in found[name]] for name in ("many", "plain_many"))
    rows = [
        Row("p50_over_floor", _median_ratio(p50["one"], floors), "ratio", 1, "lower"),
        Row("throughput_over_inprocess", _median_ratio(rates, found["photos"]), "ratio", 0.7, "higher"),
        Row("p50_over_plain", _median_ratio(p50["one"], p50["plain_one"]), "ratio", 1, "lower"),
        Row("throughput_over_plain", _median_ratio(rates, plain_rates), "ratio", 1, "higher"),
    ]
    if "batch" in found:
        vectors = [BATCH * seen.per_second for seen in found["batch"]]
        rows += [
            Row("batch_throughput_over_index", _median_ratio(vectors, found["vectors"]), "ratio", 0.5, "higher"),
            Row("batch_vectors_per_s", statistics.median(vectors), "vectors/s", None, "higher"),
        ]
    every = [ms for seen in found["one"] for ms in seen.milliseconds]
    busy = [ms for seen in found["many"] for ms in seen.milliseconds]
    return [
        *rows,
        Row("p50_ms", statistics.median(p50["one"]), "ms", None, "lower"),
        Row("p99_ms", statistics.quantiles(every, n=100)[98], "ms", None, "lower"),
        Row("bare_hop_p50_ms", statistics.median(p50["bare"]), "ms", None, "lower"),
        Row("inprocess_p50_ms", statistics.median(p50["alone"]), "ms", None, "lower"),
        Row("plain_p50_ms", statistics.median(p50["plain_one"]), "ms", None, "lower"),
        Row("requests_per_s", statistics.median(rates), "requests/s", None, "higher"),
        Row("plain_requests_per_s", statistics.median(plain_rates), "requests/s", None, "higher"),
        Row("saturated_p99_ms", statistics.quantiles(busy, n=100)[98], "ms", None, "lower"),
        Row("inprocess_photos_per_s", statistics.median(found["photos"]), "photos/s", None, "higher"),
        Row("generator_cpu_share", statistics.median(s.cpu_seconds / s.seconds / (os.cpu_count() or 1) for s in found["many"]), "of all cores", None, "lower"),
    ]  # fmt: skip


def _median_ratio(ours: list[float], limit: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(ours, limit, strict=True))


def photo_ask(data: bytes) -> Ask:
    """A search by one photo, as curl -F image=@photo.jpg sends it."""
    head = f'--{BOUNDARY}\r\nContent-Disposition: form-data; name="image"; filename="photo.jpg"\r\nContent-Type: image/jpeg\r\n\r\n'
    body = head.encode() + data + f"\r\n--{BOUNDARY}--\r\n".encode()
    return Ask("POST", f"/v1/search?k={AT}", f"multipart/form-data; boundary={BOUNDARY}", body)


def batch_ask() -> Ask:
    """A batch of searches by vector, packed as numbers of 4 bytes: as text they would cost more than the search."""
    packed = base64.b64encode(embeddings(BATCH, seed=1).astype("<f4").tobytes()).decode()
    return Ask("POST", "/v1/search:batch", "application/json", json.dumps({"vectors_base64": packed, "k": AT}).encode())


def answers(port: int, ask: Ask) -> dict[str, Any] | None:
    """The JSON of a 200, None of any other status."""
    headers = {"Content-Type": ask.content_type} if ask.content_type else {}
    request = urllib.request.Request(f"http://127.0.0.1:{port}{ask.path}", ask.body or None, headers, method=ask.method)
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return dict(json.load(answer))
    except urllib.error.HTTPError:
        return None


def ready(port: int, *paths: str) -> None:
    """Wait until each of the paths answers. Raises RuntimeError."""
    end = time.monotonic() + READY_S
    while True:
        with suppress(urllib.error.URLError):  # nobody listens yet
            if all(answers(port, Ask("GET", path)) for path in paths):
                return
        if time.monotonic() > end:
            raise RuntimeError(f"the service on port {port} wasn't ready after {READY_S:g} s")
        time.sleep(0.2)


def check(port: int, made: Made) -> None:
    """Each photo must find its own item first, in both bodies that carry photos. Raises RuntimeError."""
    finds(port, made, photo_ask)
    finds(port, made, as_json)


def finds(port: int, made: Made, ask: Callable[[bytes], Ask]) -> None:
    """Each photo must find its own item first, asked for so. Raises RuntimeError."""
    for item_id, data in made.photos.items():
        reply = answers(port, ask(data))
        best = reply["results"][0] if reply else None
        if best is None or best["item_id"] != item_id or best["score"] < 0.9999:
            raise RuntimeError(f"the photo of {item_id} found {best}")


def as_json(data: bytes) -> Ask:
    """The same search by a photo within JSON."""
    body = json.dumps({"image_base64": base64.b64encode(data).decode(), "k": 1}).encode()
    return Ask("POST", "/v1/search", "application/json", body)


if __name__ == "__main__":
    main()
