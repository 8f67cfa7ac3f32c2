"""What every job shares: joining the cluster, one sentence for a user's mistake, the report at the end."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import ray
from rich.console import Console
from rich.table import Table

from fashion_dml import __version__
from fashion_dml.config import JobSettings, load_settings
from fashion_dml.data.ray_data import IDLE_READERS
from fashion_dml.storage import Location, UserError
from fashion_dml.training.stopping import Stopped
from jobs.cluster_check import check_nodes, knock, outlives_the_job, refused

STOPPED = 128 + signal.SIGTERM  # exit code of a job that was asked to stop

S = TypeVar("S", bound=JobSettings)
console = Console(width=None if sys.stdout.isatty() else 120, highlight=False)


def connect(workspace: str = "") -> None:
    """Join the cluster that RAY_ADDRESS (set by `ray job submit`) names, else start Ray on this machine alone.

    Raises UserError where a cluster's nodes have other code or can't reach the workspace.
    """
    if ray.is_initialized():
        return
    address = os.environ.get("RAY_ADDRESS")
    # The first failure of several tasks is what a job raises; Ray would print the tracebacks of the others behind it.
    os.environ.setdefault("RAY_IGNORE_UNHANDLED_ERRORS", "1")
    for name, value in IDLE_READERS.items():
        os.environ.setdefault(name, value)
    # Workers' lines would drown a job's own output; they are in Ray's logs, and an error brings its traceback. The
    # dashboard is wanted: Ray Train asks its state API.
    local: dict[str, Any] = {} if address else {"include_dashboard": True, "dashboard_port": 0}
    if address:
        if workspace:
            outlives_the_job(workspace, Path.cwd())
        knock(address)
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level=logging.WARNING, **local)
    except (ConnectionError, RuntimeError) as error:
        raise refused(address, error) from error
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _stop)  # in place of Ray's, which ends without a word
    if address and workspace:
        check_nodes(workspace)
    for name in ("ray.data", "ray.train"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.getLogger("ray.data._internal.progress").setLevel(logging.ERROR)  # says at every execution that bars are off


def _stop(*_: Any) -> None:
    """What SIGTERM does where no training is under way: a job's parts appear whole or not at all, so it may end anywhere."""
    raise Stopped("the job was asked to stop; its finished parts are kept")


def user_error(error: BaseException) -> UserError | None:
    """The UserError at the root of an exception that came through Ray, if there is one."""
    seen: set[int] = set()
    stack: list[BaseException | None] = [error]
    while stack:
        current = stack.pop()
        if current is None or id(current) in seen:
            continue
        seen.add(id(current))
        # Ray's wrapper is an instance of its cause's class too, but its text is a traceback.
        if isinstance(current, UserError) and not isinstance(current, ray.exceptions.RayTaskError):
            return UserError(str(current).split("\nFailed to apply UDF")[0])  # Ray Data adds advice of its own
        stack += [current.__cause__, current.__context__, getattr(current, "cause", None)]
        stack += list((getattr(current, "worker_failures", None) or {}).values())
    return None


def main(cls: type[S], run: Callable[[S], Any], *, prog: str, doc: str | None, argv: list[str] | None = None) -> int:
    """Parse the command line, run the job, and return its exit code: 0, 2 after one sentence on stderr, or STOPPED."""
    try:
        settings = load_settings(cls, sys.argv[1:] if argv is None else argv, prog=prog, doc=doc or "")
        run(settings)
    except Stopped as stopped:
        print(f"stopped: {stopped}. The same command goes on from there.", file=sys.stderr, flush=True)
        return STOPPED
    except Exception as error:  # every other failure keeps its traceback
        mistake = user_error(error)
        if mistake is None:
            raise
        print(f"error: {mistake}", file=sys.stderr, flush=True)
        return 2
    return 0


def write_report(workspace: str, name: str, settings: JobSettings | None, started: float, **content: Any) -> Location:
    """`reports/NAME.json`: settings, seconds, and the job's own numbers."""
    file = Location.of(workspace) / "reports" / f"{name}.json"
    config = settings.model_dump(mode="json") if settings is not None else None
    file.write_json(
        {"job": name, "code": __version__, "config": config, "seconds": round(time.monotonic() - started, 3), **content}
    )
    return file


def print_table(title: str, header: Iterable[str], rows: Iterable[Iterable[str]]) -> None:
    """A small table; the first column is text, the others are numbers."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for i, name in enumerate(header):
        table.add_column(name, justify="left" if i == 0 else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
