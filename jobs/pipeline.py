"""The whole loop: ingest, groups of verticals (if asked for), specialists and joint model, teachers, unified model, evaluation, index.

    python -m jobs.pipeline --config jobs/configs/demo.yaml --kind folder --source photos.tar --workspace workspace
    ray job submit --working-dir . -- python -m jobs.pipeline --config jobs/configs/demo.yaml --workspace s3://bucket/run

A stage that is complete and unchanged is skipped, an interrupted one goes on. `--from STAGE` starts later; `--force`
throws away what the stages from there on have made and makes it again. `--dry-run` says what is there, what is to do, and about how
long it takes here, and does nothing.
"""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Callable
from typing import Any

from pydantic import Field

from fashion_dml.config import JobSettings, Settings, validate
from fashion_dml.storage import Location, UserError
from fashion_dml.training.assignments import TrainSettings
from fashion_dml.training.grouping import GroupSettings
from fashion_dml.training.student import DistillSettings
from jobs.build_index import BuildIndexSettings
from jobs.build_index import build as build_index
from jobs.common import console, main, write_report
from jobs.distill import distill
from jobs.dry_run import dry_run
from jobs.embed import EmbedSettings, embed
from jobs.evaluate import EvaluateSettings, measure_models
from jobs.group_verticals import group_verticals
from jobs.ingest import IngestSettings, ingest
from jobs.train_specialists import train_specialists


def groups_if_asked_for(settings: GroupSettings) -> None:
    """The search for groups, where the specialists are to use what it finds."""
    if settings.specialists.grouping == "searched":
        group_verticals(settings)
    else:
        console.print("specialists.grouping = given: nothing to search for")


# Stage -> (its job, its settings, what it makes: removed by --force).
STAGES: dict[str, tuple[Callable[[Any], Any], type[JobSettings], tuple[str, ...]]] = {
    "ingest": (ingest, IngestSettings, ("dataset",)),
    "group_verticals": (groups_if_asked_for, GroupSettings, ("groups",)),
    "train_specialists": (train_specialists, TrainSettings, ("specialists",)),
    "embed": (embed, EmbedSettings, ("teachers", "embeddings")),
    "distill": (distill, DistillSettings, ("unified",)),
    "evaluate": (measure_models, EvaluateSettings, ("reports/evaluation.json", "reports/evaluation.html")),
    "build_index": (build_index, BuildIndexSettings, ()),
}


class PipelineSettings(Settings):
    """All sections, and where the photos come from."""

    kind: str = Field("generated", description="folder or generated: the source of the photos")
    source: str = Field("", description="folder or tar with a CSV and images (kind folder)")
    start: str = Field("", description=f"first stage to run, one of {', '.join(STAGES)}; also --from")
    force: bool = Field(False, description="make again what the stages have made")
    dry_run: bool = Field(False, description="say what would be done, with sizes and an estimate of time; also --dry-run")


def pipeline(settings: PipelineSettings) -> dict[str, Any]:
    """Run the stages; returns the seconds of each."""
    if settings.start and settings.start not in STAGES:
        raise UserError(f"There is no stage {settings.start!r}; known are {', '.join(STAGES)}.")
    names = list(STAGES)
    names = names[names.index(settings.start or names[0]) :]
    workspace = Location.of(settings.workspace)
    values = settings.model_dump(mode="json")
    every = {name: validate(STAGES[name][1], {**values, "dataset": "", "activate": True}) for name in STAGES}
    if settings.dry_run:
        dry_run(workspace, every)
        return {}
    stages = {name: every[name] for name in names}
    if settings.force:
        for name in names:
            for made in STAGES[name][2]:
                (workspace / made).delete()
    started = time.monotonic()
    # Before tasks of the ingestion bring the job's directory to other nodes: where these share a machine (cluster/local.py) Ray unpacks it
    # anew in the same place, and torch, which asks for the directory when it is imported, ends the process if that is gone.
    importlib.import_module("timm")
    seconds: dict[str, float] = {}
    for number, (name, stage) in enumerate(stages.items(), 1):
        console.rule(f"[bold]{number}/{len(stages)} {name}", align="left")
        began = time.monotonic()
        STAGES[name][0](stage)
        seconds[name] = round(time.monotonic() - began, 1)
        console.print(f"[dim]{name}: {seconds[name]:.1f} s[/dim]")
    write_report(settings.workspace, "pipeline", settings, started, stages=seconds)
    console.print(f"all stages complete in {time.monotonic() - started:.0f} s: {workspace}")
    return seconds


def entry(argv: list[str] | None = None) -> int:
    """Exit code of the command line; `--from` is short for `--start`, `--force` and `--dry-run` alone mean yes."""
    short = {"--from": "--start", "--dry-run": "--dry_run"}
    args = [short.get(a, a) for a in (sys.argv[1:] if argv is None else argv)]
    for switch in ("--force", "--dry_run"):
        if switch in args and (args[-1] == switch or args[args.index(switch) + 1].startswith("--")):
            args.insert(args.index(switch) + 1, "true")
    return main(PipelineSettings, pipeline, prog="python -m jobs.pipeline", doc=__doc__, argv=args)


if __name__ == "__main__":
    sys.exit(entry())
