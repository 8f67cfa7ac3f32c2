"""A model for those without this package: weights and a config that timm loads, ONNX, and a card that says what it is."""

from __future__ import annotations

import contextlib
import io
import json
import warnings
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from fashion_dml.models.embedder import Embedder
from fashion_dml.models.trunk import FIXED_SIZE
from fashion_dml.storage import UserError


def timm_files(embedder: Embedder) -> dict[str, bytes]:
    """`model.safetensors` and `config.json` for `timm.create_model("local-dir:DIR", pretrained=True)`.

    The head becomes timm's classifier: that model's output [B, D] is the embedding before its norm is made 1. Raises
    UserError for a cascade, whose heads sit at several depths, and for trunks with no single classifier.
    """
    name = embedder.trunk.pretrained_cfg.get("classifier")  # type: ignore[union-attr, operator]
    if embedder.settings.taps or not isinstance(embedder.head, nn.Linear) or not isinstance(name, str):
        raise UserError(
            f"A model of {embedder.settings.trunk!r} with taps {list(embedder.settings.taps)} has no form that timm knows; "
            f"export it as ONNX alone, with export.timm = false."
        )
    state = embedder.trunk.state_dict() | {f"{name}.{part}": value for part, value in embedder.head.state_dict().items()}
    cfg: Mapping[str, Any] = embedder.trunk.pretrained_cfg  # type: ignore[assignment]
    config = {
        "architecture": embedder.settings.trunk.partition(".")[0],
        "num_classes": embedder.dim,
        "num_features": embedder.widths[0],
        "pretrained_cfg": {
            "input_size": [3, embedder.height, embedder.width], "fixed_input_size": embedder.settings.trunk.startswith(FIXED_SIZE),
            "pool_size": None, "crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear", "mean": list(cfg["mean"]),
            "std": list(cfg["std"]), "num_classes": embedder.dim, "first_conv": cfg["first_conv"], "classifier": name,
        },
    }  # fmt: skip
    weights = safetensors.torch.save({k: v.detach().cpu().contiguous() for k, v in state.items()}, metadata={"format": "pt"})
    return {"model.safetensors": weights, "config.json": json.dumps(config, indent=1).encode()}


class _Served(nn.Module):
    """Photos as they are decoded, to embeddings."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__()
        self.embedder = embedder

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.embedder(images.permute(0, 3, 1, 2))
        return embeddings


def onnx_bytes(embedder: Embedder) -> bytes:
    """An ONNX model from `images` uint8 [B, H, W, 3] (RGB, any B) to `embeddings` float32 [B, D] of norm 1.

    Raises UserError without the packages that write it.
    """
    try:
        import onnx  # noqa: F401
        import onnxscript  # noqa: F401
    except ImportError as error:
        raise UserError(f"ONNX is written with the package {error.name}: pip install 'fashion-dml[export]'.") from error
    images = torch.zeros(2, embedder.height, embedder.width, 3, dtype=torch.uint8)
    program = torch.onnx.export(
        _Served(embedder).eval(), (images,), input_names=["images"], output_names=["embeddings"],
        dynamic_shapes=({0: torch.export.Dim("batch")},), dynamo=True, verbose=False,
    )  # fmt: skip
    assert program is not None
    return bytes(program.model_proto.SerializeToString())


def serving_graph(embedder: Embedder) -> bytes:
    """As `onnx_bytes`, for a process that runs it at once: in a tenth of the time, and without onnxscript.

    Raises UserError for a trunk that can't be written so.
    """
    images = torch.zeros(2, embedder.height, embedder.width, 3, dtype=torch.uint8)
    written = io.BytesIO()
    # torch recommends the other exporter, which takes ten times as long; a failure prints the whole graph
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            torch.onnx.export(
                _Served(embedder).eval(), (images,), written,  # type: ignore[arg-type]  # it writes into files that are open, too
                input_names=["images"], output_names=["embeddings"],
                dynamic_axes={"images": {0: "batch"}, "embeddings": {0: "batch"}}, dynamo=False, verbose=False,
            )  # fmt: skip
        except Exception as error:  # what a tracer raises is of any class
            raise UserError(f"this model has no ONNX form ({type(error).__name__}).") from error
    return written.getvalue()


def model_card(
    manifest: Mapping[str, Any], dataset: Mapping[str, Any] | None, evaluation: Mapping[str, Any] | None, name: str = "unified"
) -> str:
    """Markdown: what the model was trained on and how, how it does on unseen products, and its limits.

    manifest: the model's; dataset: that of its images; evaluation: an evaluation.json of this very model under `name`.
    Each of the latter two may be missing, and the card says so.
    """
    m: Mapping[str, Any] = (manifest.get("config") or {}).get("model") or {}
    lines = [
        f"# {manifest.get('name', name)}: product photos to {manifest['dim']}-d embeddings", "",
        f"A {m.get('trunk', 'timm')} with a linear head, made by fashion-dml {manifest['code']}. Photos of the same product lie near each "
        "other by cosine; embeddings have norm 1.", "",
        "## Training", "",
        f"- {manifest['steps']:,} steps, {manifest['images']:,} images, {manifest['seconds']:,.0f} s; weights sha256 {manifest['sha256']}.",
    ]  # fmt: skip
    if dataset is not None:
        parts = (f"{v} {by['train']['images']:,}" for v, by in sorted(dataset["verticals"].items()) if "train" in by)
        lines.append(f"- Training images by vertical: {', '.join(parts)}.")
    lines += ["", "## On unseen products", ""]
    if evaluation is None:
        lines.append("Not measured: run `python -m jobs.evaluate` and export again.")
    else:
        found = evaluation["models"][name]
        lines += ["| index | queries | R@1 | R@10 | mAP |", "|---|---|---|---|---|"]
        for protocol, by in found.items():
            cells = " | ".join(_interval(by["overall"].get(metric)) for metric in ("R@1", "R@10", "mAP"))
            lines.append(f"| {protocol} | {by['queries']:,} | {cells} |")
        lines += ["", "| vertical | R@1, own index |", "|---|---|"]
        lines += [f"| {v} | {_interval(by['R@1'])} |" for v, by in next(iter(found.values()))["verticals"].items()]
        lines += ["", "In %, with 95 % bootstrap intervals over queries; ties count against the model."]
    lines += [
        "", "## Limits", "",
        "- It knows the verticals and the kind of photos it was trained on; measure it on yours before you rely on it.",
        "- What differs between photos of one training product (colour, side, print) it learned to pass over.",
        "- The training photos' licence says what the model may be used for.", "",
    ]  # fmt: skip
    return "\n".join(lines)


def _interval(i: Mapping[str, float | None] | None) -> str:
    if i is None or i["value"] is None or i["low"] is None or i["high"] is None:
        return "–"
    return f"{100 * i['value']:.1f} ({100 * i['low']:.1f}-{100 * i['high']:.1f})"
