"""Embed the training images with the specialists: the targets of distillation.

    python -m jobs.embed --config jobs/configs/demo.yaml --workspace workspace

Reads `<workspace>/dataset` and `<workspace>/specialists/NAME/model`; writes `<workspace>/embeddings/` (one file per
images file, kept by content, nothing is embedded twice) and `<workspace>/teachers/manifest.json`.
"""

from __future__ import annotations

import sys
import time

from fashion_dml.config import Embed
from fashion_dml.data.schema import Dataset
from fashion_dml.inference.embed import EmbedRequest, ensure_embeddings
from fashion_dml.storage import Location, UserError, manifest_sha256, read_manifest, require_manifest
from fashion_dml.training.assignments import TrainSettings, assignments
from fashion_dml.training.recipe import finished
from fashion_dml.training.teachers import Teacher, write_teachers
from jobs.common import connect, console, main, write_report


class EmbedSettings(TrainSettings):
    """Sections that this job reads; those of the specialists say which models are the teachers."""

    embed: Embed = Embed()


def embed(settings: EmbedSettings) -> list[Teacher]:
    """Embed each vertical's training images with its specialist; returns the teachers."""
    started = time.monotonic()
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(workspace / "dataset")
    requests, chosen = [], []
    for assignment in assignments(dataset, settings, joint=False):
        directory = workspace / "specialists" / assignment.name / "model"
        if finished(directory.parent, assignment.recipe.key) is None:
            raise UserError(
                f"The specialist {assignment.name!r} isn't trained with these settings: run `python -m jobs.train_specialists` first."
            )
        requests.append(EmbedRequest(str(directory), dataset.parts("train", list(assignment.verticals)), settings.embed.mirror))
        chosen += [(vertical, assignment.name, directory) for vertical in assignment.verticals]
    connect(settings.workspace)
    found = ensure_embeddings(workspace, dataset, requests, settings.embed, settings.cluster, settings.data)
    teachers = []
    for vertical, name, directory in sorted(chosen, key=lambda c: c[0]):
        manifest = require_manifest(directory, made_by="python -m jobs.train_specialists")
        teachers.append(
            Teacher(
                vertical,
                name,
                str(directory),
                manifest["sha256"],
                str(found[str(directory)]),
                manifest["dim"],
                settings.embed.mirror,
            )
        )
    known = read_manifest(workspace / "teachers")
    if (
        known is not None
        and known["teachers"] == [vars(t) for t in teachers]
        and known["inputs"]["dataset"] == manifest_sha256(dataset.location)
    ):
        console.print(f"{workspace / 'teachers'} is complete and unchanged")
        return teachers
    write_teachers(workspace, teachers, settings.embed.model_dump(mode="json"), time.monotonic() - started)
    write_report(settings.workspace, "embed", settings, started, teachers=[vars(t) for t in teachers])
    console.print(f"{len(teachers)} verticals have teacher embeddings")
    return teachers


if __name__ == "__main__":
    sys.exit(main(EmbedSettings, embed, prog="python -m jobs.embed", doc=__doc__))
