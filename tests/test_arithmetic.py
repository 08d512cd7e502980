"""bf16 is used where it was asked for or is faster, nowhere else, and costs only its own rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from ast_hf import ASTDetector, CheckpointError, TrainingRecipe, train
from ast_hf.arithmetic import Precision, arithmetic, computes_in_bf16
from ast_hf.calibration import Calibration
from ast_hf.features import FeatureCache
from ast_hf.training import TrainingError
from tests import tiny

CPU = torch.device("cpu")


@pytest.fixture(params=[False, True])
def fast(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the machine is one with fast bf16."""
    monkeypatch.setattr("ast_hf.arithmetic.has_fast_bf16", lambda device: request.param)
    return bool(request.param)


def test_auto_is_what_the_machine_is_faster_at(fast: bool) -> None:
    assert [computes_in_bf16(CPU, precision) for precision in ("auto", "fp32", "bf16")] == [fast, False, True]
    for precision, expected in (("auto", fast), ("fp32", False), ("bf16", True)):
        with arithmetic(CPU, precision):  # type: ignore[arg-type]
            assert torch.is_autocast_enabled("cpu") is expected
        assert not torch.is_autocast_enabled("cpu")


def outputs(model: ASTDetector, precision: Precision) -> dict[str, torch.Tensor]:
    pixel_values = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode(), model.computing_in(precision):
        output = model(pixel_values)
    return {name: getattr(output, name) for name in ("anomaly_map", "score", "teacher_z", "student_z", "log_jac")}


def test_bf16_rounds_and_does_no_more() -> None:
    torch.manual_seed(0)
    model = ASTDetector(tiny.config())
    with torch.no_grad():
        for coupling in model.teacher.module_list[1::2]:
            coupling.net1.gamma.fill_(0.5), coupling.net2.gamma.fill_(0.5)
    exact, rounded, again = (outputs(model, precision) for precision in ("fp32", "bf16", "fp32"))
    for name, expected in exact.items():
        assert rounded[name].dtype == torch.float32
        assert torch.equal(again[name], expected)  # nothing of the bf16 pass is left behind
        error = (rounded[name] - expected).abs().max() / expected.abs().max()
        assert 0 < error < 0.03, name


def test_a_detector_gets_its_precision_back(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ASTDetector(tiny.config())
    with pytest.raises(TrainingError), model.computing_in("bf16"):
        assert model.precision == "bf16"
        raise TrainingError("stop")
    assert model.precision == "auto"


def test_features_of_the_two_are_kept_apart(tmp_path: Path, fast: bool) -> None:
    model, paths = ASTDetector(tiny.config()), []
    for precision in ("fp32", "bf16", "auto"):
        with model.computing_in(precision):  # type: ignore[arg-type]
            paths.append(FeatureCache(tmp_path, model).path(tiny.picture(0)))
    assert paths[0] != paths[1] and paths[2] == paths[fast]


@pytest.mark.parametrize("modality", ["rgb", "rgb+depth"])
def test_training_in_bf16_learns_the_same(modality: str, tmp_path: Path) -> None:
    pictures = [tiny.picture(seed) for seed in range(16)]
    points = [tiny.scan(seed) for seed in range(16)] if modality != "rgb" else None
    scores = []
    for precision in ("fp32", "bf16"):
        recipe = TrainingRecipe(epochs=3, precision=precision)  # type: ignore[arg-type]
        torch.manual_seed(0)  # the trunk's weights, which nobody trains
        model = train(
            tiny.config(modality), pictures, recipe, points=points, backbone_weights=None, cache_folder=tmp_path
        )
        assert model.precision == "auto"
        assert {p.dtype for p in model.parameters()} == {torch.float32}
        scores.append(model.predict(tiny.picture(99, defect=True), None if points is None else tiny.scan(99)).score)
    assert scores[1] == pytest.approx(scores[0], rel=0.05)
    assert scores[1] != scores[0]


@pytest.mark.parametrize("precision", ["fp32", "bf16", "auto"])
def test_a_threshold_is_for_scores_of_its_own_arithmetic(precision: str, fast: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    pictures = [tiny.picture(seed) for seed in range(12)]
    recipe = TrainingRecipe(epochs=1, precision=precision)  # type: ignore[arg-type]
    model = train(tiny.config(), pictures, recipe, backbone_weights=None, cache_folder=tmp_path / "cache")
    assert model.calibration is not None
    in_bf16 = computes_in_bf16(CPU, recipe.precision)
    assert model.calibration.precision == ("bf16" if in_bf16 else "fp32")
    model.save_pretrained(tmp_path / "model")
    loaded = ASTDetector.from_pretrained(tmp_path / "model", device="cpu")
    assert loaded.calibration == model.calibration
    assert computes_in_bf16(CPU, loaded.effective_precision) == (in_bf16 and fast)
    with loaded.computing_in("bf16"):
        assert loaded.effective_precision == "bf16", "what is asked for is done"


def test_calibrations_without_a_precision_are_of_fp32() -> None:
    values = Calibration((1.0,), (2.0,)).to_dict()
    assert Calibration.from_dict({k: v for k, v in values.items() if k != "precision"}).precision == "fp32"
    with pytest.raises(CheckpointError, match="fp32 or bf16"):
        Calibration.from_dict({**values, "precision": "fp8"})
