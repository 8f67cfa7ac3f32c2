"""Which models an evaluation measures, and what they are called in its report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from fashion_dml.config import Model
from fashion_dml.data.schema import Dataset
from fashion_dml.storage import Location, UserError, manifest_sha256, read_manifest
from fashion_dml.training.assignments import JOINT
from fashion_dml.training.teachers import read_teachers
from jobs.common import console


def named(models: Sequence[str]) -> dict[str, str]:
    """Name -> model: what was given, or of a directory the last two parts, and as many more as tell it from the others.

    Raises UserError where one model is given twice.
    """
    places: dict[str, str] = {}
    for model in models:
        text = model.rstrip("/")
        place = text if ":" in text.split("/")[0] else str(Location.of(text))
        if place in places:
            raise UserError(f"--models has {places[place]!r} and {model!r}, which are the same model; give it once.")
        places[place] = model
    shown = dict.fromkeys(models, 2)
    while True:
        names = {model: _name(model, parts) for model, parts in shown.items()}
        count = Counter(names.values())
        if max(count.values(), default=1) == 1:
            return {name: model for model, name in names.items()}
        shown = {model: parts + (count[names[model]] > 1) for model, parts in shown.items()}


def _name(model: str, shown: int) -> str:
    parts = model.rstrip("/").split("/")
    return model if ":" in parts[0] else "/".join(parts[-shown:])


def of_workspace(workspace: Location, pretrained: Model, dataset: Dataset, verticals: list[str]) -> dict[str, dict[str, str]]:
    """Name -> vertical -> model: the pretrained trunk, and of what is in the workspace all that was made from this dataset.

    A model of another dataset is left out, with a word on the console: after an ingestion with other splits it may have been trained
    on what are test products now. Raises UserError where nothing is left.
    """
    found: dict[str, dict[str, str]] = {}
    if pretrained.weights == "none":
        console.print("model.weights = none: there is no pretrained trunk to compare with")
    else:
        file = "" if pretrained.weights == "auto" else f"@{pretrained.weights}"
        found["pretrained"] = dict.fromkeys(verticals, f"timm:{pretrained.trunk}{file}")
    digest = manifest_sha256(dataset.location)
    if _is_of(digest, workspace / "teachers", "embed"):
        teachers = read_teachers(workspace, verticals)
        found["specialists"] = {v: teachers[v].model for v in verticals}
    directories = {d.name: (d / "model", "baselines") for d in (workspace / "baselines").children()} | {
        JOINT: (workspace / "specialists" / JOINT / "model", "train_specialists"),
        "unified": (workspace / "unified" / "model", "distill"),
    }
    for name, (directory, job) in directories.items():
        if _is_of(digest, directory, job):
            found[name] = dict.fromkeys(verticals, str(directory))
    if not found:
        raise UserError(f"There is no model in {workspace}: run `python -m jobs.train_specialists` first, or give --models.")
    return found


def _is_of(digest: str, directory: Location, job: str) -> bool:
    """Whether there is a complete result, made from the dataset with this digest; one that doesn't say from which counts."""
    manifest = read_manifest(directory)
    if manifest is None:
        return False
    if manifest["inputs"].get("dataset", digest) == digest:
        return True
    console.print(f"{directory} was made from another dataset and is left out: run `python -m jobs.{job}` again")
    return False
