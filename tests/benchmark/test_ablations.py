"""The symmetric student is the teacher's twin, untrained, and trains like AST's own; trunks are exchanged."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from ast_hf import TrainingRecipe
from ast_hf.nn.student import Student
from ast_hf.training.features import PreparedSamples
from ast_hf.training.trainer import fit
from benchmark.experiment import SymmetricStudent, build_variant
from benchmark.jobs import AST, RANDOM_TRUNK, RAW_PATCHES, VARIANTS
from tests import tiny
from tests.benchmark.tiny_run import write_trunk


@pytest.mark.parametrize(("variant", "factor"), [("symmetric student", 1), ("symmetric student, 8 blocks", 2)])
@pytest.mark.parametrize("position_channels", [0, 8])
def test_a_symmetric_student_learns_what_the_teacher_gives(variant: str, factor: int, position_channels: int) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model = build_variant(tiny.config("depth", position_channels=position_channels), variant, 0, "pretrained")
    assert torch.equal(torch.rand(1), expected), "the caller's random numbers are left alone"
    assert isinstance(model.student, SymmetricStudent)
    count = [sum(p.numel() for p in network.parameters()) for network in (model.teacher, model.student)]
    assert count[1] == factor * count[0]
    inputs = torch.randn(8, model.config.input_channels, *model.map_size, generator=torch.Generator().manual_seed(0))
    losses: dict[str, list[float | None]] = {}
    fit(
        model,
        PreparedSamples(inputs, None),
        TrainingRecipe(epochs=6, learning_rate=1e-2),
        progress=lambda stage, done, total, loss=None: losses.setdefault(stage, []).append(loss),
    )
    first, *_, last = losses["student"]
    assert first is not None and last is not None and last < first
    assert model.score_inputs(inputs).anomaly_map.shape == (8, *model.map_size)


def test_raw_patches_are_mean_colours_side_by_side(tmp_path: Path) -> None:
    config = dataclasses.replace(tiny.config(), **VARIANTS[RAW_PATCHES])
    weights = str(write_trunk(tmp_path))  # of another network: the patches have none
    backbone = [build_variant(config, RAW_PATCHES, 0, weights).backbone for _ in range(2)][1]
    assert backbone is not None
    assert backbone.output_shape((96, 96)) == (192, 3, 3)
    x = torch.rand(2, 3, 64, 96)
    colours = torch.nn.functional.avg_pool2d(x, 4)
    torch.testing.assert_close(backbone(x), torch.nn.functional.pixel_unshuffle(colours, 8))


def test_a_random_trunk_is_another_of_the_same_kind(tmp_path: Path) -> None:
    weights = str(write_trunk(tmp_path))
    ast, *random = (build_variant(tiny.config(), v, 3, weights) for v in (AST, RANDOM_TRUNK, RANDOM_TRUNK))
    assert isinstance(ast.student, Student)
    digests = [model.backbone.digest() for model in (ast, *random) if model.backbone is not None]
    assert digests[1] == digests[2] != digests[0]
