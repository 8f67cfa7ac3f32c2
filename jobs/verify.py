"""Check that a dataset keeps every contract of its layout: files, row groups, products, labels, images, and splits.

    python -m jobs.ingest verify --workspace workspace
    python -m jobs.ingest verify s3://bucket/run/dataset

Prints what is wrong, a sentence each with file and value, and ends with exit code 2; 0 if nothing is.
"""

from __future__ import annotations

import sys
import time
from typing import Annotated

from pydantic import Field

from fashion_dml.config import JobSettings
from fashion_dml.data.verify import Verified, verify
from fashion_dml.storage import Location, UserError
from jobs.common import console, main, write_report


class VerifySettings(JobSettings):
    """What this job reads."""

    source: str = Field("", description="dataset directory, also as the first argument; empty: <workspace>/dataset")
    sample: Annotated[int, Field(ge=0, le=256)] = Field(4, description="images of every file that are decoded")


def verify_dataset(settings: VerifySettings) -> Verified:
    """Check and tell; raises UserError if anything is wrong."""
    started = time.monotonic()
    dataset = Location.of(settings.source) if settings.source else Location.of(settings.workspace) / "dataset"
    with console.status(f"verifying {dataset}"):
        result = verify(dataset, seed=settings.seed, sample=settings.sample)
    for finding in result.findings:
        console.print(finding, markup=False, soft_wrap=True)
    if not settings.source and dataset.exists():
        write_report(settings.workspace, "verify", settings, started, **vars(result))
    if result.found:
        raise UserError(
            f"{dataset} breaks the contract of its layout in {result.found:,} places: restore it, or delete it and ingest it again."
        )
    console.print(
        f"{dataset} is in order: {result.files:,} files, {result.images:,} images, {result.decoded:,} of them decoded",
        markup=False, soft_wrap=True,
    )  # fmt: skip
    return result


def entry(argv: list[str]) -> int:
    """Exit code of the command line; the first argument may name the dataset."""
    args = ["--source", *argv] if argv and not argv[0].startswith("-") else argv
    return main(VerifySettings, verify_dataset, prog="python -m jobs.ingest verify", doc=__doc__, argv=args)


if __name__ == "__main__":
    sys.exit(entry(sys.argv[1:]))
