from __future__ import annotations

import json
from typing import Any

import pytest

from ast_hf import ASTDetector, ASTDetectorConfig, ConfigError, TrainingRecipe
from ast_hf.config import PRESETS, parse_changes


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    config, recipe = ASTDetectorConfig.preset(name), TrainingRecipe.preset(name)
    assert ASTDetectorConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert TrainingRecipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert hash(config) == hash(ASTDetectorConfig.preset(name))


def test_presets_are_the_papers() -> None:
    mvtec, combined = ASTDetectorConfig.preset("mvtec-ad"), ASTDetectorConfig.preset("mvtec-3d-ad")
    assert (mvtec.coupling_clamp, mvtec.teacher_channels, mvtec.image_score) == (3.0, 1024, "mean")
    assert (combined.coupling_clamp, combined.teacher_channels, combined.image_score) == (1.9, 64, "max")
    assert (TrainingRecipe.preset("mvtec-ad").epochs, TrainingRecipe.preset("mvtec-3d-ad").epochs) == (240, 72)
    assert ASTDetectorConfig.preset("mvtec-3d-ad-rgb").image_score == "mean"


# Counted in the authors' code (thousands).
@pytest.mark.parametrize(
    ("preset", "teacher", "student"),
    [
        ("mvtec-3d-ad", 3_891, 82_601),
        ("mvtec-3d-ad-depth", 853, 76_998),
        ("mvtec-3d-ad-rgb", 3_251, 81_422),
        ("mvtec-ad", 51_981, 81_422),
    ],
)
def test_parameter_counts(preset: str, teacher: int, student: int, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    with torch.device("meta"):
        model = ASTDetector(ASTDetectorConfig.preset(preset))
    counts = [sum(p.numel() for p in network.parameters()) for network in (model.teacher, model.student)]
    # The authors' student has one parameter more, which it never uses.
    assert [round(count / 1000) for count in counts] == [teacher, student]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modality", "infrared"),
        ("image_size", 10**9),
        ("image_size", 768.0),
        ("image_size", True),
        ("backbone", ""),
        ("backbone", 5),
        ("backbone_padding", -1),
        ("position_channels", 30),
        ("coupling_clamp", float("nan")),
        ("coupling_clamp", 0),
        ("coupling_kernel_sizes", (3, 3)),
        ("coupling_kernel_sizes", (3, 3, 3, 4)),
        ("coupling_kernel_sizes", "3335"),
        ("coupling_kernel_sizes", (3, 3, 3, None)),
        ("student_channels", "many"),
        ("image_score", None),
        ("feature_normalization", ["none"]),
    ],
)
def test_absurd_values_are_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=field):
        ASTDetectorConfig(**{field: value})


def test_depth_size_must_unshuffle() -> None:
    with pytest.raises(ConfigError, match="depth_unshuffle"):
        ASTDetectorConfig(modality="depth", depth_size=100, depth_unshuffle=8)


def test_unknown_missing_and_newer_are_refused() -> None:
    values = ASTDetectorConfig().to_dict()
    with pytest.raises(ConfigError, match="extra"):
        ASTDetectorConfig.from_dict({**values, "extra": 1})
    with pytest.raises(ConfigError, match="backbone"):
        ASTDetectorConfig.from_dict({k: v for k, v in values.items() if k != "backbone"})
    with pytest.raises(ConfigError, match="config_version"):
        ASTDetectorConfig.from_dict({**values, "config_version": 99})
    with pytest.raises(ConfigError, match=r"no preset 'mvtec'.*mvtec-ad"):
        ASTDetectorConfig.preset("mvtec")


def test_recipe_bounds() -> None:
    with pytest.raises(ConfigError, match="learning_rate"):
        TrainingRecipe(learning_rate=0)
    with pytest.raises(ConfigError, match="batch_size"):
        TrainingRecipe(batch_size=0)


def test_parse_changes() -> None:
    changes = ["image_size=384", "coupling_kernel_sizes=[3,3]", "backbone=resnet18", "learning_rate=1e-3"]
    config, recipe = parse_changes(changes)
    assert config == {"image_size": 384, "coupling_kernel_sizes": [3, 3], "backbone": "resnet18"}
    assert recipe == {"learning_rate": 1e-3}
    for wrong in ("image_size", "colour=red"):
        with pytest.raises(ConfigError, match="FIELD=VALUE"):
            parse_changes([wrong])
