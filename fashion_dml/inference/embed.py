"""Embedding a dataset with a pool of Ray Data actors: any models on any of its files, in one execution.

An embeddings file has the rows, row groups and order of its images file, so that later stages zip two files. Files
are kept under `<workspace>/embeddings/<dataset>-<model>/` and written atomically: what exists isn't made again.
"""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fashion_dml.config import Cluster, Data, Embed
from fashion_dml.data.decode import UnreadableImage
from fashion_dml.data.placement import selector
from fashion_dml.data.preflight import preflight
from fashion_dml.data.ray_data import quiet_context
from fashion_dml.data.schema import Dataset, Part, embeddings_schema
from fashion_dml.inference.version import model_version
from fashion_dml.storage import Location, UserError, manifest_sha256

if TYPE_CHECKING:
    from fashion_dml.inference.encode import Encoder

KEPT_MODELS = 2  # an actor's files come sorted by model, so it seldom goes back to an earlier one


@dataclass(frozen=True)
class EmbedRequest:
    """Files of a dataset to embed with a model: a directory, `timm:NAME` or `color-histogram`.

    mirror: each embedding is the mean of the image's and its mirror image's.
    """

    model: str
    parts: list[Part]
    mirror: bool = False


def ensure_embeddings(
    workspace: Location,
    dataset: Dataset,
    requests: list[EmbedRequest],
    settings: Embed,
    cluster: Cluster,
    data: Data | None = None,
) -> dict[str, Location]:
    """Model -> the directory that holds an embeddings file for each requested part; embeds what is missing.

    `data` gives the input size of models that have none of their own. Raises UserError for models that can't be loaded.
    """
    data = data or Data()
    home = workspace / "embeddings"
    stamp = manifest_sha256(dataset.location)[:16]
    found = {
        r.model: home / f"{stamp}-{model_version(r.model, data.height, data.width)[:16]}{'-mirror' if r.mirror else ''}"
        for r in requests
    }
    work = [
        {
            "model": r.model,
            "images": str(dataset.images_file(p)),
            "output": str(found[r.model] / p.relative),
            "size": [data.height, data.width],
            "mirror": r.mirror,
        }
        for r in sorted(requests, key=lambda r: r.model)
        for p in r.parts
        if not (found[r.model] / p.relative).is_file()
    ]
    if work:
        _execute(work, settings, cluster)
    return found


def _execute(work: list[dict[str, Any]], settings: Embed, cluster: Cluster) -> None:
    import ray
    from ray.data import ActorPoolStrategy, DataContext

    preflight(cluster.model_copy(update={"workers": 1}))  # an actor asks for what a training worker does; one alone is enough
    actors = min(settings.actors or cluster.most, len(work))
    with DataContext.current(quiet_context()):
        items = ray.data.from_items(work, override_num_blocks=len(work))
        done = items.map(
            EmbedActor,  # type: ignore[arg-type]  # Ray types a class of callables as a callable
            fn_constructor_args=(settings.batch_images, actors), compute=ActorPoolStrategy(size=actors),
            num_cpus=cluster.cpus_per_worker, num_gpus=cluster.gpus_per_worker or None, **selector(cluster.train_labels),
        )  # fmt: skip
        rows = sum(int(batch["rows"].sum()) for batch in done.iter_batches(batch_size=None, batch_format="numpy"))
    expected = sum(_rows(w["images"]) for w in work)
    if rows != expected:
        raise RuntimeError(f"{rows:,} of {expected:,} images were embedded")


def _rows(file: str) -> int:
    with Location.of(file).open_input() as stream:
        return int(pq.ParquetFile(stream).metadata.num_rows)


class EmbedActor:
    """Embeds one file a call; keeps the models it used last."""

    def __init__(self, batch_images: int, actors: int) -> None:
        import torch  # here and below: not in the process that only asks for embeddings

        self._batch = batch_images
        self._device = "cuda" if torch.cuda.is_available() else "cpu"
        self._models: OrderedDict[str, Encoder] = OrderedDict()
        torch.set_num_threads(max(1, (os.cpu_count() or 1) // actors))

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        height, width = (int(v) for v in row["size"])
        encoder = self._encoder(str(row["model"]), height, width)
        rows = embed_file(
            encoder, Location.of(str(row["images"])), Location.of(str(row["output"])), self._batch, bool(row["mirror"])
        )
        return {"output": row["output"], "rows": rows}

    def _encoder(self, model: str, height: int, width: int) -> Encoder:
        from fashion_dml.inference.encode import Encoder

        if model not in self._models:
            self._models[model] = Encoder(model, device=self._device, height=height, width=width)
            if len(self._models) > KEPT_MODELS:
                self._models.popitem(last=False)
        self._models.move_to_end(model)
        return self._models[model]


def embed_file(encoder: Encoder, images: Location, output: Location, batch_images: int, mirror: bool = False) -> int:
    """Embed one images file; returns its rows. Memory: the images of one forward pass and one row group.

    Raises UserError, and writes nothing, where a stored image can't be decoded.
    """
    schema = embeddings_schema(encoder.dim)
    rows = 0
    with images.open_input() as source, output.writing() as sink, pq.ParquetWriter(sink, schema, compression="none") as writer:
        for groups in _forward_groups(pq.ParquetFile(source), batch_images):
            stored = [(i.as_py(), d.as_py()) for g in groups for i, d in zip(g["image_id"], g["image"], strict=True)]
            passes = [stored[i : i + batch_images] for i in range(0, len(stored), batch_images)]
            pixels = (np.stack([_pixels(encoder, images, *image) for image in part]) for part in passes)
            vectors = np.concatenate([encoder.embed(part, mirror=mirror) for part in pixels])
            start = 0
            for g in groups:
                part = vectors[start : start + g.num_rows]
                column = pa.FixedSizeListArray.from_arrays(pa.array(part.reshape(-1), pa.float32()), encoder.dim)
                writer.write_table(pa.table([g["image_id"], column], schema=schema), row_group_size=g.num_rows)
                start += g.num_rows
            rows += start
    return rows


def _pixels(encoder: Encoder, images: Location, image_id: str, data: bytes) -> np.ndarray:
    try:
        return encoder.pixels(data)
    except UnreadableImage as error:
        raise UserError(
            f"The stored image {image_id!r} in {images} can't be decoded ({error}): restore the dataset, or delete it and ingest it again."
        ) from error


def _forward_groups(file: pq.ParquetFile, batch_images: int) -> Iterator[list[pa.Table]]:
    """Row groups, small ones together until they fill a forward pass."""
    waiting: list[pa.Table] = []
    for g in range(file.num_row_groups):
        waiting.append(file.read_row_group(g, columns=["image_id", "image"]))
        if sum(w.num_rows for w in waiting) >= batch_images:
            yield waiting
            waiting = []
    if waiting:
        yield waiting


def read_embeddings(directory: Location, part: Part) -> tuple[list[str], np.ndarray]:
    """(image ids, float32 [n, D]) of one file."""
    with (directory / part.relative).open_input() as stream:
        table = pq.read_table(stream)
    column = table["embedding"].combine_chunks()
    flat = np.asarray(column.flatten(), np.float32)
    return table["image_id"].to_pylist(), flat.reshape(table.num_rows, -1)
