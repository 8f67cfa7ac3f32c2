"""Export a model for those without this package: timm weights with a config, ONNX, and a model card.

    python -m jobs.export --workspace workspace
    python -m jobs.export --directory workspace/specialists/dresses/model --out dresses --export.onnx false

Reads a model directory, by default `<workspace>/unified/model`, with `reports/evaluation.json` if it is of that very model; writes
`<workspace>/export`: model.safetensors and config.json for `timm.create_model("local-dir:DIR", pretrained=True)`, model.onnx, README.md.
"""

from __future__ import annotations

import sys
import time
from typing import Any

from pydantic import Field

from fashion_dml.config import Export, JobSettings
from fashion_dml.storage import Location, UserError, publish, read_manifest, require_manifest, write_manifest
from jobs.common import console, main


class ExportSettings(JobSettings):
    """What this job reads."""

    directory: str = Field("", description="model directory; empty: <workspace>/unified/model")
    out: str = Field("", description="directory to write; empty: <workspace>/export")
    export: Export = Export()


def export(settings: ExportSettings) -> dict[str, Any]:
    """Write the export; returns its manifest."""
    from fashion_dml.models.export import model_card, onnx_bytes, timm_files
    from fashion_dml.models.store import load_model  # torch: not for --help or settings that can't be

    started = time.monotonic()
    workspace = Location.of(settings.workspace)
    directory = Location.of(settings.directory) if settings.directory else workspace / "unified" / "model"
    manifest = require_manifest(directory, made_by="python -m jobs.distill")
    if "steps" not in manifest:
        raise UserError(f"{directory} is no trained model: give one of specialists/NAME/model or unified/model.")
    loaded = load_model(directory)
    files = timm_files(loaded.module) if settings.export.timm else {}
    if settings.export.onnx:
        files["model.onnx"] = onnx_bytes(loaded.module)
    evaluation, name = _evaluation(workspace, loaded.sha256)
    files["README.md"] = model_card(manifest, read_manifest(workspace / "dataset"), evaluation, name).encode()
    out = Location.of(settings.out) if settings.out else workspace / "export"
    with publish(out) as draft:
        for file, data in files.items():
            (draft / file).write_bytes(data)
        done = write_manifest(
            draft, kind="export", config=settings.export.model_dump(mode="json"), inputs={"model": loaded.sha256},
            seconds=time.monotonic() - started, files=sorted(files), dim=loaded.dim, height=loaded.height, width=loaded.width,
        )  # fmt: skip
    console.print(f"{out}: {', '.join(sorted(files))}")
    return done


def _evaluation(workspace: Location, sha256: str) -> tuple[dict[str, Any] | None, str]:
    """The evaluation of the model with these weights, and its name there."""
    file = workspace / "reports" / "evaluation.json"
    content: dict[str, Any] = file.read_json() if file.is_file() else {}
    names = [n for n, versions in content.get("dataset", {}).get("versions", {}).items() if versions == [sha256]]
    return (content, names[0]) if names else (None, "")


if __name__ == "__main__":
    sys.exit(main(ExportSettings, export, prog="python -m jobs.export", doc=__doc__))
