"""What a detector is (`ASTDetectorConfig`) and how it is trained (`TrainingRecipe`), with the presets of both.

Types and bounds are checked by huggingface_hub's strict dataclasses, which read annotations: hence none are postponed.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from huggingface_hub.dataclasses import strict

from ast_hf._fields import Record, bounded, identifier
from ast_hf._presets import PRESETS as PRESETS  # from where others take it
from ast_hf._upgrades import CONFIG_VERSION, upgrade
from ast_hf.errors import ConfigError

PRETRAINED = "pretrained"  # backbone weights: timm's from the Hub, or those that come with the package
DEFAULT_FALSE_POSITIVE_RATE = 0.05
MAX_IMAGE_SIDE = 16384  # of what pictures are resized to, in pixels

# "auto" is bf16 where that is faster; "fp32" is exact and, on one machine, the same to the bit at every run.
Precision: TypeAlias = Literal["auto", "fp32", "bf16"]


@strict
@dataclass(frozen=True)
class ASTDetectorConfig(Record):
    """Everything that fixes what a detector computes; `config.json` of a checkpoint holds exactly these fields.

    The defaults are the paper's RGB model (Rudolph et al., WACV 2023, section 4.2) on MVTec AD. Raises a `ConfigError`
    where a field has the wrong type, lies outside its bounds, or contradicts another.
    """

    # What goes in: a picture, a height map, or both of one part, pixel by pixel.
    modality: Literal["rgb", "depth", "rgb+depth"] = "rgb"
    # Pictures are resized to this many pixels square, aspect not kept, as the authors do; or to (height, width).
    image_size: int | tuple[int, int] = bounded(768, 32, 4096)
    # (rows, columns) of tiles of that size, which go through the backbone one by one: for small defects on large
    # pictures. Teacher and student learn from crops of a tile's size, an epoch from as many as there are tiles, and see
    # the whole map afterwards.
    tiles: tuple[int, int] = bounded((1, 1), 1, 32)
    # Whether a region of interest is part of the weights; what lies outside is neither seen nor scored.
    region: bool = False
    # Bits a colour of pictures that have more than 8 (the high 8 are seen), found by `train`; None where it saw none.
    image_bits: int | None = bounded(None, 8, 16)
    # What the backbone was trained with: mean and deviation of each colour in [0, 1] (ImageNet's, by default).
    image_mean: tuple[float, float, float] = bounded((0.485, 0.456, 0.406), 0.0, 1.0)
    image_std: tuple[float, float, float] = bounded((0.229, 0.224, 0.225), 1e-3, 1.0)
    # A timm network, and the path of the module whose output is the feature map; of several, in the order they run in,
    # the maps are averaged over the cells of the last one's and laid side by side.
    backbone: str = identifier("tf_efficientnet_b5.aa_in1k")
    backbone_layer: str | tuple[str, ...] = identifier("blocks.5")
    # Every SAME convolution padded once and for all as a picture of this many pixels would need. 456 is what
    # `efficientnet_pytorch`, and so the paper, does for B5 whatever the real size; None is the network's own padding.
    backbone_padding: int | None = bounded(456, 32, 4096)
    # "fp32" makes the features exactly wherever the rest is computed in bf16, as "auto" does not.
    backbone_precision: Literal["auto", "fp32"] = "auto"
    feature_channels: int = bounded(304, 1, 8192)
    # "channel" standardises each input channel by its mean and deviation over the training set. Not in the paper.
    feature_normalization: Literal["none", "channel"] = "none"
    # Teacher and student see this many principal components of the (standardised) inputs over the training set, on one
    # common scale; 0 leaves the inputs as they are. Not in the paper.
    feature_projection: int = bounded(0, 0, 8192)
    # Height maps are resized to depth_size square; depth_unshuffle x depth_unshuffle pixels of them become channels.
    depth_size: int = bounded(192, 8, 4096)
    depth_unshuffle: int = bounded(8, 1, 64)
    # Lowest and highest z in the training set's scans, in metres; `train` finds them, and scans elsewhere are refused.
    depth_range: tuple[float, float] | None = bounded(None, -100.0, 100.0)
    # Channels of the 2D sine/cosine positional encoding, a multiple of 4; 0 leaves it out.
    position_channels: int = bounded(32, 0, 1024)
    # The teacher: one kernel size a coupling block; the clamp is the paper's alpha.
    coupling_kernel_sizes: tuple[int, ...] = bounded((3, 3, 3, 5), 1, 15)
    coupling_clamp: float = bounded(3.0, 1e-3, 1e3)
    teacher_channels: int = bounded(1024, 1, 8192)
    # The student. The paper says slope 0.2; the released code has PyTorch's default, and that is what was measured.
    student_channels: int = bounded(1024, 1, 8192)
    student_blocks: int = bounded(4, 0, 64)
    student_kernel_size: int = bounded(3, 1, 15)
    student_negative_slope: float = bounded(0.01, 0.0, 1.0)
    # A second, local pair: widths of its teacher and its student, of 1 x 1 convolutions, so that a cell is judged by
    # its own features and place. The map is wide^(1 - local_share) * local^local_share. None is the paper's one pair.
    local_channels: tuple[int, int] | None = bounded(None, 1, 8192)
    local_share: float = bounded(0.7, 0.0, 1.0)
    # How a map becomes one number: "max" where a foreground mask exists, "mean" in RGB alone (paper, section 3.4);
    # "top" is the mean of its highest cells, of this fraction of one tile. Not in the paper.
    image_score: Literal["mean", "max", "top"] = "mean"
    image_score_fraction: float = bounded(0.1, 1e-4, 1.0)
    # Side of the square that the foreground is dilated with, in pixels of the height map; 0 uses no mask at all.
    foreground_dilation: int = bounded(8, 0, 256)

    def __post_init__(self) -> None:
        super().__post_init__()
        size, unshuffle, tiles, channels = self.depth_size, self.depth_unshuffle, self.tiles, self.input_channels
        if self.position_channels % 4:
            raise ConfigError(f"position_channels={self.position_channels} is not a multiple of 4.")
        if self.uses_depth and size % unshuffle:
            raise ConfigError(f"depth_size={size} is not a multiple of depth_unshuffle={unshuffle}.")
        if max(self.image_shape) > MAX_IMAGE_SIDE:
            most = f"{MAX_IMAGE_SIDE} pixels a side"
            raise ConfigError(f"tiles={tiles} of image_size={self.image_size} make more than {most}.")
        if self.uses_depth and tiles != (1, 1):
            raise ConfigError(f"tiles={tiles}: height maps are not cut into tiles; leave it at (1, 1).")
        if self.uses_depth and self.image_shape[0] != self.image_shape[1]:
            raise ConfigError(f"image_size={self.image_size}: with a height map, which is square, give one number.")
        if not 1 <= self.coupling_blocks <= 64 or not all(kernel % 2 for kernel in self.coupling_kernel_sizes):
            sizes = str(self.coupling_kernel_sizes)[:80]
            raise ConfigError(f"coupling_kernel_sizes={sizes}: give a list of at most 64 odd integers, one a block.")
        if self.student_kernel_size % 2 == 0:
            raise ConfigError(f"student_kernel_size={self.student_kernel_size} is even: give an odd one.")
        if self.feature_projection > channels:
            raise ConfigError(f"feature_projection={self.feature_projection}, but there are {channels} input channels.")
        if self.network_channels < 2:
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
    def tile_shape(self) -> tuple[int, int]:
        """(height, width) of what the backbone sees at once."""
        return self.image_size if isinstance(self.image_size, tuple) else (self.image_size, self.image_size)

    @property
    def image_shape(self) -> tuple[int, int]:
        """(height, width) that pictures are resized to: all tiles side by side."""
        return self.tile_shape[0] * self.tiles[0], self.tile_shape[1] * self.tiles[1]

    @property
    def backbone_layers(self) -> tuple[str, ...]:
        """Paths of the modules whose outputs are the features."""
        return self.backbone_layer if isinstance(self.backbone_layer, tuple) else (self.backbone_layer,)

    @property
    def input_channels(self) -> int:
        """Channels before standardisation and projection: image features, then the unshuffled height map."""
        return self.uses_rgb * self.feature_channels + self.uses_depth * self.depth_unshuffle**2

    @property
    def network_channels(self) -> int:
        """Channels that teacher and student see."""
        return self.feature_projection or self.input_channels

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready dict of the version and all fields, which `from_dict` reads back to an equal configuration."""
        return {"config_version": CONFIG_VERSION, **super().to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "ASTDetectorConfig":
        """Reads what `to_dict` wrote in this version or an older one; raises a `ConfigError` for anything else."""
        return super().from_dict(upgrade(values))


@strict
@dataclass(frozen=True)
class TrainingRecipe(Record):
    """How a detector is trained; the optimiser is Adam with PyTorch's betas (paper, section 4.2).

    Raises a `ConfigError` where a field has the wrong type or lies outside its bounds.
    """

    # Passes over the training set, for the teacher and then as many for the student; more, up to max_epochs, where
    # they would be fewer than min_steps of the optimiser.
    epochs: int = bounded(240, 1, 100_000)
    min_steps: int = bounded(0, 0, 1_000_000)
    max_epochs: int = bounded(100_000, 0, 100_000)
    # The last incomplete batch of an epoch is dropped.
    batch_size: int = bounded(8, 1, 4096)
    learning_rate: float = bounded(2e-4, 1e-9, 10.0)
    weight_decay: float = bounded(1e-5, 0.0, 1.0)
    # "one-cycle" raises the learning rate to learning_rate over a tenth of the steps, and lowers it to nothing.
    schedule: Literal["constant", "one-cycle"] = "constant"
    # Deviation of the Gaussian noise on the standardised inputs while teacher and student learn: directions and cells
    # that never vary in good parts would otherwise run away for nothing. Of the pair, and of the second, local one,
    # where the configuration has it. Not in the paper.
    feature_noise: float = bounded(0.0, 0.0, 10.0)
    local_noise: float = bounded(0.2, 0.0, 10.0)
    # Epochs of the second, local pair, whose steps cost half as much.
    local_epochs: int = bounded(24, 1, 100_000)
    # Whether `train` gives pictures their own median aspect, in multiples of 32 pixels and at the area of image_size,
    # where that is one number. Not in the paper.
    keep_aspect: bool = False
    # Part of the good images kept out of training for the threshold (never fewer than 8); 0 calibrates nothing.
    calibration_fraction: float = bounded(0.1, 0.0, 0.9)
    # Arithmetic of the convolutions while features are made and networks trained: "auto" is bf16 where the machine is
    # faster at it, "fp32" is exact; the flow's exponentials and log-determinants are always fp32.
    precision: Precision = "auto"

    def epochs_for(self, count: int) -> int:
        """The epochs of teacher and of student on so many samples."""
        steps = max(1, count // min(self.batch_size, max(count, 1)))
        return max(self.epochs, min(-(-self.min_steps // steps), self.max_epochs))


def parse_overrides(changes: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The fields of the configuration, and those of the recipe, that "FIELD=VALUE" texts (JSON or plain text) change.

    Raises a `ConfigError` where a text is no FIELD=VALUE, or neither has such a field.
    """
    found: tuple[dict[str, Any], dict[str, Any]] = ({}, {})
    fields = [{field.name for field in dataclasses.fields(cls)} for cls in (ASTDetectorConfig, TrainingRecipe)]
    for change in changes:
        name, equals, text = change.partition("=")
        places = [place for place, names in zip(found, fields, strict=True) if name in names]
        if not equals or not places:
            known = ", ".join(sorted(fields[0] | fields[1]))
            raise ConfigError(f"{change!r} is no FIELD=VALUE with a known field. Fields: {known}.")
        try:
            places[0][name] = json.loads(text)
        except ValueError:
            places[0][name] = text
    return found
