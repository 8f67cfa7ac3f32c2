"""Which specialist teaches which vertical, and where its embeddings are: `teachers/manifest.json`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fashion_dml.storage import Location, UserError, manifest_sha256, read_manifest, require_manifest, write_manifest


@dataclass(frozen=True)
class Teacher:
    """The specialist of a vertical. `embeddings` holds its embeddings of the vertical's training images.

    mirror: each is the mean of the image's and its mirror image's.
    """

    vertical: str
    specialist: str
    model: str
    sha256: str
    embeddings: str
    dim: int
    mirror: bool = False


def write_teachers(workspace: Location, teachers: list[Teacher], config: Any, seconds: float) -> None:
    """Make the teachers' embeddings complete."""
    write_manifest(
        workspace / "teachers", kind="teachers", config=config, seconds=seconds,
        inputs={"dataset": manifest_sha256(workspace / "dataset"), **{t.specialist: t.sha256 for t in teachers}},
        teachers=[vars(t) for t in teachers],
    )  # fmt: skip


def read_teachers(workspace: Location, verticals: list[str]) -> dict[str, Teacher]:
    """Vertical -> teacher. Raises UserError if there are none for the dataset as it is now."""
    manifest = require_manifest(workspace / "teachers", made_by="python -m jobs.embed")
    if manifest["inputs"]["dataset"] != manifest_sha256(workspace / "dataset"):
        raise UserError(
            f"{workspace / 'teachers'} was made from another dataset than {workspace / 'dataset'}: run `python -m jobs.embed` again."
        )
    teachers = {t["vertical"]: Teacher(**t) for t in manifest["teachers"]}
    missing = [v for v in verticals if v not in teachers]
    if missing:
        raise UserError(
            f"The vertical {missing[0]!r} has no teacher in {workspace / 'teachers'}: run `python -m jobs.embed` again."
        )
    return teachers


def check_fresh(teachers: dict[str, Teacher]) -> None:
    """Raise UserError where a specialist was trained again after its embeddings were made."""
    for vertical, teacher in teachers.items():
        manifest = read_manifest(Location.of(teacher.model))
        if manifest is not None and manifest["sha256"] != teacher.sha256:
            raise UserError(
                f"The specialist {teacher.specialist!r} was trained again after it embedded {vertical!r}: run `python -m jobs.embed` again."
            )
