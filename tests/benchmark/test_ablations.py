"""The symmetric student is the teacher's twin, untrained, and trains like AST's own."""

from __future__ import annotations

import pytest
import torch

from ast_hf import TrainingRecipe
from ast_hf.backbone import FeatureExtractor
from ast_hf.features import PreparedParts
from ast_hf.model import ASTDetector
from ast_hf.training import fit
from benchmark.ablations import AST, SymmetricStudent, change_model
from tests import tiny


@pytest.mark.parametrize(("variant", "factor"), [("symmetric student", 1), ("symmetric student, 8 blocks", 2)])
@pytest.mark.parametrize("position_channels", [0, 8])
def test_a_symmetric_student_learns_what_the_teacher_gives(variant: str, factor: int, position_channels: int) -> None:
    model = ASTDetector(tiny.config("depth", position_channels=position_channels))
    change_model(model, variant, seed=0)
    assert isinstance(model.student, SymmetricStudent)
    count = [sum(p.numel() for p in network.parameters()) for network in (model.teacher, model.student)]
    assert count[1] == factor * count[0]
    inputs = torch.randn(8, model.config.input_channels, *model.map_size, generator=torch.Generator().manual_seed(0))
    losses: dict[str, list[float]] = {}
    fit(
        model,
        PreparedParts(inputs, None),
        TrainingRecipe(epochs=6, learning_rate=1e-2),
        progress=lambda stage, done, total, loss=None: losses.setdefault(stage, []).append(loss),
    )
    assert losses["student"][-1] < losses["student"][0]
    assert model.compare(inputs).anomaly_map.shape == (8, *model.map_size)


def test_ast_keeps_its_own_student_and_the_callers_random_numbers() -> None:
    model = ASTDetector(tiny.config("depth"))
    student = model.student
    change_model(model, AST, seed=0)
    assert model.student is student
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    change_model(model, "symmetric student", seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_raw_patches_are_mean_colours_side_by_side() -> None:
    backbone = FeatureExtractor("raw_patches", "patches", weights="pretrained")
    assert backbone.output_shape(96) == (192, 3, 3)
    x = torch.rand(2, 3, 64, 96)
    colours = torch.nn.functional.avg_pool2d(x, 4)
    torch.testing.assert_close(backbone(x), torch.nn.functional.pixel_unshuffle(colours, 8))


def test_a_random_trunk_is_another_of_the_same_kind() -> None:
    model = ASTDetector(tiny.config())
    before = model.backbone
    assert before is not None
    change_model(model, "random trunk", seed=3)
    digests = {before.digest(), model.backbone.digest()}  # type: ignore[union-attr]
    again = ASTDetector(tiny.config())
    change_model(again, "random trunk", seed=3)
    assert len(digests) == 2 and again.backbone.digest() in digests  # type: ignore[union-attr]
    assert model.backbone.output_shape(64) == before.output_shape(64)  # type: ignore[union-attr]
