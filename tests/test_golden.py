"""The networks, losses, maps and optimiser steps against values computed with the authors' code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from ast_hf import ASTDetector, ASTDetectorConfig, TrainingRecipe
from ast_hf.features import PreparedParts
from ast_hf.images import upsample_map
from ast_hf.original import load_original, load_original_state
from ast_hf.scoring import image_score, nll_map
from ast_hf.training import fit


class GoldenFeatures(nn.Module):
    """Stands in for the backbone: the golden files start at the features."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def output_shape(self, size: int) -> tuple[int, int, int]:
        return 12, 6, 6


@dataclass
class Case:
    """One golden file: the authors' values, the detector with their weights, and its dilated mask."""

    values: dict[str, Tensor]
    model: ASTDetector

    @property
    def mask(self) -> Tensor | None:
        return self.model.mask(self.values["foreground"]) if self.model.config.uses_depth else None

    @property
    def inputs(self) -> Tensor:
        return self.model.join(self.values["input_features"], self.values["depth"])


@pytest.fixture(params=["ast_rgb", "ast_combi"])
def case(
    request: pytest.FixtureRequest,
    golden: Callable[[str], dict[str, Tensor]],
    golden_metadata: Callable[[str], dict[str, str]],
    monkeypatch: pytest.MonkeyPatch,
) -> Case:
    monkeypatch.setattr("ast_hf.model.FeatureExtractor", GoldenFeatures)
    values = golden(request.param)
    model = ASTDetector(golden_config(golden_metadata(request.param)))
    load_original_state(model, *original_state(values))
    return Case(values, model)


def golden_config(settings: dict[str, str]) -> ASTDetectorConfig:
    combined = settings["mode"] == "combi"
    return ASTDetectorConfig(
        modality="rgb+depth" if combined else "rgb",
        image_size=192,
        feature_channels=int(settings["image_feature_channels"]),
        depth_size=int(settings["depth_size"]),
        depth_unshuffle=int(settings["depth_unshuffle"]),
        position_channels=int(settings["pos_enc_dim"]),
        coupling_clamp=float(settings["clamp"]),
        teacher_channels=int(settings["teacher_hidden"]),
        student_channels=int(settings["student_hidden"]),
        student_blocks=int(settings["student_blocks"]),
        image_score="max" if combined else "mean",
        foreground_dilation=int(settings["dilation"]),
    )


def original_state(values: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """The authors' two state dicts; their permutations are never in them."""
    teacher = {k.removeprefix("teacher."): v for k, v in values.items() if k.startswith("teacher.module_list")}
    student = {k.removeprefix("student."): v for k, v in values.items() if k.startswith("student.")}
    return teacher, student


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_inputs(case: Case) -> None:
    assert_close(case.model.position, case.values["positional_encoding"])
    assert torch.equal(case.inputs, case.values["teacher_input"])
    for block in range(4):
        permutation = case.model.teacher[2 * block].permutation
        assert torch.equal(permutation, case.values[f"teacher.permutation.permute_{block}"])
    if case.mask is not None:
        assert_close(case.mask, case.values["foreground_dilated_downsampled"])


@torch.no_grad()
def test_networks_losses_and_map(case: Case) -> None:
    values, output = case.values, case.model.compare(case.inputs, case.mask)
    assert_close(output.teacher_z, values["teacher_z"])
    assert_close(output.log_jac, values["teacher_log_jac"])
    assert_close(output.student_z, values["student_z"])
    for name, losses in (("nf", nll_map(output.teacher_z, output.log_jac, case.mask)), ("st", output.anomaly_map)):
        assert_close(losses, values[f"{name}_loss_per_pixel"])
        assert_close(losses.mean(dim=(1, 2)), values[f"{name}_loss_per_sample"])
        assert_close(losses.mean(), values[f"{name}_loss"])
    # The authors' evaluation masks a second time, upsamples, and only then takes the maximum.
    masked_twice = output.anomaly_map if case.mask is None else output.anomaly_map * case.mask[:, 0]
    upsampled = upsample_map(masked_twice, (12, 12))
    assert_close(upsampled, values["anomaly_map"])
    assert_close(image_score(upsampled, "max"), values["score_max"])
    assert_close(image_score(output.anomaly_map, "mean"), values["score_mean"])
    assert torch.equal(output.score, image_score(output.anomaly_map, case.model.config.image_score))


def test_three_optimiser_steps(case: Case) -> None:
    losses: dict[str, list[float]] = {"teacher": [], "student": []}

    def record(stage: str, done: int, total: int, loss: float | None = None) -> None:
        assert loss is not None
        losses[stage].append(loss)

    recipe = TrainingRecipe(epochs=3, batch_size=3, learning_rate=2e-4, weight_decay=1e-5, calibration_fraction=0)
    case.model.double()
    mask = None if case.mask is None else case.mask.double()
    fit(case.model, PreparedParts(case.inputs.double(), mask), recipe, progress=record)
    for stage, steps in losses.items():
        assert_close(torch.tensor(steps, dtype=torch.float64), case.values[f"{stage}_training_losses"], 1e-6)


def test_load_original_reads_the_authors_files(case: Case, tmp_path, golden_metadata) -> None:
    teacher, student = original_state(case.values)
    torch.save(teacher, tmp_path / "teacher.pth")
    torch.save(student, tmp_path / "student.pth")
    loaded = load_original(tmp_path / "teacher.pth", tmp_path / "student.pth", case.model.config, backbone_weights=None)
    with torch.no_grad():
        expected, actual = case.model.compare(case.inputs, case.mask), loaded.compare(case.inputs, case.mask)
    assert torch.equal(actual.anomaly_map, expected.anomaly_map)
