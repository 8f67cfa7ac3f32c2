"""Before a job starts on several nodes: does each run this version of the code, and can it reach the workspace?

A task on every node answers; what it would otherwise break later, and less clearly, is said in one sentence.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fashion_dml import __version__
from fashion_dml.data.placement import living
from fashion_dml.storage import Location, UserError

PACKAGES = ("fashion_dml", "jobs", "serve")
SECONDS = 120  # for a node's answer, which may have to start a process first


def code_digest() -> str:
    """Digest of this project's Python files, as this process would import them."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def check_nodes(workspace: str) -> None:
    """Raise UserError where a node that does work has other code than this process, or can't reach the workspace."""
    workers = [n for n in living() if n["Resources"].get("CPU", 0) or n["Resources"].get("GPU", 0)]
    if len(living()) < 2:
        return
    ask = ray.remote(num_cpus=0, max_retries=0)(_question())
    directory = Location.of(workspace)
    mark = directory / f".reach-{uuid.uuid4().hex}"
    mark.write_bytes(b"")
    try:
        asked = [
            (
                node["NodeManagerAddress"],
                ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(str(mark)),
            )
            for node in workers
        ]
        for address, answer in asked:
            try:
                found = ray.get(answer, timeout=SECONDS)
            except (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError):
                continue  # it left meanwhile, as spot nodes do
            if why := problem(address, found, directory):
                raise UserError(why)
    finally:
        mark.delete()


def problem(address: str, found: dict[str, Any], workspace: Location) -> str:
    """What is wrong with the node at this address, by its answer; "" if nothing is."""
    mend = "start all nodes from one image, or submit the job with `--working-dir .`"
    if "missing" in found:
        return f"The node {address} can't import this project ({found['missing']}): {mend}."
    if found["version"] != __version__:
        return f"The node {address} has fashion-dml {found['version']}, this job {__version__}: {mend}."
    if found["code"] != code_digest():
        return f"The node {address} has other code of fashion-dml {__version__} than this job: {mend}."
    if found["reach"] != "":
        kind = "is a path of this machine" if workspace.is_local else "can't be opened there"
        return (
            f"The node {address} can't reach the workspace {workspace}, which {kind} ({found['reach']}): use an object store "
            f"(s3://, gs://) that all nodes may read and write, or a file system that all of them mount there."
        )
    return ""


def _question() -> Callable[[str], dict[str, Any]]:
    """`look` for nodes that may not have this module: a nested function travels whole."""

    def ask(mark: str) -> dict[str, Any]:
        try:
            from jobs.cluster_check import look
        except ImportError as error:
            return {"missing": str(error)}
        return look(mark)

    return ask


def look(mark: str) -> dict[str, Any]:
    """What a node has: version and digest of the code, and "" or why the file `mark` can't be reached."""
    try:
        there = Location.of(mark).is_file()
    except (UserError, OSError) as error:
        return {"version": __version__, "code": code_digest(), "reach": " ".join(str(error).split())[:200]}
    return {"version": __version__, "code": code_digest(), "reach": "" if there else "there is no such place"}
