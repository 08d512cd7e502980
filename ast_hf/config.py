"""What a detector is (`ASTDetectorConfig`) and how it is trained (`TrainingRecipe`), with the presets of both."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, get_args

from ast_hf import tiny
from ast_hf.arithmetic import Precision
from ast_hf.errors import ConfigError

CONFIG_VERSION = 1
# An older config_version -> what makes its fields those of the next version.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {}

_Record = TypeVar("_Record", bound="ASTDetectorConfig | TrainingRecipe")

# Bounds of every number, inclusive: a config.json may come from a stranger, and a typing error in one number must not
# ask for a terabyte of weights.
_BOUNDS: dict[str, tuple[float, float]] = {
    "image_size": (32, 4096),
    "backbone_padding": (32, 4096),
    "feature_channels": (1, 8192),
    "depth_size": (8, 4096),
    "depth_unshuffle": (1, 64),
    "position_channels": (0, 1024),
    "coupling_blocks": (1, 64),
    "coupling_clamp": (1e-3, 1e3),
    "teacher_channels": (1, 8192),
    "student_channels": (1, 8192),
    "student_blocks": (0, 64),
    "student_negative_slope": (0.0, 1.0),
    "foreground_dilation": (0, 256),
    "epochs": (0, 100_000),
    "batch_size": (1, 4096),
    "learning_rate": (1e-9, 10.0),
    "weight_decay": (0.0, 1.0),
    "calibration_fraction": (0.0, 0.9),
}
_CHOICES: dict[str, tuple[str, ...]] = {
    "modality": ("rgb", "depth", "rgb+depth"),
    "feature_normalization": ("none", "channel"),
    "image_score": ("mean", "max"),
    "precision": get_args(Precision),
}


@dataclass(frozen=True)
class ASTDetectorConfig:
    """Everything that fixes what a detector computes; `config.json` of a checkpoint holds exactly these fields.

    The defaults are the paper's RGB model (Rudolph et al., WACV 2023, section 4.2) on MVTec AD.

    Raises:
        ConfigError: A field has the wrong type, lies outside its bounds, or contradicts another.
    """

    # What goes in: a picture, a height map, or both of one part, pixel by pixel.
    modality: Literal["rgb", "depth", "rgb+depth"] = "rgb"
    # Pictures are resized to this many pixels square, aspect not kept, as the authors do.
    image_size: int = 768
    # A timm network, or "ast-tiny", and the path of the module whose output is the feature map.
    backbone: str = "tf_efficientnet_b5.aa_in1k"
    backbone_layer: str = "blocks.5"
    # Every SAME convolution padded once and for all as a picture of this many pixels would need. 456 is what
    # `efficientnet_pytorch`, and so the paper, does for B5 whatever the real size; None is the network's own padding.
    backbone_padding: int | None = 456
    feature_channels: int = 304
    # "channel" standardises each input channel by its mean and deviation over the training set. Not in the paper.
    feature_normalization: Literal["none", "channel"] = "none"
    # Height maps are resized to depth_size square; depth_unshuffle x depth_unshuffle pixels of them become channels.
    depth_size: int = 192
    depth_unshuffle: int = 8
    # Channels of the 2D sine/cosine positional encoding, a multiple of 4; 0 leaves it out.
    position_channels: int = 32
    # The teacher: one kernel size a coupling block; the clamp is the paper's alpha.
    coupling_blocks: int = 4
    coupling_kernel_sizes: tuple[int, ...] = (3, 3, 3, 5)
    coupling_clamp: float = 3.0
    teacher_channels: int = 1024
    # The student. The paper says slope 0.2; the released code has PyTorch's default, and that is what was measured.
    student_channels: int = 1024
    student_blocks: int = 4
    student_negative_slope: float = 0.01
    # How a map becomes one number: "max" where a foreground mask exists, "mean" in RGB alone (paper, section 3.4).
    image_score: Literal["mean", "max"] = "mean"
    # Side of the square that the foreground is dilated with, in pixels of the height map; 0 uses no mask at all.
    foreground_dilation: int = 8

    def __post_init__(self) -> None:
        # JSON knows lists only; a tuple keeps the dataclass hashable and equal after a round trip.
        object.__setattr__(self, "coupling_kernel_sizes", _as_tuple(self.coupling_kernel_sizes))
        _check_fields(self)
        if len(self.coupling_kernel_sizes) != self.coupling_blocks:
            raise ConfigError(
                f"coupling_kernel_sizes has {len(self.coupling_kernel_sizes)} entries for "
                f"coupling_blocks={self.coupling_blocks}: give one odd kernel size a block."
            )
        for size in self.coupling_kernel_sizes:
            if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 15 or size % 2 == 0:
                raise ConfigError(f"coupling_kernel_sizes holds {size!r}: use odd integers from 1 to 15.")
        if self.position_channels % 4:
            raise ConfigError(f"position_channels={self.position_channels} is not a multiple of 4.")
        if self.uses_depth and self.depth_size % self.depth_unshuffle:
            raise ConfigError(
                f"depth_size={self.depth_size} is not a multiple of depth_unshuffle={self.depth_unshuffle}."
            )
        if self.input_channels < 2:
            raise ConfigError("A coupling needs two input channels or more: raise feature_channels or depth_unshuffle.")

    @property
    def uses_rgb(self) -> bool:
        """Whether pictures go in."""
        return self.modality != "depth"

    @property
    def uses_depth(self) -> bool:
        """Whether height maps go in, and with them a foreground mask."""
        return self.modality != "rgb"

    @property
    def input_channels(self) -> int:
        """Channels that teacher and student see: image features, then the unshuffled height map."""
        return self.uses_rgb * self.feature_channels + self.uses_depth * self.depth_unshuffle**2

    @classmethod
    def preset(cls, name: str, **changes: Any) -> ASTDetectorConfig:
        """The configuration of a benchmark, with `changes` to single fields.

        Args:
            name: One of `PRESETS`: "mvtec-ad", "visa", "mvtec-loco-ad", "mvtec-3d-ad", "mvtec-3d-ad-rgb",
                "mvtec-3d-ad-depth" follow the paper; "compact" is small and fast.
        """
        return cls(**{**_preset(name)[0], **changes})

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_dict` reads back to an equal configuration."""
        return {"config_version": CONFIG_VERSION, **_as_json(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> ASTDetectorConfig:
        """Reads what `to_dict` wrote, in this version of ast_hf or an older one.

        Raises:
            ConfigError: `values` comes from a newer version, lacks a field, or has one that is not known.
        """
        return _from_json(cls, upgrade(values))


@dataclass(frozen=True)
class TrainingRecipe:
    """How a detector is trained; the optimiser is Adam with PyTorch's betas (paper, section 4.2).

    Raises:
        ConfigError: A field has the wrong type or lies outside its bounds.
    """

    # Passes over the training set, for the teacher and then as many for the student.
    epochs: int = 240
    # The last incomplete batch of an epoch is dropped.
    batch_size: int = 8
    learning_rate: float = 2e-4
    weight_decay: float = 1e-5
    # Part of the good images kept out of training for the threshold (never fewer than 8); 0 calibrates nothing.
    calibration_fraction: float = 0.1
    # Arithmetic of the convolutions while features are made and networks trained: "auto" is bf16 where the machine is
    # faster at it, "fp32" is exact; the flow's exponentials and log-determinants are always fp32.
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        _check_fields(self)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> TrainingRecipe:
        """The recipe that goes with `ASTDetectorConfig.preset(name)`, with `changes` to single fields."""
        return cls(**{**_preset(name)[1], **changes})

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict of all fields."""
        return _as_json(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> TrainingRecipe:
        """Reads what `to_dict` wrote; raises `ConfigError` for unknown or missing fields."""
        return _from_json(cls, dict(values))


_MVTEC_3D = {"coupling_clamp": 1.9, "teacher_channels": 64}
_COMPACT = {
    "image_size": 384,
    "backbone_padding": None,
    "feature_normalization": "channel",
    "depth_size": 96,
    "coupling_clamp": 1.9,
    "teacher_channels": 64,
    "student_channels": 256,
}

# name -> (fields of the configuration, fields of the recipe) that differ from the defaults.
PRESETS: Mapping[str, tuple[Mapping[str, Any], Mapping[str, Any]]] = {
    "mvtec-ad": ({}, {}),
    # No recipe was published for these two; EfficientAD's authors ran AST's MVTec AD recipe on them.
    "visa": ({}, {}),
    "mvtec-loco-ad": ({}, {}),
    "mvtec-3d-ad": ({**_MVTEC_3D, "modality": "rgb+depth", "image_score": "max"}, {"epochs": 72}),
    "mvtec-3d-ad-rgb": (_MVTEC_3D, {"epochs": 72}),
    "mvtec-3d-ad-depth": ({**_MVTEC_3D, "modality": "depth", "image_score": "max"}, {"epochs": 72}),
    # Made for CPUs, with a backbone that needs no download.
    "compact": (
        {**_COMPACT, "backbone": tiny.NAME, "backbone_layer": "head", "feature_channels": tiny.CHANNELS},
        {"epochs": 12},
    ),
    "compact-b0": (
        {**_COMPACT, "backbone": "tf_efficientnet_b0.aa_in1k", "feature_channels": 192},
        {"epochs": 12},
    ),
}


def parse_changes(changes: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Reads "FIELD=VALUE" texts; values are JSON or plain text.

    Returns:
        The changes to fields of the configuration, and those to fields of the recipe.

    Raises:
        ConfigError: A text is no FIELD=VALUE, or neither has such a field.
    """
    found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    fields = [{field.name for field in dataclasses.fields(cls)} for cls in (ASTDetectorConfig, TrainingRecipe)]
    for change in changes:
        name, equals, text = change.partition("=")
        try:
            value = json.loads(text)
        except ValueError:
            value = text
        places = [place for place, names in zip(found, fields, strict=True) if name in names]
        if not equals or not places:
            known = ", ".join(sorted(fields[0] | fields[1]))
            raise ConfigError(f"{change!r} is no FIELD=VALUE with a known field. Fields: {known}.")
        places[0][name] = value
    return found


def upgrade(values: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a stored configuration as this version has them, brought there one version at a time.

    Raises:
        ConfigError: Its `config_version` is newer than this version of ast_hf, or none at all.
    """
    fields = dict(values)
    while (version := fields.pop("config_version", None)) != CONFIG_VERSION:
        if not isinstance(version, int) or version not in UPGRADES:
            raise ConfigError(
                f"config_version is {str(version)[:80]!r}, and this version of ast_hf reads up to {CONFIG_VERSION}: "
                "upgrade ast_hf, or save the model again with it."
            )
        fields = {**UPGRADES[version](fields), "config_version": version + 1}
    return fields


def _preset(name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}. Presets: {', '.join(PRESETS)}.")
    return PRESETS[name]


def _as_tuple(values: object) -> tuple[Any, ...]:
    if not isinstance(values, (list, tuple)) or len(values) > 64:
        raise ConfigError(f"coupling_kernel_sizes is {str(values)[:80]}: give a list of odd integers, one a block.")
    return tuple(values)


def _check_fields(record: Any) -> None:
    """Type, finiteness and bounds of every field of a configuration or recipe."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if field.name in _CHOICES:
            if value not in _CHOICES[field.name]:
                raise ConfigError(f"{field.name} is {value!r}: choose one of {', '.join(_CHOICES[field.name])}.")
        elif field.name in _BOUNDS:
            _check_number(field.name, value, is_float="float" in str(field.type), optional="None" in str(field.type))
        # No colon and no slash: timm takes "hf-hub:..." and "local-dir:..." for places to fetch a network from.
        elif field.type == "str" and (not isinstance(value, str) or not re.fullmatch(r"[\w.-]{1,200}", value)):
            raise ConfigError(f"{field.name} is {str(value)[:80]!r}: give a name of letters, digits, dots, - and _.")


def _check_number(name: str, value: object, *, is_float: bool, optional: bool) -> None:
    if value is None and optional:
        return
    kinds = (int, float) if is_float else (int,)
    low, high = _BOUNDS[name]
    if isinstance(value, bool) or not isinstance(value, kinds) or not math.isfinite(value) or not low <= value <= high:
        kind = "a number" if is_float else "an integer"
        raise ConfigError(f"{name} is {str(value)[:80]}: give {kind} from {low:g} to {high:g}.")


def _as_json(record: Any) -> dict[str, Any]:
    return {k: list(v) if isinstance(v, tuple) else v for k, v in dataclasses.asdict(record).items()}


def _from_json(cls: type[_Record], values: dict[str, Any]) -> _Record:
    known = {field.name for field in dataclasses.fields(cls)}
    if unknown := sorted(set(values) - known):
        raise ConfigError(f"Unknown fields for {cls.__name__}: {', '.join(map(str, unknown[:5]))}.")
    if missing := sorted(known - set(values)):
        raise ConfigError(f"Fields missing for {cls.__name__}: {', '.join(missing[:5])}.")
    return cls(**values)
