"""Progress of trainings on the console: bars on a terminal, a line now and then in a log."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any

import ray
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jobs.common import console

LINE_SECONDS = 20.0


def watch(queue: Any, stop: threading.Event) -> None:
    """Show what the workers report to the queue until told to stop."""
    if sys.stdout.isatty():
        _bars(queue, stop)
    else:
        _lines(queue, stop)


def _bars(queue: Any, stop: threading.Event) -> None:
    columns = (
        TextColumn("{task.description:>16}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=console) as progress:
        tasks: dict[str, Any] = {}
        while True:
            ended = stop.wait(0.5)
            for name, p in ray.get(queue.state.remote())[0].items():
                if name not in tasks:
                    tasks[name] = progress.add_task(name, total=p["steps"], note="")
                note = f"R@1 {100 * p['best']:.1f}" if p["best"] >= 0 else f"loss {p.get('loss', 0):.3f}"
                progress.update(tasks[name], completed=p["step"], note=note)
            if ended:
                return


def _lines(queue: Any, stop: threading.Event) -> None:
    shown: dict[str, float] = {}
    told: set[str] = set()
    while True:
        ended = stop.wait(1.0)
        for name, p in ray.get(queue.state.remote())[0].items():
            if name in told or (not p.get("done") and time.monotonic() - shown.get(name, 0) < LINE_SECONDS):
                continue
            shown[name] = time.monotonic()
            if p.get("done"):
                told.add(name)
            best = f", validation R@1 {100 * p['best']:.1f} %" if p["best"] >= 0 else ""
            done = f" in {p['seconds']:.0f} s" if p.get("done") else ""
            console.print(f"{name}: step {p['step']} of {p['steps']}{done}{best}")
        if ended:
            return
