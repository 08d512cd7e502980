"""What a detector is (`ASTDetectorConfig`) and how it is trained (`TrainingRecipe`), with the presets of both.

Types and bounds are checked by huggingface_hub's strict dataclasses, which read annotations: hence none are postponed.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from huggingface_hub.dataclasses import strict

from ast_hf._fields import bounded, check_fields, from_json, identifier, odd_sizes, to_json
from ast_hf.errors import ConfigError

CONFIG_VERSION = 2
PRETRAINED = "pretrained"  # backbone weights: timm's from the Hub, or those that come with the package
DEFAULT_FALSE_POSITIVE_RATE = 0.05

# "auto" is bf16 where that is faster; "fp32" is exact and, on one machine, the same to the bit at every run.
Precision: TypeAlias = Literal["auto", "fp32", "bf16"]


@strict
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
    image_size: int = bounded(768, 32, 4096)
    # A timm network, or "ast-tiny", and the path of the module whose output is the feature map.
    backbone: str = identifier("tf_efficientnet_b5.aa_in1k")
    backbone_layer: str = identifier("blocks.5")
    # Every SAME convolution padded once and for all as a picture of this many pixels would need. 456 is what
    # `efficientnet_pytorch`, and so the paper, does for B5 whatever the real size; None is the network's own padding.
    backbone_padding: int | None = bounded(456, 32, 4096)
    feature_channels: int = bounded(304, 1, 8192)
    # "channel" standardises each input channel by its mean and deviation over the training set. Not in the paper.
    feature_normalization: Literal["none", "channel"] = "none"
    # Height maps are resized to depth_size square; depth_unshuffle x depth_unshuffle pixels of them become channels.
    depth_size: int = bounded(192, 8, 4096)
    depth_unshuffle: int = bounded(8, 1, 64)
    # Channels of the 2D sine/cosine positional encoding, a multiple of 4; 0 leaves it out.
    position_channels: int = bounded(32, 0, 1024)
    # The teacher: one kernel size a coupling block; the clamp is the paper's alpha.
    coupling_kernel_sizes: tuple[int, ...] = odd_sizes((3, 3, 3, 5))
    coupling_clamp: float = bounded(3.0, 1e-3, 1e3)
    teacher_channels: int = bounded(1024, 1, 8192)
    # The student. The paper says slope 0.2; the released code has PyTorch's default, and that is what was measured.
    student_channels: int = bounded(1024, 1, 8192)
    student_blocks: int = bounded(4, 0, 64)
    student_negative_slope: float = bounded(0.01, 0.0, 1.0)
    # How a map becomes one number: "max" where a foreground mask exists, "mean" in RGB alone (paper, section 3.4).
    image_score: Literal["mean", "max"] = "mean"
    # Side of the square that the foreground is dilated with, in pixels of the height map; 0 uses no mask at all.
    foreground_dilation: int = bounded(8, 0, 256)

    def __post_init__(self) -> None:
        check_fields(self)
        if self.position_channels % 4:
            raise ConfigError(f"position_channels={self.position_channels} is not a multiple of 4.")
        if self.uses_depth and self.depth_size % self.depth_unshuffle:
            raise ConfigError(
                f"depth_size={self.depth_size} is not a multiple of depth_unshuffle={self.depth_unshuffle}."
            )
        if self.input_channels < 2:
            raise ConfigError("A coupling needs two input channels or more: raise feature_channels or depth_unshuffle.")

    @property
    def coupling_blocks(self) -> int:
        """How many coupling blocks the teacher has."""
        return len(self.coupling_kernel_sizes)

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
    def preset(cls, name: str, **changes: Any) -> "ASTDetectorConfig":
        """The configuration of a benchmark, with `changes` to single fields.

        Args:
            name: One of `PRESETS`: "mvtec-ad", "visa", "mvtec-loco-ad", "mvtec-3d-ad", "mvtec-3d-ad-rgb",
                "mvtec-3d-ad-depth" follow the paper; "compact" is small and fast.
        """
        return cls(**{**_preset(name)[0], **changes})

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict that `from_dict` reads back to an equal configuration."""
        return {"config_version": CONFIG_VERSION, **to_json(self)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ASTDetectorConfig":
        """Reads what `to_dict` wrote, in this version of ast_hf or an older one.

        Raises:
            ConfigError: `values` comes from a newer version, lacks a field, or has one that is not known.
        """
        return from_json(cls, upgrade(values))


@strict
@dataclass(frozen=True)
class TrainingRecipe:
    """How a detector is trained; the optimiser is Adam with PyTorch's betas (paper, section 4.2).

    Raises:
        ConfigError: A field has the wrong type or lies outside its bounds.
    """

    # Passes over the training set, for the teacher and then as many for the student.
    epochs: int = bounded(240, 0, 100_000)
    # The last incomplete batch of an epoch is dropped.
    batch_size: int = bounded(8, 1, 4096)
    learning_rate: float = bounded(2e-4, 1e-9, 10.0)
    weight_decay: float = bounded(1e-5, 0.0, 1.0)
    # Part of the good images kept out of training for the threshold (never fewer than 8); 0 calibrates nothing.
    calibration_fraction: float = bounded(0.1, 0.0, 0.9)
    # Arithmetic of the convolutions while features are made and networks trained: "auto" is bf16 where the machine is
    # faster at it, "fp32" is exact; the flow's exponentials and log-determinants are always fp32.
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        check_fields(self)

    @classmethod
    def preset(cls, name: str, **changes: Any) -> "TrainingRecipe":
        """The recipe that goes with `ASTDetectorConfig.preset(name)`, with `changes` to single fields."""
        return cls(**{**_preset(name)[1], **changes})

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict of all fields."""
        return to_json(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "TrainingRecipe":
        """Reads what `to_dict` wrote; raises `ConfigError` for unknown or missing fields."""
        return from_json(cls, dict(values))


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
        {**_COMPACT, "backbone": "ast-tiny", "backbone_layer": "head", "feature_channels": 64},
        {"epochs": 12},
    ),
    "compact-b0": (
        {**_COMPACT, "backbone": "tf_efficientnet_b0.aa_in1k", "feature_channels": 192},
        {"epochs": 12},
    ),
}


def parse_overrides(changes: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
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
        if not isinstance(version, int) or version not in _UPGRADES:
            raise ConfigError(
                f"config_version is {str(version)[:80]!r}, and this version of ast_hf reads up to {CONFIG_VERSION}: "
                "upgrade ast_hf, or save the model again with it."
            )
        fields = {**_UPGRADES[version](fields), "config_version": version + 1}
    return fields


def _to_version_2(fields: dict[str, Any]) -> dict[str, Any]:
    """`coupling_blocks` went: it follows from `coupling_kernel_sizes`."""
    sizes, blocks = fields.get("coupling_kernel_sizes"), fields.pop("coupling_blocks", None)
    if not isinstance(sizes, (list, tuple)) or len(sizes) != blocks:
        raise ConfigError(f"coupling_blocks is {str(blocks)[:80]}, and coupling_kernel_sizes is {str(sizes)[:80]}.")
    return fields


# An older config_version -> what makes its fields those of the next version.
_UPGRADES: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: _to_version_2}


def _preset(name: str) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    if name not in PRESETS:
        raise ConfigError(f"There is no preset {name!r}. Presets: {', '.join(PRESETS)}.")
    return PRESETS[name]
