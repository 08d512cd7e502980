"""Checkpoints: the same bits in another process, strict, whole, and readable from the version before."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ast_hf import CheckpointError, from_pretrained
from ast_hf.config import CONFIG_VERSION
from tests import tiny

WEIGHTS, CHANGES = "model.safetensors", {"feature_normalization": "channel", "local_channels": (8, 8)}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A calibrated detector's checkpoint."""
    tiny.detector(**CHANGES).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any], **more: str) -> None:
    """Changes the tensors of a checkpoint and leaves the metadata as it was, but for `more`."""
    path = folder / WEIGHTS
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {**metadata, **more})


def test_a_new_process_gives_the_same_bits(saved: Path) -> None:
    command = [sys.executable, "-c", f"from tests import tiny; print(tiny.score({str(saved)!r}).hex())"]
    there = subprocess.run(command, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == tiny.score(saved).hex() == tiny.score(tiny.detector(**CHANGES)).hex()


def test_round_trip_keeps_everything(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    detector, loaded = tiny.detector(**CHANGES), from_pretrained(saved, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert (loaded.config, loaded.calibration, loaded.training) == (detector.config, tiny.CALIBRATION, False)
    expected = detector.state_dict()
    assert all(torch.equal(v, expected.pop(k)) for k, v in loaded.state_dict().items()) and not expected
    assert sorted(os.listdir(saved)) == ["calibration.json", "config.json", "model.safetensors"]
    detector.calibration = None
    detector.save_pretrained(saved)
    assert from_pretrained(saved).calibration is None, "saving again replaces it"


@pytest.mark.parametrize("file", [1, 2, 3])
def test_a_disk_that_fills_up_leaves_the_detector_that_was_there(
    file: int, saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score, names = tiny.score(saved), sorted(saved.iterdir())
    monkeypatch.setattr(os, "fsync", Mock(side_effect=[None] * (file - 1) + [OSError(28, "No space left on device")]))
    with pytest.raises(OSError, match="No space left"):
        tiny.detector(seed=5).save_pretrained(saved)
    assert tiny.score(saved) == score and sorted(saved.iterdir()) == names


def test_half_precision_halves_the_file_and_stays_close(saved: Path, tmp_path: Path) -> None:
    detector, half = tiny.detector(**CHANGES), tmp_path / "half"
    detector.save_pretrained(half, half_precision=True)
    assert (half / WEIGHTS).stat().st_size < 0.6 * (saved / WEIGHTS).stat().st_size
    assert tiny.score(half) == pytest.approx(tiny.score(detector), rel=0.02)
    detector.student.conv_in.weight.data.fill_(1e6)
    with pytest.raises(CheckpointError, match=r"student\.conv_in\.weight.*fp16"):
        detector.save_pretrained(half, half_precision=True)


def test_weights_of_any_type_load_again(tmp_path: Path) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        tiny.detector().to(dtype=dtype).save_pretrained(tmp_path)
        assert tiny.score(tmp_path) == pytest.approx(tiny.score(tiny.detector()), rel=0.05)


def test_without_backbone(tmp_path: Path) -> None:
    detector, folder, weights = tiny.detector(), tmp_path / "slim", tmp_path / "backbone.safetensors"
    detector.save_pretrained(folder, include_backbone=False)
    with pytest.raises(CheckpointError, match="backbone_weights"):
        from_pretrained(folder)
    save_file({k: v.contiguous() for k, v in detector.backbone.state_dict().items()}, weights)
    assert tiny.score(folder, backbone_weights=weights) == tiny.score(detector)
    save_file({k: v.contiguous() for k, v in tiny.detector(seed=9).backbone.state_dict().items()}, weights)
    with pytest.raises(CheckpointError, match="other backbone weights"):
        from_pretrained(folder, backbone_weights=weights)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (shutil.rmtree, "not a folder"),
        (lambda f: (f / "config.json").unlink(), r"config\.json cannot be read"),
        (lambda f: (f / WEIGHTS).rename(f / "pytorch_model.bin"), r"no model\.safetensors.*\.bin"),
        (lambda f: (f / "calibration.json").unlink(), r"calibration\.json cannot be read"),
        (lambda f: (f / WEIGHTS).write_bytes(b"\xff" * 100), "not a readable safetensors"),
        (lambda f: os.truncate(f / WEIGHTS, 5000), "not a readable safetensors"),
        (lambda f: (f / "config.json").write_text("{}"), r"config\.json was changed or belongs to another"),
        (lambda f: (f / "calibration.json").write_text("{}"), r"calibration\.json was changed or belongs to another"),
        (lambda f: rewrite(f, lambda t: t.pop("student.conv_in.bias")), r"lacks 1 tensors.*student\.conv_in\.bias"),
        (lambda f: rewrite(f, lambda t: t.update(more=torch.zeros(1))), "1 tensors that .* has no use for.*more"),
        (lambda f: rewrite(f, lambda t: t["student.conv_in.bias"].fill_(float("nan"))), "not finite"),
        (lambda f: rewrite(f, lambda t: t["input_std"].zero_()), "not positive"),
        (lambda f: rewrite(f, lambda t: t.update(input_std=torch.zeros(3))), "the shape"),
        (lambda f: rewrite(f, lambda t: t.update(input_std=torch.zeros(48, dtype=int))), "the type"),
        (lambda f: rewrite(f, lambda t: t["teacher.module_list.0.permutation"].zero_()), "permutation"),
    ],
)
def test_damage_is_named(saved: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(saved)
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(saved)


def to_version_1(folder: Path) -> None:
    """Makes of a checkpoint what the version before wrote."""
    old = {"backbone.": "backbone.trunk.", "positional_encoding": "position", "input_std": "input_deviation"}
    old |= {"student.conv_in.": "student.head.", "student.conv_out.": "student.tail."}
    config = json.loads((folder / "config.json").read_text())
    config |= {"config_version": 1, "coupling_blocks": len(config["coupling_kernel_sizes"])}
    (folder / "config.json").write_text(json.dumps(config))

    def rename(tensors: dict[str, torch.Tensor]) -> None:
        for name in list(tensors):
            start = next((new for new in old if name.startswith(new)), "")
            tensors[old.get(start, "") + name.removeprefix(start)] = tensors.pop(name)

    rewrite(folder, rename, **{"config.json.sha256": hashlib.sha256((folder / "config.json").read_bytes()).hexdigest()})


@pytest.mark.parametrize("modality", ["rgb", "rgb+depth", "depth"])
def test_checkpoints_of_the_version_before_load_with_equal_predictions(modality: str, tmp_path: Path) -> None:
    detector = tiny.detector(modality, feature_normalization="channel")
    detector.save_pretrained(tmp_path)
    to_version_1(tmp_path)
    assert ("backbone.trunk.conv_stem.weight" in load_file(tmp_path / WEIGHTS)) == (modality != "depth")
    loaded, (sample,) = from_pretrained(tmp_path, device="cpu"), tiny.samples(detector.config, 1)
    ours, theirs = (model.predict(sample.image, sample.points) for model in (loaded, detector))
    assert loaded.config == detector.config and ours.score == theirs.score
    assert np.array_equal(ours.anomaly_map, theirs.anomaly_map)
    loaded.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text())["config_version"] == CONFIG_VERSION
    assert from_pretrained(tmp_path, device="cpu").predict(sample.image, sample.points).score == theirs.score
