"""Train what specialists and a student are compared with: joint models by known recipes, at equal trunk, images and steps.

    python -m jobs.baselines --config jobs/configs/hm_styles.yaml --workspace workspace
    python -m jobs.baselines --workspace workspace --baselines.recipes joint-triplet --baselines.images 100000

Recipes: joint-triplet (ours, semi-hard), pml-triplet and pml-multi-similarity (losses and miners of pytorch-metric-learning,
which must be installed). Reads `<workspace>/dataset`; writes `<workspace>/baselines/NAME/model`, which `jobs.evaluate` measures
with the models of the workspace.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from fashion_dml.data.schema import Dataset
from fashion_dml.storage import Location, UserError
from fashion_dml.training.baselines import BaselineSettings, baselines
from fashion_dml.training.recipe import finished
from jobs.common import connect, console, main, write_report
from jobs.progress import watch


def train_baselines(settings: BaselineSettings) -> dict[str, Any]:
    """Train what isn't finished; returns name -> manifest. Raises UserError if any failed."""
    from fashion_dml.training.specialists import train_all  # torch: not for --help or settings that can't be

    started = time.monotonic()
    workspace = Location.of(settings.workspace)
    dataset, home = Dataset.open(workspace / "dataset"), workspace / "baselines"
    todo = baselines(dataset, settings)
    connect(settings.workspace)
    failures = train_all(todo, settings, dataset, home, watch)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(todo)} trainings failed: " + "; ".join(f"{n}: {f}" for n, f in failures.items())
        )
    done = {a.name: finished(home / a.name, a.recipe.key) or {} for a in todo}
    shown = {n: {k: m[k] for k in ("steps", "images", "seconds", "best", "sha256")} for n, m in done.items()}
    write_report(settings.workspace, "baselines", settings, started, models=shown)
    for name, m in done.items():
        console.print(
            f"{name}: {m['steps']} steps, {m['images']:,} images"
            + (f", validation R@1 {100 * m['best']:.1f} %" if m["best"] >= 0 else "")
        )
    return done


if __name__ == "__main__":
    sys.exit(main(BaselineSettings, train_baselines, prog="python -m jobs.baselines", doc=__doc__))
