"""What speed is measured against computes the same, and the command prints and keeps what it measured."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from ast_hf import ASTDetector, ASTDetectorConfig, TrainingRecipe
from ast_hf.memory import keep_freed_memory
from benchmark import growth, peers, reference, speed, timing
from benchmark.reference import ReferenceDetector
from benchmark.speed import Measurement
from tests import tiny


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    pixels = np.random.default_rng(0).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "part.png")
    return tmp_path / "part.png"


def test_the_reference_gives_the_same_map(picture: Path) -> None:
    torch.manual_seed(0)
    # Wide enough for convolutions by tiles on our side.
    model = ASTDetector(ASTDetectorConfig.preset("compact", image_size=96, student_channels=384))
    with torch.inference_mode():
        plain = ReferenceDetector(model)
        actual, expected = model.predict(picture).anomaly_map, plain.predict([picture])[0]
    assert plain.trunk_name == "ast-tiny with batch norms"
    assert actual.shape == expected.shape == (90, 120)
    assert np.abs(actual - expected).max() < 1e-3 * expected.max()
    assert not any(type(module).__module__ == "ast_hf.winograd" for module in plain.model.modules())


def test_the_trunk_is_the_authors_where_there_is_one() -> None:
    model = ASTDetector(ASTDetectorConfig.preset("compact-b0", image_size=64, student_channels=8, teacher_channels=8))
    plain = ReferenceDetector(model)
    assert plain.trunk_name == "efficientnet_pytorch"
    with torch.inference_mode():
        assert plain.features(torch.rand(1, 3, 64, 64)).shape == (1, 192, 2, 2)


def test_steps_lower_the_loss() -> None:
    torch.manual_seed(0)
    model = ASTDetector(tiny.config())
    plain, recipe = ReferenceDetector(model), TrainingRecipe(learning_rate=1e-2)
    inputs = torch.randn(4, model.config.input_channels, *model.map_size)
    for network, step in ((plain.model.teacher, plain.teacher_step), (plain.model.student, plain.student_step)):
        optimizer = plain.optimizer(network, recipe)
        losses = [step(inputs, optimizer) for _ in range(5)]
        assert losses[-1] < losses[0]


def test_pixel_by_pixel_is_the_authors_filling(golden: Callable[[str], dict[str, Tensor]]) -> None:
    scans = golden("depth_preprocessing")
    filled = torch.from_numpy(reference.fill_holes(scans["z_raw"].numpy(), 3))
    torch.testing.assert_close(filled, scans["z_filled"], rtol=1e-6, atol=0)


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []
    seconds = timing.race({name: lambda name=name: len(calls.append(name) or calls) / 100 for name in "ab"}, 2)  # type: ignore[misc]
    assert calls == ["a", "a", "b", "b"] * 3
    assert seconds == {"a": [0.06, 0.1], "b": [0.08, 0.12]}
    calls.clear()
    timing.race({"long": lambda: calls.append("long") or 3.0}, 2)  # type: ignore[func-returns-value]
    assert calls == ["long"] * 3
    assert timing.stopwatch(lambda: time.sleep(0.02), torch.device("cpu")) >= 0.02


def test_figures_are_medians_for_one() -> None:
    seconds = {"ours": [0.4, 0.8, 9.0], "reference": [1.6, 1.6, 1.6]}
    measurement = Measurement("x", 4, seconds)
    assert measurement.milliseconds(speed.OURS) == pytest.approx(200)
    assert measurement.ratio == pytest.approx(2)
    assert Measurement("x", 4, {**seconds, "accelerated": [0.4]}).ratio == pytest.approx(4)
    assert math.isnan(Measurement("x", 1, {"ours": [0.1]}).ratio)


def test_the_command_prints_a_table_and_keeps_every_repetition(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ASTDetectorConfig, "preset", lambda name: tiny.config())
    assert speed.main(["--preset", "compact", "--device", "cpu", "--rounds", "1", "--output", str(tmp_path)]) == 0
    printed, kept = capsys.readouterr().out, json.loads((tmp_path / "speed.json").read_text())
    for name in ("trunk", "teacher", "student", "one picture, file to map", "load the detector", "training step"):
        assert name in printed
    measured = {m["name"]: m for m in kept["results"][0]["measurements"]}
    assert measured["a picture of 16, file to map"]["count"] == 16
    assert list(measured["one picture, file to map"]["seconds"]) == ["ours", "accelerated", "reference"]
    assert list(measured["student"]["seconds"]) == ["ours", "reference"]
    assert set(kept["results"][0]["accelerated"]) == {"trunk", "heads"}
    with Image.open(tmp_path / "speed.png") as drawn:
        assert drawn.width > 500
    assert kept["results"][0]["peak_memory_bytes"] > 0 and kept["torch"] == torch.__version__


@pytest.mark.gpu
def test_on_a_gpu_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert speed.main(["--preset", "compact", "--device", "cuda", "--rounds", "1"]) == 0
    assert torch.cuda.get_device_name() in capsys.readouterr().out


def test_where_the_c_library_cannot_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ctypes.CDLL", lambda name: object())
    assert not keep_freed_memory()


def test_peers_need_anomalib(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert peers.main([]) == 2
    assert "pip install anomalib" in capsys.readouterr().err


def test_peers_are_raced_with_ours(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: True)
    monkeypatch.setattr(peers, "ours", lambda device: {"AST": (torch.nn.Conv2d(3, 4, 3), 8)})
    monkeypatch.setattr(peers, "peers", lambda: {"slow": (torch.nn.Conv2d(3, 512, 9), 128)})
    assert peers.main(["--rounds", "2", "--device", "cpu", "--output", str(tmp_path / "peers.json")]) == 0
    assert capsys.readouterr().out.rstrip().splitlines()[-1].endswith("slow, 128 px")
    kept = json.loads((tmp_path / "peers.json").read_text())
    assert len(kept["seconds"]["slow"]) == 2 and set(kept["milliseconds"]) == {"slow", "AST"}


def test_ours_race_exactly_and_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ASTDetectorConfig, "preset", lambda name: tiny.config())
    monkeypatch.setattr(peers, "_PRESETS", ("compact",))
    networks = peers.ours(torch.device("cpu"))
    exact, fast = networks
    assert exact == "AST, compact" and fast.startswith("AST, compact, fp32, ")
    with torch.inference_mode():
        scores = [
            network(torch.rand(1, 3, 64, 64))[1] if name == fast else None for name, (network, _) in networks.items()
        ]
    assert scores[1].shape == (1,)  # type: ignore[union-attr]


def test_growth_is_measured_and_drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, values in {"PICTURES": (8, 16), "EPOCHS": (1, 2), "SIZES": (32, 64)}.items():
        monkeypatch.setattr(growth, name, values)
    monkeypatch.setattr(growth, "_FEW", 8)
    monkeypatch.setattr(growth, "alone", lambda *each: growth.Point(*each[2:], seconds=1.0, peak_bytes=10**9))
    assert growth.main(["--output", str(tmp_path)]) == 0
    kept = json.loads((tmp_path / "growth.json").read_text())
    assert sorted((p["pictures"], p["epochs"], p["size"]) for p in kept["points"]) == [
        (8, 1, 32), (8, 1, 64), (8, 1, 384), (8, 2, 384), (16, 1, 384),
    ]  # fmt: skip
    with Image.open(tmp_path / "growth.png") as drawn:
        assert drawn.width > 500
    point = growth.measure("compact", "cpu", 16, 1, 64)
    assert (point.pictures, point.size) == (16, 64) and point.seconds > 0 and point.peak_bytes > 10**8
