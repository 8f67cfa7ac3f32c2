"""Sends a running service what must do it no harm, and prints how it answered and how long the slowest took.

    python -m jobs.benchmarks.hostile http://127.0.0.1:8000

With FASHION_DML_TOKEN set, the service's, changes are tried too. Exit status 1 if an answer was wrong.
"""

from __future__ import annotations

import json
import os
import re
import statistics
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

from jobs.benchmarks.hostile_cases import Hostile
from jobs.benchmarks.hostile_http import cases
from jobs.benchmarks.raw_http import Reply, exchange

LEAKS = re.compile(r'Traceback|File "|site-packages|\.py\b|\bray\.|/(?:home|usr|tmp|var|root|opt|work|proc|etc)/|0x[0-9a-f]{8}')
LONGEST = 1000  # characters of a refusal


def wrong(case: Hostile, reply: Reply, sent: bytes = b"") -> str:
    """What is wrong with the answer; "" if nothing is. What was `sent` may be quoted."""
    text = reply.body.decode("utf-8", "replace")
    found = re.search(r'"code":"([a-z0-9_]+)"', text)
    got = (reply.status, found[1] if found else "")
    if got not in case.answers and (reply.status, "") not in case.answers:
        return f"answered {got}, not {' or '.join(map(str, case.answers))}: {text[:200]}"
    if reply.status < 400:
        return ""
    if (leak := LEAKS.search(text)) and leak[0].encode() not in sent:
        return f"the refusal holds {leak[0]!r}: {text[:200]}"
    if len(text) > LONGEST:
        return f"the refusal has {len(text):,} characters"
    if "x-evil" in reply.headers:
        return "a header of the request's making is in the reply"
    if not found or case.method == "HEAD":
        return ""
    error = json.loads(text)["error"]
    whole = set(error) <= {"code", "message", "limit", "request_id"} and error["message"].endswith(".")
    return "" if whole else f"the refusal has another shape: {text[:200]}"


def answer(url: str, case: Hostile) -> tuple[Reply, str]:
    parts = list(case.parts())  # made before the clock starts
    began = time.perf_counter()
    try:
        reply = exchange(url, parts, case.method)
    except TimeoutError as error:
        seconds = time.perf_counter() - began
        return Reply(0, {}, b"", seconds), f"no answer after {seconds:.0f} s: {error}"
    return reply, wrong(case, reply, parts[0])


def dimensions(url: str) -> int:
    """Of the vectors that the service takes. Raises ValueError where no service of ours answers."""
    try:
        with urllib.request.urlopen(f"{url}/v1/index", timeout=30) as reply:
            return int(json.load(reply)["dim"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{url} is no running search service ({type(error).__name__}: {error}); start one with python -m jobs.serve."
        ) from error


def main(url: str) -> int:
    try:
        every = cases(os.environ.get("FASHION_DML_TOKEN"), dimensions(url))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    waiting, prompt = [c for c in every if c.waits], [c for c in every if not c.waits]
    with ThreadPoolExecutor(len(waiting)) as pool:
        slow = [pool.submit(answer, url, case) for case in waiting]
        answered = [(case, *answer(url, case)) for case in prompt]
        late = [(case, *future.result()) for case, future in zip(waiting, slow, strict=True)]
    for case, _, problem in answered + late:
        if problem:
            print(f"{case.name}: {problem}")
    seconds = sorted(reply.seconds for _, reply, _ in answered)
    refused = sorted(((reply.seconds, case.name) for case, reply, _ in answered if reply.status >= 400), reverse=True)
    print(f"{len(every)} cases, {sum(bool(p) for _, _, p in answered + late)} answered wrongly")
    print(
        f"seconds: median {statistics.median(seconds):.3f}, 95 % {seconds[int(0.95 * len(seconds))]:.3f}, slowest {seconds[-1]:.3f}"
    )
    print(f"refused: {len(refused)}, of them {sum(s > 1 for s, _ in refused)} after more than a second; the slowest:")
    for spent, name in refused[:10]:
        print(f"  {spent:.3f}  {name}")
    return int(any(problem for _, _, problem in answered + late))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
