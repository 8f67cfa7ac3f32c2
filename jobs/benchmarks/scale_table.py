"""What a run of specialists would take on GPUs: a markdown table, for your own numbers too.

    python -m jobs.benchmarks.scale_table
    python -m jobs.benchmarks.scale_table --gpus 8,64 --images 3000000 --costs.images_per_gpu_s 4100 --site.gpu_hour 2.1

What is assumed and what is measured: docs/scale.md.
"""

from __future__ import annotations

import sys

from pydantic import Field, model_validator

from fashion_dml.config import JobSettings, Positive
from fashion_dml.training.scaling import Costs, Prediction, Site, Work, predict
from jobs.common import main


class ScaleSettings(JobSettings):
    """What to predict."""

    gpus: tuple[Positive, ...] = Field((8, 64, 512), description="GPUs of the cluster, several to compare")
    images: tuple[Positive, ...] = Field(
        (10**6, 10**7, 10**8, 10**9), description="training images, several to compare; instead of work.images"
    )
    work: Work = Work()
    costs: Costs = Costs()
    site: Site = Site()

    @model_validator(mode="after")
    def _images(self) -> ScaleSettings:
        if "images" in self.work.model_fields_set:
            raise ValueError("the table takes its images from images; give --images in place of --work.images")
        return self


def predictions(settings: ScaleSettings) -> list[Prediction]:
    """For all images x GPUs."""
    return [
        predict(settings.work.model_copy(update={"images": images}), settings.costs, settings.site, gpus)
        for images in settings.images for gpus in settings.gpus
    ]  # fmt: skip


def markdown(table: list[Prediction]) -> str:
    """One line a prediction."""
    lines = [
        "| images | GPUs | team | hours | images/s | GPU time idle | decode nodes | idle without them | read GB/s | USD |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for p in table:
        lines.append(
            f"| {p.images:,} | {p.gpus} | {p.team} | {p.hours:.3g} | {p.images_s:,.0f} | {p.idle:.0%} | {p.decode_nodes} | "
            f"{p.idle_without_nodes:.0%} | {p.read_bytes_s / 1e9:.2g} | {p.cost:,.0f} |"
        )
    return "\n".join(lines)


def show(settings: ScaleSettings) -> None:
    """Print the table."""
    print(markdown(predictions(settings)))


if __name__ == "__main__":
    sys.exit(main(ScaleSettings, show, prog="python -m jobs.benchmarks.scale_table", doc=__doc__))
