"""The two-command demonstration: start Ray on this machine, submit the pipeline as a job, serve the result, stop Ray.

    make demo                       the generated catalogue
    make demo PHOTOS=photos.tar     your photos: a folder or tar with a CSV (README, "Your own photos")

It starts a Ray head of its own on free ports and stops that one only, whatever else runs on the machine.
"""

from __future__ import annotations

import argparse
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

from local import BIN, environment, start_head, stop

ROOT = Path(__file__).resolve().parent.parent
CONFIG = "jobs/configs/demo.yaml"


def absolute(uri: str) -> str:
    """A job runs in a directory of its own, so paths must not be relative."""
    return uri if not uri or "://" in uri else str(Path(uri).expanduser().resolve())


def submit(env: dict[str, str], dashboard: str, arguments: list[str]) -> int:
    """`ray job submit` in the foreground; its exit code."""
    command = [
        str(BIN / "ray"),
        "job",
        "submit",
        "--address",
        dashboard,
        "--working-dir",
        str(ROOT),
        "--log-style=record",
        "--",
        "python",
        *arguments,
    ]
    return subprocess.run(command, env=env, cwd=ROOT, check=False).returncode


def serve(env: dict[str, str], address: str, workspace: str, port: int) -> int:
    """The search page until Ctrl-C, which reaches the service too: it takes itself down."""
    command = [sys.executable, "-m", "jobs.serve", "--workspace", workspace, "--serve.port", str(port)]
    process = subprocess.Popen(command, env={**env, "RAY_ADDRESS": address}, cwd=ROOT)
    try:
        return process.wait()
    except (KeyboardInterrupt, SystemExit):
        process.terminate()
        return process.wait(60)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", default="workspace", help="directory or URI for all results (default: workspace)")
    parser.add_argument("--photos", default="", help="folder or tar of photos (default: the generated catalogue)")
    parser.add_argument("--config", default=CONFIG, help=f"settings of all stages (default: {CONFIG})")
    parser.add_argument(
        "--serve", choices=("0", "1"), default="1", help="1: serve the search page at the end; 0: end after the table"
    )
    parser.add_argument("--port", type=int, default=8000, help="port of the search page (default: 8000)")
    options, more = parser.parse_known_args()
    photos, workspace = absolute(options.photos), absolute(options.workspace)
    if photos and "://" not in photos and not Path(photos).exists():
        print(
            f"error: PHOTOS={options.photos} does not exist; give a folder or an uncompressed tar with a CSV and images.",
            file=sys.stderr,
        )
        return 2
    source = ["--kind", "folder", "--source", photos] if photos else ["--kind", "generated"]
    env = environment()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    log = Path(tempfile.mkdtemp(prefix="fashion-dml-")) / "ray.log"
    head, address, dashboard = start_head(env, log)
    try:
        code = submit(
            env, dashboard, ["-m", "jobs.pipeline", "--config", options.config, *source, "--workspace", workspace, *more]
        )
        if code == 0 and options.serve == "1":
            code = serve(env, address, workspace, options.port)
        return code
    except KeyboardInterrupt:
        return 130
    finally:
        stop(head)


if __name__ == "__main__":
    sys.exit(main())
