"""Train one specialist per vertical (or group of verticals), all in parallel, and the joint model beside them.

    python -m jobs.train_specialists --config jobs/configs/demo.yaml --workspace workspace
    ray job submit --working-dir . -- python -m jobs.train_specialists --workspace s3://bucket/run --cluster.workers 8 --cluster.gpus_per_worker 1

Reads `<workspace>/dataset`; writes `<workspace>/specialists/NAME/model` and, while training, `last`, `best` and
TensorBoard `logs` beside it. Finished specialists are kept, interrupted ones go on from their last checkpoint.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from fashion_dml.data.schema import Dataset
from fashion_dml.storage import Location, UserError
from fashion_dml.training.assignments import COARSE, TrainSettings, assignments, groups_of, joint_names, with_groups
from fashion_dml.training.recipe import finished
from jobs.common import connect, console, main, print_table, write_report
from jobs.progress import watch


def train_specialists(settings: TrainSettings) -> dict[str, Any]:
    """Train what isn't finished; returns name -> manifest of the published model. Raises UserError if any failed."""
    from fashion_dml.training.specialists import run  # torch: not for --help or settings that can't be

    started = time.monotonic()
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(workspace / "dataset")
    todo = assignments(dataset, settings, joint=settings.specialists.joint)
    connect(settings.workspace)
    failures = run(settings, watch)
    models = {a.name: finished(workspace / "specialists" / a.name, a.recipe.key) for a in todo}
    done = {name: manifest for name, manifest in models.items() if manifest is not None}
    rows = []
    for a in todo:
        m = done.get(a.name)
        rows.append((a.name, str(a.recipe.steps), *((f"{m['images']:,}", f"{m['seconds']:.0f}", f"{m['images'] / max(m['seconds'], 1e-9):.0f}",
                     f"{m['waited']['total_s']:.1f}", f"{100 * m['best']:.1f}" if m["best"] >= 0 else "") if m else ("failed", "", "", "", ""))))  # fmt: skip
    print_table("Specialists", ("name", "steps", "images", "seconds", "images/s", "waited s", "validation R@1 %"), rows)
    write_report(
        settings.workspace, "train_specialists", settings, started, failures=failures, groups=groups_of(dataset, with_groups(dataset, settings).specialists),
        models={n: {k: m[k] for k in ("steps", "images", "seconds", "waited", "best", "best_step", "sha256")} for n, m in done.items()},
    )  # fmt: skip
    missing = [a.name for a in todo if a.name not in done]
    if missing:
        raise UserError(
            f"{len(missing)} of {len(todo)} trainings failed: "
            + "; ".join(f"{n}: {failures.get(n, 'not finished')}" for n in missing)
        )
    console.print(
        f"{len([n for n in done if n not in (COARSE, *joint_names(settings.specialists))])} specialists in {workspace / 'specialists'}"
    )
    return done


if __name__ == "__main__":
    sys.exit(main(TrainSettings, train_specialists, prog="python -m jobs.train_specialists", doc=__doc__))
