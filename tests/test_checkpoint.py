from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ast_hf import ASTDetector, ASTError, CheckpointError, from_pretrained
from ast_hf.calibration import Calibration
from tests import tiny


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    """A calibrated detector's checkpoint."""
    make_model().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def make_model(seed: int = 0, **changes: object) -> ASTDetector:
    torch.manual_seed(seed)
    model = ASTDetector(tiny.config(feature_normalization="channel", **changes))
    for name, buffer in model.named_buffers():
        if name == "input_mean":
            buffer.normal_()
    model.calibration = Calibration((0.1, 0.2, 0.3), (1.0, 2.0, 3.0))
    return model


def rewrite(folder: Path, change: Callable[[dict[str, torch.Tensor]], None]) -> None:
    """Changes the tensors of a checkpoint and leaves the metadata as it was."""
    path = folder / "model.safetensors"
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, metadata)


def test_a_new_process_gives_the_same_bits(saved: Path, tmp_path: Path, machine_arithmetic: None) -> None:
    tiny.picture(1).save(tmp_path / "part.png")
    here = from_pretrained(saved, device="cpu").predict(tmp_path / "part.png")
    code = (
        "import sys, ast_hf; p = ast_hf.from_pretrained(sys.argv[1], device='cpu').predict(sys.argv[2]);"
        "print(p.score.hex(), p.threshold.hex(), float(p.anomaly_map.astype('float64').sum()).hex())"
    )
    command = [sys.executable, "-c", code, str(saved), str(tmp_path / "part.png")]
    there = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PYTHONPATH": "."})
    total = float(here.anomaly_map.astype("float64").sum())
    assert there.stdout.split() == [here.score.hex(), here.threshold.hex(), total.hex()]


def test_round_trip_keeps_everything(saved: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, loaded = make_model(), ASTDetector.from_pretrained(saved, device="cpu")
    assert capfd.readouterr() == ("", "")
    assert loaded.config == model.config
    assert loaded.calibration == model.calibration
    assert not loaded.training
    expected = model.state_dict()
    assert expected.keys() == loaded.state_dict().keys()
    assert all(torch.equal(v, expected[k]) for k, v in loaded.state_dict().items())
    assert sorted(os.listdir(saved)) == ["calibration.json", "config.json", "model.safetensors"]


def test_saving_again_replaces_the_calibration(saved: Path) -> None:
    model = make_model()
    model.calibration = None
    model.save_pretrained(saved)
    assert ASTDetector.from_pretrained(saved).calibration is None


def test_half_precision_halves_the_file_and_stays_close(saved: Path, tmp_path: Path) -> None:
    make_model().save_pretrained(tmp_path / "half", half_precision=True)
    size = [(folder / "model.safetensors").stat().st_size for folder in (saved, tmp_path / "half")]
    assert size[1] < 0.6 * size[0]
    full, half = (from_pretrained(f, device="cpu").predict(tiny.picture(0)).score for f in (saved, tmp_path / "half"))
    assert half == pytest.approx(full, rel=0.02)
    with torch.no_grad():
        broken = make_model()
        broken.student.head.weight.fill_(1e6)
    with pytest.raises(CheckpointError, match=r"student\.head\.weight.*fp16"):
        broken.save_pretrained(tmp_path / "half", half_precision=True)


def test_without_backbone(tmp_path: Path) -> None:
    model, folder = make_model(), tmp_path / "slim"
    weights = tmp_path / "trunk.safetensors"
    save_file({k: v.contiguous() for k, v in model.backbone.trunk.state_dict().items()}, weights)
    model.save_pretrained(folder, include_backbone=False)
    with pytest.raises(CheckpointError, match="backbone_weights"):
        from_pretrained(folder)
    loaded = from_pretrained(folder, backbone_weights=weights, device="cpu")
    assert loaded.predict(tiny.picture(0)).score == model.predict(tiny.picture(0)).score
    save_file({k: v.contiguous() for k, v in make_model(9).backbone.trunk.state_dict().items()}, weights)
    with pytest.raises(CheckpointError, match="other backbone weights"):
        from_pretrained(folder, backbone_weights=weights)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: shutil.rmtree(f), "not a folder"),
        (lambda f: (f / "config.json").unlink(), r"config\.json cannot be read"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), r"no model\.safetensors.*\.bin"),
        (lambda f: (f / "calibration.json").unlink(), r"calibration\.json cannot be read"),
        (lambda f: (f / "model.safetensors").write_bytes(b"\xff" * 100), "not a readable safetensors"),
        (lambda f: os.truncate(f / "model.safetensors", 5000), "not a readable safetensors"),
        (lambda f: (f / "config.json").write_text("{}"), r"config\.json was changed"),
        (lambda f: rewrite(f, lambda t: t.pop("student.head.bias")), r"lacks 1 tensors.*student\.head\.bias"),
        (lambda f: rewrite(f, lambda t: t.update(more=torch.zeros(1))), "1 tensors that .* has no use for.*more"),
        (lambda f: rewrite(f, lambda t: t["student.head.bias"].fill_(float("nan"))), "not finite"),
        (lambda f: rewrite(f, lambda t: t.update({"student.head.bias": torch.zeros(3)})), "the shape"),
        (lambda f: rewrite(f, lambda t: t.update({"student.head.bias": torch.zeros(8, dtype=int)})), "the type"),
        (lambda f: rewrite(f, lambda t: t["teacher.module_list.0.permutation"].zero_()), "permutation"),
    ],
)  # fmt: skip
def test_damage_is_named(saved: Path, damage: Callable[[Path], object], message: str) -> None:
    damage(saved)
    with pytest.raises(CheckpointError, match=message):
        from_pretrained(saved)


def test_files_of_two_checkpoints_do_not_mix(saved: Path, tmp_path: Path) -> None:
    make_model(1, student_channels=16).save_pretrained(tmp_path / "other")
    for name in ("config.json", "calibration.json"):
        if (saved / name).read_bytes() == (tmp_path / "other" / name).read_bytes():
            continue
        shutil.copy(tmp_path / "other" / name, saved / name)
        with pytest.raises(ASTError, match="belongs to another checkpoint"):
            from_pretrained(saved)


def test_a_save_that_fails_leaves_the_old_checkpoint(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = {path.name: path.read_bytes() for path in saved.iterdir()}
    monkeypatch.setattr(os, "replace", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        make_model(1).save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in saved.iterdir()} == before


def test_config_is_readable_and_complete(saved: Path) -> None:
    values = json.loads((saved / "config.json").read_text())
    assert values["config_version"] == 1
    assert values["coupling_kernel_sizes"] == [3, 3]
