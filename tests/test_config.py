"""Configuration and recipe: the paper's values, bounds on every field, and older versions."""

import json
from typing import Any

import pytest

from ast_hf import ASTDetectorConfig, ConfigError, TrainingRecipe
from ast_hf.config import CONFIG_VERSION, PRESETS, parse_overrides


@pytest.mark.parametrize("name", PRESETS)
def test_presets_survive_json(name: str) -> None:
    for record in (ASTDetectorConfig.preset(name), TrainingRecipe.preset(name)):
        assert type(record).from_dict(json.loads(json.dumps(record.to_dict()))) == record
        assert hash(record) == hash(type(record).preset(name))


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("mvtec-ad", (3.0, 1024, "mean", 240)),
        ("mvtec-3d-ad", (1.9, 64, "max", 72)),
        ("mvtec-3d-ad-rgb", (1.9, 64, "mean", 72)),
    ],
)
def test_presets_are_the_papers(name: str, values: tuple[object, ...]) -> None:
    config, recipe = ASTDetectorConfig.preset(name), TrainingRecipe.preset(name)
    assert (config.coupling_clamp, config.teacher_channels, config.image_score, recipe.epochs) == values
    assert config.coupling_blocks == 4


ABSURD: dict[str, list[Any]] = {
    "modality": ["infrared"],
    "image_size": [10**9, 768.0, True],
    "image_bits": [7, 17, 12.5],
    "depth_range": [(0.4,), (float("nan"), 0.5), 0.5],
    "backbone": ["", 5, "hf-hub:someone/else", "local-dir:/tmp", "a/b"],
    "backbone_padding": [-1],
    "feature_channels": [10**400],
    "feature_normalization": [["none"]],
    "depth_unshuffle": [7],
    "position_channels": [30],
    "coupling_kernel_sizes": [(), (3, 3, 4), "3335", (3, None)],
    "coupling_clamp": [float("nan"), 0],
    "student_channels": ["many"],
    "image_score": [None],
    "learning_rate": [0],
    "precision": ["fp8"],
    "epochs": [1.5],
}


@pytest.mark.parametrize(("field", "value"), [(field, value) for field in ABSURD for value in ABSURD[field]])
def test_absurd_values_are_refused_by_name(field: str, value: Any) -> None:
    record = TrainingRecipe if hasattr(TrainingRecipe, field) else ASTDetectorConfig.preset
    with pytest.raises(ConfigError, match=field):
        record(**{field: value}) if record is TrainingRecipe else record("mvtec-3d-ad", **{field: value})


def test_other_versions_are_upgraded_or_refused() -> None:
    values = ASTDetectorConfig().to_dict()
    second = {k: v for k, v in values.items() if k not in ("image_bits", "depth_range")} | {"config_version": 2}
    before = {**second, "config_version": 1, "coupling_blocks": 4}
    assert ASTDetectorConfig.from_dict(before) == ASTDetectorConfig.from_dict(second) == ASTDetectorConfig()
    changes: list[tuple[dict[str, Any], str]] = [({**values, "extra": 1}, "extra")]
    changes += [({k: v for k, v in values.items() if k != "backbone"}, "backbone")]
    changes += [({**values, "config_version": v}, "config_version") for v in (0, CONFIG_VERSION + 1, "1", None, [1])]
    changes += [({**before, "coupling_blocks": blocks}, "coupling_blocks") for blocks in (3, None, "4")]
    for changed, message in changes:
        with pytest.raises(ConfigError, match=message):
            ASTDetectorConfig.from_dict(changed)


def test_parse_overrides() -> None:
    changes = ["image_size=384", "coupling_kernel_sizes=[3,3]", "backbone=resnet18", "learning_rate=1e-3"]
    config = {"image_size": 384, "coupling_kernel_sizes": [3, 3], "backbone": "resnet18"}
    assert parse_overrides(changes) == (config, {"learning_rate": 1e-3})
    for wrong in ("image_size", "colour=red"):
        with pytest.raises(ConfigError, match="FIELD=VALUE"):
            parse_overrides([wrong])


def test_epochs_are_more_where_steps_are_few_and_never_too_many() -> None:
    recipe = TrainingRecipe(epochs=12, min_steps=120, max_epochs=40, batch_size=8)
    assert [recipe.epochs_for(count) for count in (800, 80, 30, 8, 3)] == [12, 12, 40, 40, 40]
    assert TrainingRecipe(epochs=12, min_steps=120).epochs_for(24) == 40
    assert TrainingRecipe(epochs=240).epochs_for(8) == 240


def test_what_contradicts_itself_is_refused() -> None:
    for message, changes in {
        "square, give one number": {"modality": "rgb+depth", "image_size": (256, 640)},
        "student_kernel_size=2 is even": {"student_kernel_size": 2},
        "there are 304 input channels": {"feature_projection": 305},
    }.items():
        with pytest.raises(ConfigError, match=message):
            ASTDetectorConfig(**changes)
