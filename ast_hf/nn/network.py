"""`ASTNetwork`: a frozen backbone, and pairs of teacher and student; where the two disagree there is a defect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, interpolate, max_pool2d, pad, pixel_unshuffle

from ast_hf.config import ASTDetectorConfig
from ast_hf.errors import ConfigError
from ast_hf.nn.flow import build_teacher, positional_encoding
from ast_hf.nn.losses import distance_map, image_score
from ast_hf.nn.precision import at_least_fp32
from ast_hf.nn.student import Student

if TYPE_CHECKING:
    from ast_hf.nn.backbone import Backbone

# Pixels of its neighbours that a tile is seen with, so that borders do not show in the features; whole cells.
_TILE_MARGIN = 64


@dataclass(frozen=True)
class ASTOutput:
    """What one forward pass gives; C channels and an h x w map, both fixed by the configuration."""

    anomaly_map: Tensor  # (B, h, w), not negative
    score: Tensor  # (B,)
    teacher_z: Tensor  # (B, C, h, w), of the wide pair, as the next two
    student_z: Tensor  # (B, C, h, w)
    log_jac: Tensor  # (B, h, w), log-determinant of the teacher at each pixel
    mask: Tensor | None  # (B, 1, h, w) in [0, 1], the mask that was used


class Pair(nn.Module):
    """A teacher and the student that copies it, over the same map (h, w) of standardised inputs.

    The convolutions of the paper's pair look around a cell; those of the second, local one are 1 x 1 and judge a cell
    by its own features and its place (`ASTDetectorConfig.local_channels`).
    """

    positional_encoding: Tensor

    def __init__(self, config: ASTDetectorConfig, map_size: tuple[int, int], *, is_local: bool = False) -> None:
        super().__init__()
        encoding = torch.empty(config.position_channels, *map_size)
        if not encoding.is_meta:  # where nothing is computed, so that a stranger's configuration costs no memory
            encoding = positional_encoding(*encoding.shape)
        self.register_buffer("positional_encoding", encoding)
        widths, student_size = (config.teacher_channels, config.student_channels), config.student_kernel_size
        kernel_sizes = config.coupling_kernel_sizes
        if is_local:
            assert config.local_channels is not None
            widths, student_size, kernel_sizes = config.local_channels, 1, (1,) * len(kernel_sizes)
        self.teacher = build_teacher(
            config.network_channels,
            map_size,
            condition_channels=config.position_channels,
            hidden_channels=widths[0],
            kernel_sizes=kernel_sizes,
            clamp=config.coupling_clamp,
        )
        self.student = Student(config, widths[1], student_size)

    def teacher_forward(self, inputs: Tensor, encoding: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The teacher's z (B, C, h, w) and log_jac (B, h, w) for standardised inputs (B, C, h, w).

        Of a crop of the map, `encoding` (P, h, w) is the positional encoding there; by default it is the whole one.
        """
        condition = self._condition(inputs, encoding)
        return self.teacher(inputs, c=None if condition is None else [condition])

    def student_forward(self, inputs: Tensor, encoding: Tensor | None = None) -> Tensor:
        """The student's guess at z (B, C, h, w) for standardised inputs (B, C, h, w), or a crop as the teacher's."""
        return self.student(inputs, self._condition(inputs, encoding))

    def _condition(self, inputs: Tensor, encoding: Tensor | None) -> Tensor | None:
        """The positional encoding for a batch, (B, P, h, w), or None without one."""
        encoding = self.positional_encoding if encoding is None else encoding
        # Not len(inputs): an export would take it for a constant, and the batch size is none.
        return encoding.expand(inputs.shape[0], -1, -1, -1) if len(encoding) else None


class ASTNetwork(Pair):
    """Asymmetric student-teacher network (Rudolph et al., WACV 2023): the paper's pair, perhaps with a local one.

    `backbone` is a `Backbone` of these weights, or None where only depth goes in. Errors as for `ASTDetector`.
    """

    input_mean: Tensor
    input_std: Tensor
    projection: Tensor
    region: Tensor  # uint8 (1, 1, *image_shape), 1 where is looked, where the configuration has one

    def __init__(self, config: ASTDetectorConfig, *, backbone_weights: str | Path | None = None) -> None:
        backbone = build_backbone(config, backbone_weights) if config.uses_rgb else None
        map_size = _map_size(config, backbone)
        super().__init__(config, map_size)
        self.config, self.map_size, self.backbone = config, map_size, backbone
        if config.feature_normalization == "channel":
            self.register_buffer("input_mean", torch.zeros(config.input_channels))
            self.register_buffer("input_std", torch.ones(config.input_channels))
        if config.feature_projection:
            self.register_buffer("projection", torch.eye(config.feature_projection, config.input_channels))
        if config.region:
            self.register_buffer("region", torch.ones(1, 1, *config.image_shape, dtype=torch.uint8))
        self.local = Pair(config, map_size, is_local=True) if config.local_channels else None
        self.eval()

    @property
    def device(self) -> torch.device:
        return self.positional_encoding.device

    def forward(
        self, pixel_values: Tensor | None = None, depth: Tensor | None = None, foreground: Tensor | None = None
    ) -> ASTOutput:
        """Scores a batch.

        Args:
            pixel_values: (B, 3, *image_shape), normalised (`data.transforms.to_pixel_values`).
            depth: (B, 1, depth_size, depth_size), as `data.DepthProcessor` gives it.
            foreground: Likewise, of 0 and 1; None masks nothing.

        Raises:
            ValueError: The configuration's modality needs an input that is missing, or one has the wrong shape.
        """
        features = None if self.backbone is None else self.extract_features(pixel_values)
        inputs = self.join_inputs(features, depth)
        return self.score_inputs(inputs, self.map_mask(foreground, inputs.shape[0]))

    def extract_features(self, pixel_values: Tensor | None) -> Tensor:
        """The backbone's features (B, F, h, w) of pictures (B, 3, *image_shape), tile by tile."""
        pictures = self._within_region(_checked("pixel_values", pixel_values, (3, *self.config.image_shape)))
        if self.config.tiles == (1, 1):
            return self._run_backbone(pictures)
        (height, width), (rows, columns) = self.config.tile_shape, self.config.tiles
        (h, w), padded = (self.map_size[0] // rows, self.map_size[1] // columns), pad(pictures, [_TILE_MARGIN] * 4)
        top, left = _TILE_MARGIN * h // height, _TILE_MARGIN * w // width
        lines = []
        for y in range(0, rows * height, height):
            line = padded[..., y : y + height + 2 * _TILE_MARGIN, :]
            crops = [line[..., x : x + width + 2 * _TILE_MARGIN] for x in range(0, columns * width, width)]
            maps = [self._run_backbone(crop)[..., top : top + h, left : left + w] for crop in crops]
            lines.append(torch.cat(maps, dim=3))
        return torch.cat(lines, dim=2)

    def _run_backbone(self, pictures: Tensor) -> Tensor:
        assert self.backbone is not None, "a detector of depth alone has no backbone"
        device = pictures.device.type
        if self.config.backbone_precision == "auto" or not torch.is_autocast_enabled(device):
            return self.backbone(pictures)
        with torch.autocast(device, enabled=False):
            return self.backbone(pictures)

    def join_inputs(self, features: Tensor | None, depth: Tensor | None) -> Tensor:
        """What is standardised, (B, C, h, w): image features (B, F, h, w), if any, then the unshuffled height map."""
        inputs = [] if features is None else [features]
        if self.config.uses_depth:
            size = self.config.depth_size
            height_map = self._within_region(_checked("depth", depth, (1, size, size)))
            inputs.append(pixel_unshuffle(height_map, self.config.depth_unshuffle))
        return torch.cat(inputs, dim=1)

    def map_mask(self, foreground: Tensor | None, batch: int = 1) -> Tensor | None:
        """The mask of losses and anomaly map, (B, 1, h, w) in [0, 1], or None where none is used.

        The foreground (B, 1, depth_size, depth_size) dilated, then resized to the map, bilinear, not binarised; and
        the cells that lie in the region by half or more, for a `batch` of pictures where there is no foreground.
        """
        mask = None
        if foreground is not None and self.config.foreground_dilation:
            dilated = dilate(foreground, self.config.foreground_dilation)
            mask = interpolate(dilated, size=self.map_size, mode="bilinear", align_corners=False)
        if not self.config.region:
            return mask
        cells = (adaptive_avg_pool2d(self.region.float(), self.map_size) >= 0.5).float()
        return cells.expand(batch, -1, -1, -1) if mask is None else cells * mask

    def _within_region(self, picture: Tensor) -> Tensor:
        """A batch (B, C, H, W) with zeros outside of the region, so that nothing there has a say."""
        if not self.config.region:
            return picture
        region = self.region.to(picture.dtype)
        return picture * (region if region.shape[2:] == picture.shape[2:] else interpolate(region, picture.shape[2:]))

    def standardize(self, inputs: Tensor) -> Tensor:
        """Of inputs (B, C, h, w) what the networks take, (B, network_channels, h, w), as far as configured.

        By the training set's mean and std of each channel, and its principal components.
        """
        if self.config.feature_normalization == "channel":
            inputs = (inputs - self.input_mean[:, None, None]) / self.input_std[:, None, None]
        if self.config.feature_projection:
            inputs = conv2d(inputs, self.projection[:, :, None, None])
        return at_least_fp32(inputs)

    def score_inputs(self, inputs: Tensor, mask: Tensor | None = None) -> ASTOutput:
        """Scores inputs (B, C, h, w) from `join_inputs`, masked by (B, 1, h, w) in [0, 1] from `map_mask`.

        With a second pair the map is the weighted geometric mean of both, high where both are: the wide pair knows what
        belongs where, the local one shows the place. The score is the geometric mean of the wide one's, as configured,
        and of the local one's of its highest cells.
        """
        inputs = self.standardize(inputs)
        teacher_z, log_jac = self.teacher_forward(inputs)
        student_z = self.student_forward(inputs)
        anomaly_map = distance_map(teacher_z, student_z, mask)
        # The highest cells are those of a tile, so that a small defect counts as much on a large picture.
        fraction = self.config.image_score_fraction / (self.config.tiles[0] * self.config.tiles[1])
        score = image_score(anomaly_map, self.config.image_score, fraction)
        if self.local is not None:
            local_map = distance_map(self.local.teacher_forward(inputs)[0], self.local.student_forward(inputs), mask)
            local_score = image_score(local_map, "top", fraction)
            share, score = self.config.local_share, (score * local_score).sqrt()
            anomaly_map = anomaly_map ** (1 - share) * local_map**share
        return ASTOutput(anomaly_map, score, teacher_z, student_z, log_jac, mask)


class MapAndScore(nn.Module):
    """Of a network's forward pass what a prediction needs: anomaly_map (B, h, w) and score (B,)."""

    def __init__(self, network: ASTNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, pixel_values: Any = None, depth: Any = None, foreground: Any = None) -> tuple[Tensor, Tensor]:
        output = self.network(pixel_values, depth, foreground)
        return output.anomaly_map, output.score


def build_backbone(config: ASTDetectorConfig, weights: str | Path | None) -> Backbone:
    """The backbone that a configuration asks for; arguments and errors as `Backbone`."""
    from ast_hf.nn.backbone import Backbone  # timm, which a detector of depth alone does not need

    return Backbone(config.backbone, config.backbone_layers, padding=config.backbone_padding, weights=weights)


def dilate(foreground: Tensor, size: int) -> Tensor:
    """Dilates foregrounds (B, 1, H, W) of 0 and 1 with a square of `size` x `size` pixels.

    As in `scipy.ndimage.binary_dilation`, which the authors use, an even one reaches a pixel farther up and left.
    """
    after, before = size // 2, (size - 1) // 2
    return max_pool2d(pad(foreground, (before, after, before, after)), kernel_size=size, stride=1)


def _map_size(config: ASTDetectorConfig, backbone: Backbone | None) -> tuple[int, int]:
    """The feature map's (h, w), on which backbone and height map must agree."""
    side = config.depth_size // config.depth_unshuffle
    if backbone is None:
        return side, side
    channels, *size = backbone.output_shape(config.tile_shape)
    if channels != config.feature_channels:
        layers = ", ".join(config.backbone_layers)
        raise ConfigError(f"{config.backbone} gives {channels} channels at {layers}: set feature_channels={channels}.")
    if config.uses_depth and tuple(size) != (side, side):
        raise ConfigError(
            f"The features are {size[0]} x {size[1]} and the unshuffled height map is {side} x {side}: "
            f"set depth_size={size[0] * config.depth_unshuffle}."
        )
    return size[0] * config.tiles[0], size[1] * config.tiles[1]


def _checked(name: str, tensor: Tensor | None, shape: tuple[int, int, int]) -> Tensor:
    if tensor is None:
        raise ValueError(f"This detector needs {name} (B, {', '.join(map(str, shape))}).")
    if tensor.shape[1:] != shape:
        raise ValueError(f"{name} is {tuple(tensor.shape)}: it must be (B, {', '.join(map(str, shape))}).")
    return tensor
