"""The networks, losses, maps and optimiser steps against values computed with the authors' code."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ast_hf import ASTDetector, ASTDetectorConfig, CheckpointError, TrainingRecipe, from_pretrained
from ast_hf.cli import main
from ast_hf.data.transforms import upsample_map
from ast_hf.nn.losses import image_score, nll_map
from ast_hf.original import load_original, load_original_state
from ast_hf.training.features import PreparedSamples
from ast_hf.training.trainer import fit
from tests.conftest import Golden


class GoldenFeatures(nn.Module):
    """Stands in for the backbone: the golden files start at the features."""

    def __init__(self, *args: object, **kwargs: object) -> None:
        super().__init__()

    def output_shape(self, size: int) -> tuple[int, int, int]:
        return 12, 6, 6

    def digest(self) -> str:
        return "0" * 64


@dataclass
class Case:
    """One golden file: the authors' values, the detector with their weights, its inputs and its dilated mask."""

    values: dict[str, Tensor]
    model: ASTDetector
    inputs: Tensor
    mask: Tensor | None


@pytest.fixture(params=["ast_rgb", "ast_combi"])
def case(request: pytest.FixtureRequest, golden: Golden, monkeypatch: pytest.MonkeyPatch) -> Case:
    for user in ("nn.network", "detector"):
        monkeypatch.setattr(f"ast_hf.{user}.build_backbone", GoldenFeatures)
    values, settings = golden(request.param)
    model = ASTDetector(golden_config(settings))
    load_original_state(model, *original_state(values))
    mask = model.map_mask(values["foreground"]) if model.config.uses_depth else None
    return Case(values, model, model.join_inputs(values["input_features"], values["depth"]), mask)


def golden_config(settings: dict[str, str]) -> ASTDetectorConfig:
    """Their settings under our names."""
    names = {"feature_channels": "image_feature_channels", "position_channels": "pos_enc_dim"}
    names |= {"teacher_channels": "teacher_hidden", "student_channels": "student_hidden"}
    names |= {"foreground_dilation": "dilation"} | {n: n for n in ("depth_size", "depth_unshuffle", "student_blocks")}
    fields: dict[str, Any] = {ours: int(settings[theirs]) for ours, theirs in names.items()}
    if settings["mode"] == "combi":
        fields |= {"modality": "rgb+depth", "image_score": "max"}
    return ASTDetectorConfig(image_size=192, coupling_clamp=float(settings["clamp"]), **fields)


def original_state(values: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The authors' two state dicts, teacher and student; their permutations are never in them."""
    starts = ("teacher.module_list", "student.")
    return [{k.partition(".")[2]: v for k, v in values.items() if k.startswith(start)} for start in starts]


def assert_close(actual: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    assert actual.shape == expected.shape
    assert (actual - expected).abs().max() <= tolerance * expected.abs().max()


def test_inputs(case: Case) -> None:
    assert_close(case.model.positional_encoding, case.values["positional_encoding"])
    assert torch.equal(case.inputs, case.values["teacher_input"])
    for block in range(4):
        permutation = case.model.teacher[2 * block].permutation
        assert torch.equal(permutation, case.values[f"teacher.permutation.permute_{block}"])
    if case.mask is not None:
        assert_close(case.mask, case.values["foreground_dilated_downsampled"])


@torch.no_grad()
def test_networks_losses_and_map(case: Case) -> None:
    values, output = case.values, case.model.score_inputs(case.inputs, case.mask)
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

    recipe = TrainingRecipe(epochs=3, batch_size=3, learning_rate=2e-4, weight_decay=1e-5, precision="fp32")
    case.model.double()
    mask = None if case.mask is None else case.mask.double()
    fit(case.model, PreparedSamples(case.inputs.double(), mask), recipe, progress=record)
    for stage, steps in losses.items():
        assert_close(torch.tensor(steps, dtype=torch.float64), case.values[f"{stage}_training_losses"], 1e-6)


@torch.no_grad()
def test_the_authors_files_convert_to_a_checkpoint_with_their_outputs(case: Case, tmp_path: Path) -> None:
    files = [tmp_path / "teacher.pth", tmp_path / "student.pth"]
    for state, file in zip(original_state(case.values), files, strict=True):
        torch.save(state, file)
    fields = [f"{k}={json.dumps(v)}" for k, v in case.model.config.to_dict().items() if k != "config_version"]
    convert = ["convert", "--output", str(tmp_path / "model"), "--set", *fields, "--preset", "mvtec-ad", "--"]
    assert main([*convert, *map(str, files[::-1])]) == 2
    assert not (tmp_path / "model").exists(), "the two files were swapped"
    assert main([*convert, *map(str, files)]) == 0
    expected = case.model.score_inputs(case.inputs, case.mask).anomaly_map
    for model in (load_original(*files, case.model.config), from_pretrained(tmp_path / "model", device="cpu")):
        assert torch.equal(model.score_inputs(case.inputs, case.mask).anomaly_map, expected)


def test_an_original_that_would_run_code_is_refused(tmp_path: Path) -> None:
    torch.save({"module_list.0": print}, tmp_path / "teacher.pth")
    with pytest.raises(CheckpointError, match="not a readable PyTorch state dict"):
        load_original(tmp_path / "teacher.pth", tmp_path / "teacher.pth", ASTDetectorConfig(modality="depth"))
