"""The search service under load for some minutes: does the memory of any of its processes grow?

    python -m jobs.benchmarks.soak --minutes 10

Starts the same service as `jobs.benchmarks.drills`. Each process's resident memory is read every second after a warm-up; prints its slope in MB a
minute (least squares), with what it began and ended with. Ends with 1 if one grows faster than 1 MB a minute.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time

import numpy as np
import psutil

from jobs.benchmarks.drills import DEADLINE_S, SLACK_S, running
from jobs.benchmarks.serve_load import Load, processes

TITLES = ("ray::Serve", "ray::ShardActor", "ray::ProxyActor", "ray::HAProxyManager", "haproxy")
MOST_MB_PER_MIN = 1.0
MB = 1 << 20


def slopes(samples: dict[str, list[tuple[float, int]]]) -> list[dict[str, float | str]]:
    """Of each process's (seconds, bytes): MB a minute by least squares, steepest first."""
    rows: list[dict[str, float | str]] = []
    for name, points in samples.items():
        seconds, used = np.array(points, np.float64).T
        slope = np.polyfit(seconds, used, 1)[0] * 60 / MB
        rows.append({"process": name, "mb_per_min": round(float(slope), 3), "first_mb": used[0] / MB, "last_mb": used[-1] / MB})
    return sorted(rows, key=lambda row: -float(row["mb_per_min"]))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0, help="of measurement")
    parser.add_argument("--warm-up", type=float, default=2.0, help="minutes of load before it")
    parser.add_argument("--proxy", choices=("haproxy", "python"), default="haproxy", help="what takes the requests in")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="fashion-dml-soak-") as root, running(root, args.proxy) as service:
        samples: dict[str, list[tuple[float, int]]] = {}
        with Load(service.url, service.photos, service.rows, timeout_s=DEADLINE_S + SLACK_S) as load:
            time.sleep(args.warm_up * 60)
            watched = [p for title in TITLES for p in processes(service.roots, title)]
            began = time.monotonic()
            while (now := time.monotonic() - began) < args.minutes * 60:
                for process in watched:
                    try:
                        name, used = f"{process.cmdline()[0]} {process.pid}", process.memory_info().rss
                    except psutil.NoSuchProcess:
                        continue
                    samples.setdefault(name, []).append((now, used))
                time.sleep(1)
        found = slopes({name: points for name, points in samples.items() if len(points) > 1})
        for row in found:
            print(json.dumps(row), flush=True)
        failed = sum(r.status != 200 for r in load.replies)
        print(json.dumps({"requests": len(load.replies), "failed": failed, "wrong": sum(bool(r.wrong) for r in load.replies)}))
        return int(failed > 0 or float(found[0]["mb_per_min"]) > MOST_MB_PER_MIN)


if __name__ == "__main__":
    sys.exit(main())
