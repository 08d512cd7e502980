"""`ASTNetwork`: frozen backbone, teacher and student; where the two disagree there is a defect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, interpolate, max_pool2d, pad, pixel_unshuffle

from ast_hf.config import ASTDetectorConfig
from ast_hf.errors import ConfigError
from ast_hf.nn.flow import build_teacher, positional_encoding
from ast_hf.nn.losses import distance_map, image_score
from ast_hf.nn.precision import at_least_fp32
from ast_hf.nn.student import Student

if TYPE_CHECKING:
    from ast_hf.nn.backbone import Backbone


@dataclass(frozen=True)
class ASTOutput:
    """What one forward pass gives; C channels and an h x w map, both fixed by the configuration."""

    anomaly_map: Tensor  # (B, h, w), not negative
    score: Tensor  # (B,)
    teacher_z: Tensor  # (B, C, h, w)
    student_z: Tensor  # (B, C, h, w)
    log_jac: Tensor  # (B, h, w), log-determinant of the teacher at each pixel
    mask: Tensor | None  # (B, 1, h, w) in [0, 1], the mask that was used


class ASTNetwork(nn.Module):
    """Asymmetric student-teacher network (Rudolph et al., WACV 2023).

    Args:
        config: What to build.
        backbone_weights: None leaves the backbone random, to be loaded over; "pretrained" takes timm's weights from
            the Hub; a path reads a safetensors file in timm's key names.

    Attributes:
        backbone: The frozen `Backbone`, or None where only depth goes in.
        teacher: The flow, `flow.build_teacher`.
        student: The `Student`.
        map_size: (h, w) of the feature map.

    Raises:
        ConfigError: Backbone and configuration do not fit together.
    """

    positional_encoding: Tensor
    input_mean: Tensor
    input_std: Tensor
    projection: Tensor

    def __init__(self, config: ASTDetectorConfig, *, backbone_weights: str | Path | None = None) -> None:
        super().__init__()
        self.config = config
        self.backbone = build_backbone(config, backbone_weights) if config.uses_rgb else None
        self.map_size = _map_size(config, self.backbone)
        encoding = torch.empty(config.position_channels, *self.map_size)
        if not encoding.is_meta:  # where nothing is computed, so that a stranger's configuration costs no memory
            encoding = positional_encoding(*encoding.shape)
        self.register_buffer("positional_encoding", encoding)
        if config.feature_normalization == "channel":
            self.register_buffer("input_mean", torch.zeros(config.input_channels))
            self.register_buffer("input_std", torch.ones(config.input_channels))
        if config.feature_projection:
            self.register_buffer("projection", torch.eye(config.feature_projection, config.input_channels))
        self.teacher = build_teacher(
            config.network_channels,
            self.map_size,
            condition_channels=config.position_channels,
            hidden_channels=config.teacher_channels,
            kernel_sizes=config.coupling_kernel_sizes,
            clamp=config.coupling_clamp,
        )
        self.student = Student(
            config.network_channels,
            condition_channels=config.position_channels,
            hidden_channels=config.student_channels,
            blocks=config.student_blocks,
            negative_slope=config.student_negative_slope,
            kernel_size=config.student_kernel_size,
        )
        self.eval()

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.positional_encoding.device

    def forward(
        self, pixel_values: Tensor | None = None, depth: Tensor | None = None, foreground: Tensor | None = None
    ) -> ASTOutput:
        """Scores a batch.

        Args:
            pixel_values: (B, 3, *image_shape), normalised (`data.transforms.to_pixel_values`).
            depth: (B, 1, depth_size, depth_size), as `data.DepthProcessor` gives it.
            foreground: (B, 1, depth_size, depth_size) of 0 and 1, as `data.DepthProcessor` gives it; None masks
                nothing.

        Raises:
            ValueError: The configuration's modality needs an input that is missing, or one has the wrong shape.
        """
        features = None if self.backbone is None else self.extract_features(pixel_values)
        return self.score_inputs(self.join_inputs(features, depth), self.map_mask(foreground))

    def extract_features(self, pixel_values: Tensor | None) -> Tensor:
        """The backbone's features (B, F, h, w) of pictures (B, 3, *image_shape)."""
        assert self.backbone is not None, "a detector of depth alone has no backbone"
        return self.backbone(_checked("pixel_values", pixel_values, (3, *self.config.image_shape)))

    def join_inputs(self, features: Tensor | None, depth: Tensor | None) -> Tensor:
        """What teacher and student see before standardisation, (B, C, h, w).

        Image features (B, F, h, w), where pictures go in, then the unshuffled height map.
        """
        inputs = [] if features is None else [features]
        if self.config.uses_depth:
            size = self.config.depth_size
            inputs.append(pixel_unshuffle(_checked("depth", depth, (1, size, size)), self.config.depth_unshuffle))
        return torch.cat(inputs, dim=1)

    def map_mask(self, foreground: Tensor | None) -> Tensor | None:
        """The mask of losses and anomaly map, (B, 1, h, w) in [0, 1], or None where none is used.

        The foreground (B, 1, depth_size, depth_size) dilated, then resized to the map, bilinear, not binarised.
        """
        if foreground is None or not self.config.foreground_dilation:
            return None
        dilated = dilate(foreground, self.config.foreground_dilation)
        return interpolate(dilated, size=self.map_size, mode="bilinear", align_corners=False)

    def standardize(self, inputs: Tensor) -> Tensor:
        """Inputs (B, C, h, w) as the networks take them, (B, network_channels, h, w).

        Per channel with the training set's mean and std, then its principal components; each where configured.
        """
        if self.config.feature_normalization == "channel":
            inputs = (inputs - self.input_mean[:, None, None]) / self.input_std[:, None, None]
        if self.config.feature_projection:
            inputs = conv2d(inputs, self.projection[:, :, None, None])
        return at_least_fp32(inputs)

    def teacher_forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        """The teacher's z (B, C, h, w) and log_jac (B, h, w) for standardised inputs (B, C, h, w)."""
        # Not len() here and below: an export would take it for a constant, and the batch size is none.
        condition = self._condition(inputs.shape[0])
        return self.teacher(inputs, c=None if condition is None else [condition])

    def student_forward(self, inputs: Tensor) -> Tensor:
        """The student's guess at z (B, C, h, w) for standardised inputs (B, C, h, w)."""
        return self.student(inputs, self._condition(inputs.shape[0]))

    def score_inputs(self, inputs: Tensor, mask: Tensor | None = None) -> ASTOutput:
        """Scores inputs (B, C, h, w) from `join_inputs`, masked by (B, 1, h, w) in [0, 1] from `map_mask`."""
        inputs = self.standardize(inputs)
        teacher_z, log_jac = self.teacher_forward(inputs)
        student_z = self.student_forward(inputs)
        anomaly_map = distance_map(teacher_z, student_z, mask)
        score = image_score(anomaly_map, self.config.image_score, self.config.image_score_fraction)
        return ASTOutput(anomaly_map, score, teacher_z, student_z, log_jac, mask)

    def _condition(self, batch: int) -> Tensor | None:
        """The positional encoding for a batch, (B, P, h, w), or None without one."""
        return self.positional_encoding.expand(batch, -1, -1, -1) if self.config.position_channels else None


class MapAndScore(nn.Module):
    """Of a network's forward pass what a prediction needs: anomaly_map (B, h, w) and score (B,)."""

    def __init__(self, network: ASTNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(
        self, pixel_values: Tensor | None = None, depth: Tensor | None = None, foreground: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        output = self.network(pixel_values, depth, foreground)
        return output.anomaly_map, output.score


def build_backbone(config: ASTDetectorConfig, weights: str | Path | None) -> Backbone:
    """The backbone that a configuration asks for; arguments and errors as `Backbone`."""
    from ast_hf.nn.backbone import Backbone  # timm, which a detector of depth alone does not need

    return Backbone(config.backbone, config.backbone_layers, padding=config.backbone_padding, weights=weights)


def dilate(foreground: Tensor, size: int) -> Tensor:
    """Dilates foregrounds (B, 1, H, W) of 0 and 1 with a square of `size` x `size` pixels.

    The square is anchored as in `scipy.ndimage.binary_dilation`, which the authors use: an even one reaches one pixel
    farther up and left than down and right.
    """
    after, before = size // 2, (size - 1) // 2
    return max_pool2d(pad(foreground, (before, after, before, after)), kernel_size=size, stride=1)


def _map_size(config: ASTDetectorConfig, backbone: Backbone | None) -> tuple[int, int]:
    """The feature map's (h, w), on which backbone and height map must agree."""
    side = config.depth_size // config.depth_unshuffle
    if backbone is None:
        return side, side
    channels, *size = backbone.output_shape(config.image_shape)
    if channels != config.feature_channels:
        layers = ", ".join(config.backbone_layers)
        raise ConfigError(f"{config.backbone} gives {channels} channels at {layers}: set feature_channels={channels}.")
    if config.uses_depth and tuple(size) != (side, side):
        raise ConfigError(
            f"The features are {size[0]} x {size[1]} and the unshuffled height map is {side} x {side}: "
            f"set depth_size={size[0] * config.depth_unshuffle}."
        )
    return size[0], size[1]


def _checked(name: str, tensor: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    if tensor is None:
        raise ValueError(f"This detector needs {name} (B, {', '.join(map(str, shape))}).")
    if tensor.shape[1:] != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}: it must be (B, {', '.join(map(str, shape))}).")
    return tensor
