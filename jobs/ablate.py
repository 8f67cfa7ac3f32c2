"""Does a method help on your photos? Its ladder: baseline, each step, and the control that could refute it.

    python -m jobs.ablate --method granularity --workspace workspace --ablate.steps 300 --ablate.seeds 2
    ray job submit --working-dir . -- python -m jobs.ablate --method cascade --workspace s3://bucket/run --cluster.workers 8

Methods: triplet, granularity, multi_objective, cascade, focus_ranking. All steps of a ladder have the same trunk, batch, number of
images and seeds, and are trained in one Ray Train run of teams, each on all verticals together. Measured on the images of
`evaluate.split`, merged index; choose with `--evaluate.split validation`, and look at test once. Writes
`reports/ablate-METHOD.json`, `.html` and `.md`; trainings are under `ablations/METHOD` and are not made again.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from pydantic import Field

from fashion_dml.config import Embed, Evaluate
from fashion_dml.data.schema import Dataset
from fashion_dml.evaluation import ladder
from fashion_dml.evaluation.protocol import Measured, evaluate
from fashion_dml.inference.embed import EmbedRequest, ensure_embeddings
from fashion_dml.storage import Location, UserError
from fashion_dml.training.ablation import AblateSettings, ladder_of, trials, verticals_of
from jobs.common import connect, console, main, print_table, write_report
from jobs.evaluate import measured_level, measured_splits, measured_verticals, vertical_items
from jobs.progress import watch


class AblateJobSettings(AblateSettings):
    """Sections that this job reads."""

    method: str = Field("triplet", description="triplet, granularity, multi_objective, cascade or focus_ranking")
    embed: Embed = Embed()
    evaluate: Evaluate = Evaluate()


def ablate(settings: AblateJobSettings) -> dict[str, Any]:
    """Train what isn't trained, measure, report; returns the content of the JSON."""
    from fashion_dml.evaluation import html
    from fashion_dml.training.specialists import train_all  # torch: not for --help or settings that can't be

    started = time.monotonic()
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(workspace / "dataset")
    rungs, home = ladder_of(settings.method), workspace / "ablations" / settings.method
    found = trials(dataset, settings.method, settings)
    trained = verticals_of(dataset, settings.ablate)
    verticals = [v for v in measured_verticals(dataset, settings.evaluate.split) if v in trained]
    connect(settings.workspace)
    failures = train_all(list(found.values()), settings, dataset, home, watch)
    if failures:
        raise UserError(
            f"{len(failures)} of {len(found)} trainings failed: " + "; ".join(f"{n}: {f}" for n, f in failures.items())
        )
    e = settings.evaluate
    splits = measured_splits(dataset, e.split)
    parts = [p for split in splits for p in dataset.parts(split, verticals)]
    models = {key: str(home / trial.name / "model") for key, trial in found.items()}
    embedded = ensure_embeddings(
        workspace, dataset, [EmbedRequest(m, parts) for m in models.values()], settings.embed, settings.cluster, settings.data
    )
    measured = {}
    for key, model in models.items():
        items = [vertical_items(dataset, v, embedded[model], splits) for v in verticals]
        result = evaluate(
            items, "merged", level=measured_level(dataset, e), recall_at=ladder.RECALL_AT, memory_bytes=e.memory_bytes
        )
        assert isinstance(result, Measured)
        measured[key] = result
    report = ladder.build(
        measured, [(c.says, c.better, c.worse, c.metric) for c in rungs.claims], resamples=e.bootstrap, seed=settings.seed
    ) | {
        "method": settings.method, "steps": settings.ablate.steps, "images": next(iter(found.values())).images, "verticals": verticals,
        "split": " in ".join(splits), "protocol": "merged", "dataset": str(dataset.location),
    }  # fmt: skip
    name = f"ablate-{settings.method}"
    reports = workspace / "reports"
    (reports / f"{name}.html").write_bytes(html.render_ladder(report, title=f"Ablation: {settings.method}").encode())
    (reports / f"{name}.md").write_bytes(ladder.markdown(report).encode())
    write_report(settings.workspace, name, settings, started, **report)
    _show(report, reports / f"{name}.html")
    return report


def _show(report: dict[str, Any], page: Location) -> None:
    metrics = [m for m in ladder.METRICS if m in report["rungs"][0]]
    rows = [(r["rung"], *(f"{100 * r[m]['value']:.1f}" for m in metrics)) for r in report["rungs"]]
    print_table(f"{report['method']}: {report['queries']:,} queries, {report['steps']} steps", ("step", *metrics), rows)
    for c in report["claims"]:
        points = f"{c['metric']} {100 * c['value']:+.1f} ({100 * c['low']:+.1f} to {100 * c['high']:+.1f})"
        console.print(f"[bold]{c['verdict']}[/bold]: {c['claim']}: {points}")
    console.print(f"{page}")


if __name__ == "__main__":
    sys.exit(main(AblateJobSettings, ablate, prog="python -m jobs.ablate", doc=__doc__))
