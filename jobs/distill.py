"""Train the unified model: one student that takes every specialist's embeddings as its target.

    python -m jobs.distill --config jobs/configs/demo.yaml --workspace workspace

Reads `<workspace>/dataset` and `<workspace>/teachers`; writes `<workspace>/unified/model` and, while training, `last`,
`best` and TensorBoard `logs` beside it. With `--finetune.steps` these are in `unified/distilled` and `unified/finetuned`, and the
better of the two on validation products becomes `unified/model`. An interrupted run goes on from its last checkpoint.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from fashion_dml.storage import Location
from fashion_dml.training.student import DistillSettings
from jobs.common import connect, console, main, write_report
from jobs.progress import watch


def distill(settings: DistillSettings) -> dict[str, Any]:
    """Train the unified model unless it is finished; returns its manifest."""
    from fashion_dml.training.distill import run  # torch: not for --help or settings that can't be

    started = time.monotonic()
    connect(settings.workspace)
    model = run(settings, watch)
    shown = {k: model[k] for k in ("steps", "images", "seconds", "waited", "best", "best_step", "sha256")}
    write_report(settings.workspace, "distill", settings, started, model=shown)
    console.print(
        f"unified model in {Location.of(settings.workspace) / 'unified' / 'model'}: {model['steps']} steps, "
        f"{model['images'] / max(model['seconds'], 1e-9):.0f} images/s"
        + (f", validation R@1 {100 * model['best']:.1f} %" if model["best"] >= 0 else "")
    )
    if "candidates" in model:
        told = ", ".join(f"{name} {100 * recall:.1f} %" for name, recall in model["candidates"].items())
        console.print(f"chosen on validation products: {model['chosen']} ({told})")
    return model


if __name__ == "__main__":
    sys.exit(main(DistillSettings, distill, prog="python -m jobs.distill", doc=__doc__))
