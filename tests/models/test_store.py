"""Model directories: what is saved comes back, what is damaged is refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import safetensors.torch
import torch

from fashion_dml.config import Model
from fashion_dml.models.embedder import Embedder
from fashion_dml.models.store import load_model, save_model
from fashion_dml.storage import Location, UserError


def tiny(seed: int = 0, **settings: object) -> Embedder:
    torch.manual_seed(seed)
    return Embedder(Model(**{"trunk": "test_efficientnet", "weights": "none", "dim": 8, **settings}), 40, 32)


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_model(Location.of(tmp_path / "model"), tiny(), key="k", files={"notes.txt": b"hello"})
    return tmp_path / "model"


def test_round_trip(saved: Path) -> None:
    module = tiny()
    loaded = load_model(str(saved))
    assert (loaded.dim, loaded.height, loaded.width) == (8, 40, 32)
    assert loaded.module.settings == module.settings
    assert not loaded.module.training
    found = loaded.module.state_dict()
    assert found.keys() == module.state_dict().keys()
    assert all(torch.equal(found[k], v) for k, v in module.state_dict().items())
    assert (saved / "notes.txt").read_bytes() == b"hello"
    manifest = json.loads((saved / "manifest.json").read_text())
    assert (manifest["sha256"], manifest["key"], manifest["dim"]) == (loaded.sha256, "k", 8)
    assert loaded.sha256 == Location.of(saved / "model.safetensors").sha256()


def test_the_same_weights_have_the_same_version(saved: Path, tmp_path: Path) -> None:
    assert save_model(Location.of(tmp_path / "again"), tiny()) == load_model(str(saved)).sha256
    assert save_model(Location.of(tmp_path / "other"), tiny(seed=1)) != load_model(str(saved)).sha256


def test_a_loaded_model_needs_no_hub(tmp_path: Path) -> None:
    """`weights` may be auto, a file that is gone, ...: the directory holds all tensors."""
    embedder = tiny()
    embedder.settings = Model(trunk="test_efficientnet", weights="/gone.safetensors", dim=8)
    save_model(Location.of(tmp_path / "model"), embedder)
    assert load_model(str(tmp_path / "model")).module.settings.weights == "/gone.safetensors"


def test_saving_again_replaces_the_directory(saved: Path) -> None:
    save_model(Location.of(saved), tiny(seed=1))
    assert torch.equal(load_model(str(saved)).module.head.weight, tiny(seed=1).head.weight)
    assert sorted(p.name for p in saved.iterdir()) == ["config.json", "manifest.json", "model.safetensors"]
    assert [p.name for p in saved.parent.iterdir()] == ["model"]


def test_one_changed_byte_is_refused(saved: Path) -> None:
    weights = bytearray((saved / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (saved / "model.safetensors").write_bytes(weights)
    with pytest.raises(
        UserError, match=r"model.safetensors has sha256 \w{12}\.\.\., its manifest says \w{12}\.\.\.: restore or train"
    ):
        load_model(str(saved))


@pytest.mark.parametrize("file", ["model.safetensors", "config.json"])
def test_a_missing_file_is_refused(saved: Path, file: str) -> None:
    (saved / file).unlink()
    with pytest.raises(UserError, match=r"The model .*model is damaged \(FileNotFoundError\); restore or train it again"):
        load_model(str(saved))


def test_a_half_written_config_is_refused(saved: Path) -> None:
    (saved / "config.json").write_text('{"model": {')
    with pytest.raises(UserError, match="is damaged"):
        load_model(str(saved))


@pytest.mark.parametrize("change", [{"dim": 9}, {"trunk": "test_resnet"}])
def test_weights_that_do_not_fit_the_config_are_refused(saved: Path, change: dict[str, object]) -> None:
    config = json.loads((saved / "config.json").read_text())
    config["model"].update(change)
    (saved / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match=r"don't fit its config.json"):
        load_model(str(saved))


@pytest.mark.parametrize("given", ["nowhere", "empty", "dataset"])
def test_what_is_no_model_is_refused(tmp_path: Path, given: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "dataset").mkdir()
    (tmp_path / "dataset" / "manifest.json").write_text('{"schema": 1, "kind": "dataset"}')
    with pytest.raises(UserError, match=rf"{given}' is no model: give a directory"):
        load_model(str(tmp_path / given))


def test_an_unfinished_save_is_no_model(saved: Path) -> None:
    (saved / "manifest.json").unlink()
    with pytest.raises(UserError, match="is no model"):
        load_model(str(saved))


def test_timm_name_with_a_file_of_weights(tmp_path: Path) -> None:
    torch.manual_seed(5)
    trunk = tiny(seed=5).trunk
    file = tmp_path / "trunk.safetensors"
    safetensors.torch.save_file(trunk.state_dict(), file)
    loaded = load_model(f"timm:test_efficientnet@{file}", height=48, width=32)
    assert (loaded.dim, loaded.height, loaded.width) == (256, 48, 32)
    images = torch.randint(0, 256, (2, 3, 48, 32), dtype=torch.uint8)
    with torch.no_grad():
        torch.testing.assert_close(loaded.module.features(images), Embedder.features(loaded.module, images))
        assert torch.equal(loaded.module.trunk.conv_stem.weight, trunk.conv_stem.weight)
    # The same trunk at another size is another model: its vectors must not be mixed with these.
    assert load_model(f"timm:test_efficientnet@{file}", height=32, width=32).sha256 != loaded.sha256
    shutil.copy(file, tmp_path / "copy.safetensors")
    assert load_model(f"timm:test_efficientnet@{tmp_path / 'copy.safetensors'}", height=48, width=32).sha256 == loaded.sha256


def test_timm_name_with_packaged_weights() -> None:
    loaded = load_model("timm:tf_efficientnet_lite0", height=64, width=48)
    assert (loaded.dim, loaded.height, loaded.width) == (1280, 64, 48)
    with torch.inference_mode():
        found = loaded.module(torch.randint(0, 256, (2, 3, 64, 48), dtype=torch.uint8))
    torch.testing.assert_close(found.norm(dim=1), torch.ones(2))


def test_unknown_timm_name() -> None:
    with pytest.raises(UserError, match=r"'nonsense' is no timm model"):
        load_model("timm:nonsense")
