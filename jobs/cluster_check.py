"""Before a job starts on a cluster: does it let this job in, does each node run this version of the code, can it reach the workspace?

    ray job submit --working-dir . -- python -m jobs.cluster_check --workspace s3://bucket/run

Every job looks by itself; this looks and does nothing else. A task on every node answers; what would otherwise break later, and less
clearly, is said in one sentence.
"""

from __future__ import annotations

import hashlib
import os
import socket
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from fashion_dml import __version__
from fashion_dml.config import JobSettings
from fashion_dml.data.placement import growth, living
from fashion_dml.storage import Location, UserError

PACKAGES = ("fashion_dml", "jobs", "serve")
KNOCK_SECONDS = 10.0
COPIES = "working_dir_files"  # of the directories that jobs are submitted with, in Ray's session
SECONDS = 120  # for a node's answer, which may have to start a process first
GONE = (ray.exceptions.NodeDiedError, ray.exceptions.TaskUnschedulableError, ray.exceptions.WorkerCrashedError)
COME_SECONDS = 900  # for the first node of an autoscaler to come and answer


def knock(address: str) -> None:
    """Raise UserError where nothing listens at HOST:PORT, as Ray would try again for minutes, or at the dashboard's address."""
    if address.startswith(("http://", "https://")):
        raise UserError(
            f"RAY_ADDRESS is {address}, where jobs are submitted: run this by `ray job submit --working-dir . -- python -m jobs.NAME`, "
            "or set RAY_ADDRESS to the head's HOST:6379, or unset it."
        )
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and port.isdigit()):
        return
    try:
        socket.create_connection((host, int(port)), KNOCK_SECONDS).close()
    except OSError as error:
        raise UserError(
            f"No cluster answers at {address} ({error.strerror or error}): start one there, or unset RAY_ADDRESS to use this machine alone."
        ) from error


def refused(address: str | None, error: Exception) -> Exception:
    """A sentence for what keeps this process out of a cluster; the error itself where that isn't known."""
    said = " ".join(str(error).split())
    if said.startswith("Version mismatch"):
        return UserError(f"{said.rstrip('.')}: start this job and all nodes from one image.")
    if isinstance(error, ConnectionError):  # something listens there: `knock` has looked
        return UserError(
            f"The cluster at {address} refuses this job's token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN or "
            "RAY_AUTH_TOKEN_PATH to the token that the cluster was started with."
        )
    return error


def outlives_the_job(workspace: str, here: Path) -> None:
    """Raise UserError where the workspace lies in the copy of the working directory that Ray made for a submitted job; here: its directory."""
    if COPIES in here.parts and "://" not in workspace and (place := Path(workspace).absolute()).is_relative_to(here):
        raise UserError(
            f"The workspace {place} is in the copy of the working directory that Ray made for this job and will delete: give "
            "`--workspace` an absolute path, or an object store (s3://, gs://)."
        )


def code_digest() -> str:
    """Digest of this project's Python files, as this process would import them."""
    digest = hashlib.sha256()
    root = Path(__file__).resolve().parent.parent
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            digest.update(str(file.relative_to(root)).encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()[:16]


def check_nodes(workspace: str) -> None:
    """Raise UserError where a node that does work has other code than this process, or can't reach the workspace.

    Where an autoscaler has started none yet and the workspace is a path, one that comes is asked: it may be a path of this machine
    alone, and what nodes write there would be lost.
    """
    nodes, directory = living(), Location.of(workspace)
    workers = [n for n in nodes if n["Resources"].get("CPU", 0) or n["Resources"].get("GPU", 0)]
    to_come = not workers and directory.is_local and bool(growth())
    if len(nodes) < 2 and not to_come:
        return
    ask = ray.remote(max_retries=0)(_question())
    mark = directory / f".reach-{uuid.uuid4().hex}"
    mark.write_bytes(b"")
    try:
        asked = [
            ask.options(num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
                str(mark)
            )
            for node in workers
        ] or [ask.options(num_cpus=0.1).remote(str(mark))]
        for answer in asked:
            try:
                found = ray.get(answer, timeout=COME_SECONDS if to_come else SECONDS)
            except GONE:
                continue  # it left meanwhile, as spot nodes do
            except ray.exceptions.GetTimeoutError as error:
                raise UserError(
                    f"No node has said within {COME_SECONDS if to_come else SECONDS} s whether it reaches the workspace {workspace}: look at "
                    "`ray status`, whether nodes come and their processes start."
                ) from error
            if why := problem(found, directory):
                raise UserError(why)
    finally:
        mark.delete()


def problem(found: dict[str, Any], workspace: Location) -> str:
    """What is wrong with a node, by its answer; "" if nothing is."""
    address = found["node"]
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
            import ray

            return {"node": ray.util.get_node_ip_address(), "missing": str(error)}
        return look(mark)

    return ask


def look(mark: str) -> dict[str, Any]:
    """What a node is and has: its address, version and digest of the code, and "" or why the file `mark` can't be reached."""
    try:
        reach = "" if Location.of(mark).is_file() else "there is no such place"
    except (UserError, OSError) as error:
        reach = " ".join(str(error).split())[:200]
    return {"node": ray.util.get_node_ip_address(), "version": __version__, "code": code_digest(), "reach": reach}


def _check(settings: JobSettings) -> None:
    """Join the cluster, ask its nodes, and tell."""
    from jobs.common import connect, console  # which imports this file

    connect(settings.workspace)
    nodes = living()
    if not os.environ.get("RAY_ADDRESS"):
        console.print("No cluster is named by RAY_ADDRESS: jobs started like this run on this machine alone.")
    elif len(nodes) < 2:
        console.print("One node, this one: there is nothing to compare.")
    else:
        console.print(f"{len(nodes)} nodes: same code, and those that work reach {settings.workspace}")
    for node in nodes:
        held = ", ".join(f"{amount:g} {kind}" for kind, amount in sorted(node["Resources"].items()) if kind in ("CPU", "GPU"))
        console.print(f"  {node['NodeManagerAddress']}: {held or 'no work'}", markup=False)


if __name__ == "__main__":
    from jobs.common import main

    sys.exit(main(JobSettings, _check, prog="python -m jobs.cluster_check", doc=__doc__))
