"""Which verticals should share a specialist? A greedy search, decided on validation products.

    python -m jobs.group_verticals --config jobs/configs/demo.yaml --workspace workspace
    python -m jobs.train_specialists --config jobs/configs/demo.yaml --workspace workspace --specialists.grouping searched

Trains each vertical alone, then merges as the search asks for them, with what the sweet-spot curves need beside: all in one Ray
Train run of teams. When nothing else is left, idle teams train what the search may ask for next. Reads `<workspace>/dataset`; writes `<workspace>/groups`
and `reports/group_verticals.json` and `.html`. A trial that is finished is not made again; an interrupted one goes on.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from fashion_dml.data.schema import Dataset
from fashion_dml.storage import Location, manifest_sha256, write_manifest
from fashion_dml.training.grouping import GroupSettings
from jobs.common import connect, console, main, print_table, write_report
from jobs.progress import watch


def group_verticals(settings: GroupSettings) -> dict[str, Any]:
    """Search, publish the groups, report; returns the content of the JSON."""
    from fashion_dml.evaluation import html
    from fashion_dml.training.trials import curves, found_groups, search  # torch: not for --help or settings that can't be

    started = time.monotonic()
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(workspace / "dataset")
    connect(settings.workspace)
    trials = search(settings, watch)
    groups, f = found_groups(trials), trials.findings
    alone = {v: f.recall[v,].get(v) for v in trials.order}
    grouped = {v: recall for members in groups.values() for v, recall in f.recall[members].items()}
    report: dict[str, Any] = {
        "groups": groups, "order": trials.order, "queries": dict(f.queries), "tolerance": f.tolerance, "chance": f.chance,
        "alone": alone, "grouped": {v: grouped.get(v, alone[v]) for v in trials.order},
        "least": {v: f.allowed(v) if alone[v] is not None else None for v in trials.order},
        "trials": {"+".join(s): dict(r) for s, r in f.recall.items()}, "curves": curves(trials),
    }  # fmt: skip
    home = workspace / "groups"
    write_manifest(
        home, kind="groups", config=settings.group.model_dump(mode="json"), inputs={"dataset": manifest_sha256(dataset.location)},
        seconds=time.monotonic() - started, groups=groups,
    )  # fmt: skip
    page = workspace / "reports" / "group_verticals.html"
    page.write_bytes(html.render_groups(report, title="Verticals that train well together").encode())
    write_report(settings.workspace, "group_verticals", settings, started, **report)
    _show(report)
    console.print(f"{page}")
    return report


def _show(report: dict[str, Any]) -> None:
    group = {v: name for name, members in report["groups"].items() for v in members}
    rows = [
        (v, group.get(v, "alone"), f"{report['queries'].get(v, 0):,}", _percent(report["alone"][v]), _percent(report["least"][v]),
         _percent(report["grouped"][v]))
        for v in report["order"]
    ]  # fmt: skip
    print_table("Validation R@1 in %", ("vertical", "group", "queries", "alone", "least allowed", "in its group"), rows)


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}"


if __name__ == "__main__":
    sys.exit(main(GroupSettings, group_verticals, prog="python -m jobs.group_verticals", doc=__doc__))
