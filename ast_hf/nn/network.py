"""`ASTNetwork`: frozen backbone, teacher and student; where the two disagree there is a defect."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d, conv2d, interpolate, max_pool2d, pad, pixel_unshuffle

from ast_hf.config import ASTDetectorConfig
from ast_hf.errors import ConfigError
from ast_hf.nn.losses import distance_map, image_score
from ast_hf.nn.pair import Pair
from ast_hf.nn.precision import at_least_fp32

if TYPE_CHECKING:
    from ast_hf.nn.backbone import Backbone

# Pixels of its neighbours that a tile is seen with, so that borders do not show in the features; whole cells.
TILE_MARGIN = 64


@dataclass(frozen=True)
class ASTOutput:
    """What one forward pass gives; C channels and an h x w map, both fixed by the configuration."""

    anomaly_map: Tensor  # (B, h, w), not negative
    score: Tensor  # (B,)
    teacher_z: Tensor  # (B, C, h, w), of the wide pair, as the next two
    student_z: Tensor  # (B, C, h, w)
    log_jac: Tensor  # (B, h, w), log-determinant of the teacher at each pixel
    mask: Tensor | None  # (B, 1, h, w) in [0, 1], the mask that was used


class ASTNetwork(Pair):
    """Asymmetric student-teacher network (Rudolph et al., WACV 2023).

    Args:
        config: What to build.
        backbone_weights: None leaves the backbone random, to be loaded over; "pretrained" takes timm's weights from
            the Hub; a path reads a safetensors file in timm's key names.

    Attributes:
        backbone: The frozen `Backbone`, or None where only depth goes in.
        teacher, student: The paper's pair; see `Pair`.
        local: The second pair, or None where none is configured.
        map_size: (h, w) of the feature map.
        region: uint8 (1, 1, *image_shape), 1 where is looked, where the configuration has one.

    Raises:
        ConfigError: Backbone and configuration do not fit together.
    """

    input_mean: Tensor
    input_std: Tensor
    projection: Tensor
    region: Tensor

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
        self.local = Pair(config, map_size, "local") if config.local_channels else None
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
        inputs = self.join_inputs(features, depth)
        return self.score_inputs(inputs, self.map_mask(foreground, inputs.shape[0]))

    def extract_features(self, pixel_values: Tensor | None) -> Tensor:
        """The backbone's features (B, F, h, w) of pictures (B, 3, *image_shape), tile by tile."""
        assert self.backbone is not None, "a detector of depth alone has no backbone"
        pictures = self._within_region(_checked("pixel_values", pixel_values, (3, *self.config.image_shape)))
        if self.config.tiles == (1, 1):
            return self._run_backbone(pictures)
        (height, width), (rows, columns) = self.config.tile_shape, self.config.tiles
        (h, w), padded = (self.map_size[0] // rows, self.map_size[1] // columns), pad(pictures, [TILE_MARGIN] * 4)
        top, left = TILE_MARGIN * h // height, TILE_MARGIN * w // width
        lines = []
        for y in range(0, rows * height, height):
            crops = [padded[..., y : y + height + 2 * TILE_MARGIN, x : x + width + 2 * TILE_MARGIN]
                     for x in range(0, columns * width, width)]  # fmt: skip
            lines.append([self._run_backbone(crop)[..., top : top + h, left : left + w] for crop in crops])
        return torch.cat([torch.cat(line, dim=3) for line in lines], dim=2)

    def _run_backbone(self, pictures: Tensor) -> Tensor:
        assert self.backbone is not None
        device = pictures.device.type
        if self.config.backbone_precision == "auto" or not torch.is_autocast_enabled(device):
            return self.backbone(pictures)
        with torch.autocast(device, enabled=False):
            return self.backbone(pictures)

    def join_inputs(self, features: Tensor | None, depth: Tensor | None) -> Tensor:
        """What teacher and student see before standardisation, (B, C, h, w).

        Image features (B, F, h, w), where pictures go in, then the unshuffled height map.
        """
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
        """Inputs (B, C, h, w) as the networks take them, (B, network_channels, h, w).

        Per channel with the training set's mean and std, then its principal components; each where configured.
        """
        if self.config.feature_normalization == "channel":
            inputs = (inputs - self.input_mean[:, None, None]) / self.input_std[:, None, None]
        if self.config.feature_projection:
            inputs = conv2d(inputs, self.projection[:, :, None, None])
        return at_least_fp32(inputs)

    def score_inputs(self, inputs: Tensor, mask: Tensor | None = None) -> ASTOutput:
        """Scores inputs (B, C, h, w) from `join_inputs`, masked by (B, 1, h, w) in [0, 1] from `map_mask`.

        With a second pair the map is the weighted geometric mean of both pairs' maps, which is high where both are:
        the wide pair knows what belongs where, the local one shows the place. The score is the geometric mean of each
        pair's own, the wide one's as configured and the local one's of its highest cells.
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
