"""Measure models on unseen products: R@K, mAP, MAP@R, per vertical and overall, on separate and merged indexes.

    python -m jobs.evaluate --config jobs/configs/demo.yaml --workspace workspace
    python -m jobs.evaluate --models workspace/unified/model timm:tf_efficientnet_lite0 color-histogram --dataset workspace/dataset

Without --models: the pretrained trunk, and the specialists, baselines, joint model and unified model of the workspace, where they were
made from this dataset. With --models: any model directory, `timm:NAME` or `color-histogram`, on any dataset directory. Images of the
split test search among themselves; a dataset with the splits query and gallery has its queries searched in the gallery. Query expansion
and re-ranking (`--evaluate.query_expansion 5 --evaluate.rerank k-reciprocal`) are rows beside those of the plain search. Writes
`reports/evaluation.json` and a self-contained `reports/evaluation.html`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import Field

from fashion_dml import __version__
from fashion_dml.config import Cluster, Data, Embed, Evaluate, JobSettings, Model
from fashion_dml.data.schema import SPLITS, Dataset, Part
from fashion_dml.evaluation import report, sheets, table
from fashion_dml.evaluation.embedding_map import embedding_map
from fashion_dml.evaluation.protocol import PROTOCOLS, Items, LeftOut, Measured, Vertical, evaluate
from fashion_dml.evaluation.ranking import Level
from fashion_dml.evaluation.refine import Refinement
from fashion_dml.evaluation.sheets import Sheet, Tile
from fashion_dml.inference.embed import EmbedRequest, ensure_embeddings, read_embeddings
from fashion_dml.inference.version import model_version
from fashion_dml.storage import Location, UserError, manifest_sha256, sha256_json
from jobs.common import connect, console, main
from jobs.measured_models import named, of_workspace

NEIGHBOURS = 10


class EvaluateSettings(JobSettings):
    """Sections that this job reads."""

    models: tuple[str, ...] = Field((), description="models to measure; empty: those of the workspace")
    dataset: str = Field("", description="dataset directory; empty: <workspace>/dataset")
    data: Data = Data()
    model: Model = Model()
    embed: Embed = Embed()
    evaluate: Evaluate = Evaluate()
    cluster: Cluster = Cluster()


def measure_models(settings: EvaluateSettings) -> dict[str, Any]:
    """Embed, measure and write the reports; returns the content of evaluation.json."""
    from fashion_dml.evaluation import html
    from fashion_dml.inference.cost import cost  # torch: not for --help or settings that can't be

    started = time.monotonic()
    e = settings.evaluate
    workspace = Location.of(settings.workspace)
    dataset = Dataset.open(settings.dataset or workspace / "dataset")
    splits, verticals = measured_splits(dataset, e.split), measured_verticals(dataset, e.split)
    level = measured_level(dataset, e)
    if settings.models:
        models = {name: dict.fromkeys(verticals, model) for name, model in named(settings.models).items()}
    else:
        models = of_workspace(workspace, settings.model, dataset, verticals)
    requests: dict[str, list[Part]] = {}
    for by_vertical in models.values():
        for vertical, model in by_vertical.items():
            listed = requests.setdefault(model, [])
            listed += [p for split in splits for p in dataset.parts(split, [vertical]) if p not in listed]
    reports = workspace / "reports"
    d = settings.data
    versions = {n: {v: model_version(m, d.height, d.width) for v, m in by.items()} for n, by in models.items()}
    curves = [] if settings.models else _curves(reports)
    key = _key(settings, dataset, versions, curves)
    if (known := _known(reports, key)) is not None:
        console.print(f"{reports / 'evaluation.json'} is complete and unchanged")
        _show(known, reports)
        return known
    connect(settings.workspace)
    found = ensure_embeddings(
        workspace,
        dataset,
        [EmbedRequest(m, parts) for m, parts in requests.items()],
        settings.embed,
        settings.cluster,
        settings.data,
    )
    items = {name: [vertical_items(dataset, v, found[by[v]], splits) for v in verticals] for name, by in models.items()}
    results: dict[str, list[Measured | LeftOut]] = {
        # Refined searches stand after all plain ones, as rows of their own.
        f"{name} + {refinement.name}" if refinement.name else name: [
            evaluate(
                given,
                p,
                level=level,
                recall_at=e.recall_at,
                whole_list=e.whole_list,
                refinement=refinement,
                memory_bytes=e.memory_bytes,
            )
            for p in PROTOCOLS
        ]
        for refinement in refinements(e)
        for name, given in items.items()
    }
    described = report.describe(
        next(iter(items.values())),
        name=str(dataset.location),
        split=" in ".join(splits),
        models={n: sorted(set(b.values())) for n, b in models.items()},
        versions={n: sorted(set(by.values())) for n, by in versions.items()},
        refinements=[asdict(r) | {"name": r.name} for r in refinements(e) if r.name],
    )
    attributes = (dataset.attributes, _signs(dataset, splits, verticals)) if dataset.attributes else None
    content = report.build(results, described, resamples=e.bootstrap, seed=settings.seed, attributes=attributes)
    if attributes is not None and e.agreement:
        content["agreement"] = {
            "answers": e.agreement,
            "models": {name: report.agreement_report(given, *attributes, e.agreement, e.bootstrap, settings.seed, e.memory_bytes)
                       for name, given in items.items()},
        }  # fmt: skip
    if e.map:
        shared = {name: given for name, given in items.items() if len(set(models[name].values())) == 1}
        maps = {name: embedding_map(given, e.map, settings.seed) for name, given in shared.items()}
        content["map"] = {name: points for name, points in maps.items() if points is not None}
    if curves:
        content["sweet_spot"] = curves
    content["cost"] = {name: asdict(cost(by.values(), d.height, d.width)) for name, by in models.items()}
    content |= {"job": "evaluate", "code": __version__, "key": key, "seconds": round(time.monotonic() - started, 3)}
    plain = {name: results[name] for name in items}
    shown = list(_sheets(dataset, items, plain, e)) if e.sheets else []
    (reports / "evaluation.html").write_bytes(html.render(content, shown, title="Evaluation").encode())
    (reports / "evaluation.json").write_json(content)  # last: it says that both are complete
    _show(content, reports)
    return content


def refinements(e: Evaluate) -> list[Refinement]:
    """The plain search first, then what the settings ask for beside it: each alone, and both together."""
    expansion = Refinement(expansion=e.query_expansion, alpha=e.expansion_alpha)
    rerank = Refinement(e.rerank, e.rerank_top)
    both = replace(expansion, rerank=e.rerank, top=e.rerank_top)
    found = {r.name: r for r in (Refinement(), expansion, rerank, both)}
    return list(found.values())


def _curves(reports: Location) -> list[Any]:
    """The sweet-spot curves of the search for groups; none before there was one."""
    file = reports / "group_verticals.json"
    curves: list[Any] = file.read_json()["curves"] if file.is_file() else []
    return curves


def _key(settings: EvaluateSettings, dataset: Dataset, versions: dict[str, dict[str, str]], curves: list[Any]) -> str:
    """Digest of all that the reports depend on; versions: of each model, by vertical."""
    found = [manifest_sha256(dataset.location), versions, settings.evaluate.model_dump(mode="json"), settings.seed, __version__]
    return sha256_json([*found, curves] if curves else found)


def _known(reports: Location, key: str) -> dict[str, Any] | None:
    """The report of an earlier run on the same models, data and settings."""
    if not (reports / "evaluation.json").is_file() or not (reports / "evaluation.html").is_file():
        return None
    content: dict[str, Any] = (reports / "evaluation.json").read_json()
    return content if content.get("key") == key else None


def _show(content: dict[str, Any], reports: Location) -> None:
    console.print(table.recall_table(content))
    console.print(table.vertical_table(content))
    console.print(f"{reports / 'evaluation.html'}")


def measured_splits(dataset: Dataset, split: str) -> tuple[str, ...]:
    """(queries, gallery) of a dataset that has those roles, else the one split whose images search among themselves."""
    return ("query", "gallery") if split in ("test", "query") and dataset.verticals("query") else (split,)


def measured_verticals(dataset: Dataset, split: str) -> list[str]:
    """The verticals that have images in the measured splits. Raises UserError if there is none."""
    verticals = sorted({v for one in measured_splits(dataset, split) for v in dataset.verticals(one)})
    if not verticals:
        there = ", ".join(s for s in SPLITS if dataset.verticals(s)) or "none"
        raise UserError(f"{dataset.location} has no products of split {split!r}; choose evaluate.split among {there}.")
    return verticals


def measured_level(dataset: Dataset, e: Evaluate) -> Level:
    """What counts as a hit: by setting, or as the dataset's protocol has it."""
    level: Level = dataset.manifest.get("protocol", {}).get("level", "image") if e.level == "auto" else e.level
    return level


def vertical_items(dataset: Dataset, vertical: str, embeddings: Location, splits: tuple[str, ...]) -> Vertical:
    """One vertical's images as queries and index, embedded by its model."""
    found = [_items(dataset, vertical, embeddings, split) for split in splits]
    dim = max(f.vectors.shape[1] for f in found)  # a role may have no image in this vertical
    queries, *gallery = (f if len(f.labels) else Items(np.empty((0, dim), np.float32), f.labels, f.image_ids) for f in found)
    return Vertical(vertical, queries, *gallery)


def _items(dataset: Dataset, vertical: str, embeddings: Location, split: str) -> Items:
    label: dict[str, int] = {}
    for part in dataset.parts(split, [vertical]):
        with dataset.images_file(part).open_input() as stream:
            rows = pq.read_table(stream, columns=["image_id", "label"])
        label.update(zip(rows["image_id"].to_pylist(), rows["label"].to_pylist(), strict=True))
    read = [read_embeddings(embeddings, part) for part in dataset.parts(split, [vertical])]
    ids = [i for part_ids, _ in read for i in part_ids]
    vectors = np.concatenate([v for _, v in read]) if read else np.empty((0, 0), np.float32)
    return Items(vectors, np.array([label[i] for i in ids], np.int64), np.array(ids, object))


def _signs(dataset: Dataset, splits: tuple[str, ...], verticals: list[str]) -> dict[str, np.ndarray]:
    """The attribute signs int8 [A] of every image of the splits."""
    found: dict[str, np.ndarray] = {}
    for part in (p for split in splits for p in dataset.parts(split, verticals)):
        with dataset.images_file(part).open_input() as stream:
            rows = pq.read_table(stream, columns=["image_id", "attributes"])
        signs = rows["attributes"].combine_chunks().flatten().to_numpy().reshape(rows.num_rows, -1)
        found.update(zip(rows["image_id"].to_pylist(), signs, strict=True))
    return found


def _sheets(
    dataset: Dataset, items: dict[str, list[Vertical]], results: dict[str, list[Measured | LeftOut]], e: Evaluate
) -> Iterator[Sheet]:
    """The worst queries of every model, with only their own images read."""
    hits = {}
    for name, measured in results.items():
        merged = [r for r in measured if isinstance(r, Measured)]
        if merged:
            hits[name] = sheets.worst_queries(items[name], merged[-1], e.sheets, k=NEIGHBOURS, memory_bytes=e.memory_bytes)
    wanted = {i for found in hits.values() for h in found for i in (h.query_id, *h.neighbour_ids)}
    pictures: dict[str, tuple[str, bytes]] = {}
    for part in (p for split in measured_splits(dataset, e.split) for p in dataset.parts(split)):
        with dataset.images_file(part).open_input() as stream:
            rows = pq.read_table(
                stream, columns=["image_id", "product_id", "image"], filters=pc.field("image_id").isin(sorted(wanted))
            )
        for row in rows.to_pylist():
            pictures[row["image_id"]] = (row["product_id"], row["image"])
    for name, found in hits.items():
        for h in found:
            neighbours = [
                Tile(i, pictures[i][0], score, right, pictures[i][1])
                for i, score, right in zip(h.neighbour_ids, h.scores, h.right, strict=True)
            ]
            yield Sheet(
                name,
                h.vertical,
                Tile(h.query_id, pictures[h.query_id][0], None, None, pictures[h.query_id][1]),
                neighbours,
                h.first_rank,
            )


def entry(argv: list[str] | None = None) -> int:
    """Exit code of the command line; `--models A B C` may be written with blanks."""
    args = list(sys.argv[1:] if argv is None else argv)
    if "--models" in args:
        at = args.index("--models") + 1
        end = next((i for i in range(at, len(args)) if args[i].startswith("--")), len(args))
        args[at:end] = [",".join(args[at:end])]
    return main(EvaluateSettings, measure_models, prog="python -m jobs.evaluate", doc=__doc__, argv=args)


if __name__ == "__main__":
    sys.exit(entry())
