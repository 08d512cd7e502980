"""What speed is measured against computes the same, and the command prints and keeps what it measured."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ast_hf import ASTDetector, ASTDetectorConfig, TrainingRecipe
from ast_hf.data.point_cloud import fill_holes
from ast_hf.inference import Predictor
from ast_hf.training.features import PreparedSamples
from ast_hf.training.trainer import fit
from benchmark import reference, speed
from benchmark.speed import Measurement
from tests import tiny

SMALL = ["image_size=64", "feature_projection=0", "teacher_channels=8", "student_channels=8", "student_blocks=1"]
SMALL += [f"{name}={value}" for name, value in tiny.BACKBONE.items()]


def detector_of(preset: str, **changes: int | None) -> ASTDetector:
    torch.manual_seed(0)
    return ASTDetector(ASTDetectorConfig.preset(preset, teacher_channels=8, student_channels=8, **changes))


@pytest.mark.parametrize(("preset", "padding"), [("compact", None), ("compact-b0", 224)])
def test_the_reference_gives_the_same_map(preset: str, padding: int | None) -> None:
    detector = detector_of(preset, image_size=160, backbone_padding=padding)
    eager = reference.eager_copy(detector)
    ours = Predictor(detector, precision="fp32").predict(tiny.picture(0))
    theirs = reference.EagerPredictor(eager).predict(tiny.picture(0))
    assert ours.anomaly_map.shape == theirs.anomaly_map.shape == (60, 80)
    assert np.abs(ours.anomaly_map - theirs.anomaly_map).max() < 1e-4 * ours.anomaly_map.max()


def test_the_reference_has_the_authors_backbone_or_ours_in_the_default_layout() -> None:
    authors = reference.eager_copy(detector_of("compact-b0", image_size=64)).backbone
    assert type(authors[3]).__module__.startswith("efficientnet_pytorch")
    detector = detector_of("compact", image_size=64)
    ours, theirs = (
        [p.stride() == torch.empty(p.shape).stride() for p in each.backbone.parameters() if p.ndim == 4]
        for each in (detector, reference.eager_copy(detector))
    )
    assert all(theirs) and not any(ours)


def test_the_reference_learns_the_same() -> None:
    torch.manual_seed(0)
    ours = ASTDetector(tiny.config())
    theirs, ours_losses = reference.eager_copy(ours), []
    samples = PreparedSamples(torch.randn(4, ours.config.input_channels, *ours.map_size), None)
    # One batch an epoch, so that it holds the same samples in whatever order.
    recipe = TrainingRecipe(epochs=4, batch_size=4, learning_rate=1e-3, precision="fp32")
    fit(ours, samples, recipe, progress=lambda stage, done, total, loss: ours_losses.append(loss))
    losses = reference.fit(theirs, samples, recipe)
    assert losses == pytest.approx(ours_losses, rel=1e-3)
    assert losses[3] < losses[0] and losses[7] < losses[4] and not theirs.student.training


def test_pixel_by_pixel_is_the_authors_filling_and_ours(
    golden: Callable[[str], tuple[dict[str, Tensor], dict[str, str]]],
) -> None:
    scans, _ = golden("depth_preprocessing")
    filled = reference.fill_holes(scans["z_raw"].numpy(), 3)
    np.testing.assert_allclose(filled, scans["z_filled"].numpy(), rtol=1e-6, atol=0)
    np.testing.assert_allclose(filled, fill_holes(scans["z_raw"].numpy(), 3), rtol=1e-6, atol=0)


def test_contenders_take_turns_and_the_first_round_does_not_count() -> None:
    calls: list[str] = []

    def run(name: str) -> float:
        calls.append(name)
        return len(calls)

    assert speed.take_turns({"a": lambda: run("a"), "b": lambda: run("b")}, 2) == {"a": [3, 5], "b": [4, 6]}
    assert calls == ["a", "b"] * 3


def test_figures_are_medians_and_the_ratio_is_that_to_our_fastest() -> None:
    seconds = {"torch": [0.1, 0.2, 9.0], "openvino": [0.4, 0.1, 0.1], "reference": [0.8, 0.8, 0.8]}
    measurement = Measurement("x", seconds, {})
    assert measurement.milliseconds("torch") == pytest.approx(200)
    assert measurement.ratio == pytest.approx(8)
    assert math.isnan(measurement.milliseconds("compile")) and math.isnan(Measurement("x", {"torch": [1.0]}, {}).ratio)


def test_the_command_prints_a_table_and_keeps_every_repetition(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "speed.json"
    options = ["--preset", "compact", "--device", "cpu", "--rounds", "2", "--runtimes", "torch", "--output", str(file)]
    speed.main([*options, "--set", *SMALL])
    printed, kept = capsys.readouterr().out, json.loads(file.read_text())
    measured = {m["stage"]: m for m in kept["results"][0]["measurements"]}
    assert kept["results"][0]["preset"] == "compact" and kept["torch"] == torch.__version__.partition("+")[0]
    assert "CPU" in kept["device"] and "peak memory" in printed
    for stage in ("backbone", "teacher", "student", "one picture, file to map", "training step, 8 pictures"):
        assert stage in printed
        assert [len(measured[stage]["seconds"][who]) for who in ("torch", "reference")] == [2, 2]
    assert list(measured["load the detector"]["seconds"]) == ["torch"]
    assert all(10**8 < size < 10**11 for m in measured.values() for size in m["peak_bytes"].values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--peers"], "pip install anomalib"),
        (["--set", "studnt=8"], "no FIELD=VALUE"),
        (["--device", "gpu"], "The device gpu cannot be used"),
    ],
)
def test_what_cannot_be_measured_is_a_sentence(
    options: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "anomalib", None)  # as where it is not installed
    with pytest.raises(SystemExit, match="2"):
        speed.main(options)
    assert message in capsys.readouterr().err


@pytest.mark.gpu
def test_on_a_gpu_too(capsys: pytest.CaptureFixture[str]) -> None:
    speed.main(["--preset", "compact", "--device", "cuda", "--rounds", "1"])
    assert torch.cuda.get_device_name() in capsys.readouterr().out
