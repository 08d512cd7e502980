"""What comes from the training set: pictures' size and bits, scans' heights, statistics of features; and the region."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from statistics import median

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ast_hf.config import ASTDetectorConfig, TrainingRecipe
from ast_hf.data.images import image_bits, read_image, read_mask
from ast_hf.data.reading import ImageFile, source_name
from ast_hf.data.sample import Sample
from ast_hf.data.samples import prefetch
from ast_hf.data.scans import height_range, read_scan
from ast_hf.errors import ImageReadError
from ast_hf.nn.network import ASTNetwork

_LOG = logging.getLogger(__name__)


def fit_config(config: ASTDetectorConfig, samples: Sequence[Sample], recipe: TrainingRecipe) -> ASTDetectorConfig:
    """The configuration for a training set; `image_bits` and `depth_range` stay as they are where they are given.

    Raises:
        ImageReadError: A picture or scan cannot be used.
    """
    if config.image_bits is None:
        pictures = [sample.image for sample in samples if sample.image is not None]
        bits = max(filter(None, prefetch(image_bits, pictures)), default=None)
        if bits is not None:
            _LOG.info("Pictures of more than 8 bits are taken to have %d; another number is given as image_bits.", bits)
        config = replace(config, image_bits=bits)
    if config.uses_depth and config.depth_range is None:
        config = fit_depth_range(config, samples)
    # Height maps are square.
    fits_size = recipe.keep_aspect and isinstance(config.image_size, int) and not config.uses_depth
    return _fit_image_size(config, samples) if fits_size else config


def fit_depth_range(config: ASTDetectorConfig, samples: Sequence[Sample]) -> ASTDetectorConfig:
    """The configuration with the heights that the samples' scans lie between."""
    scans = [sample.points for sample in samples if sample.points is not None]
    ranges = list(filter(None, prefetch(lambda scan: height_range(read_scan(scan)), scans)))
    if not ranges:
        return config
    return replace(config, depth_range=(min(low for low, _ in ranges), max(high for _, high in ranges)))


def _fit_image_size(config: ASTDetectorConfig, samples: Sequence[Sample]) -> ASTDetectorConfig:
    """The configuration with pictures of the samples' median aspect, at the same area and in multiples of 32 pixels."""
    some = (sample.image for sample in samples[:: max(1, len(samples) // 50)])
    sizes = [read_image(image, bits=config.image_bits).size for image in some if image is not None]
    # Of a tile: the picture's, where there are as many rows of them as columns.
    aspect = median(width / height for width, height in sizes) * config.tiles[0] / config.tiles[1]
    side = config.tile_shape[0]
    height, width = (max(32, 32 * round(new / 32)) for new in (side / aspect**0.5, side * aspect**0.5))
    if height != width:
        config = replace(config, image_size=(height, width))
        shape = config.image_shape
        _LOG.info("Pictures are resized to %d x %d pixels (height x width), after their median aspect.", *shape)
    return config


def fit_region(config: ASTDetectorConfig, region: ImageFile | Image.Image | np.ndarray) -> Tensor:
    """A region of interest, a mask (`data.images.read_mask`) or bool array, as the network keeps it.

    It is resized as pictures are, to uint8 (1, 1, *image_shape). `ImageReadError` where nothing in it is white.
    """
    mask = region if isinstance(region, np.ndarray) else read_mask(region)
    size = config.image_shape[::-1]
    resized = np.array(Image.fromarray(mask.astype(bool)).resize(size, Image.Resampling.NEAREST))
    if not resized.any():
        raise ImageReadError(source_name(region), "the region of interest has nothing white: white is looked at.")
    return torch.from_numpy(resized.astype(np.uint8))[None, None]


@torch.no_grad()
def set_standardization(network: ASTNetwork, inputs: Tensor, mask: Tensor | None = None) -> None:
    """Sets each channel's mean and std, and the projection, from inputs (N, C, h, w), where they are configured.

    With a mask (N, 1, h, w), the same for all, only the cells that it lets through count.
    """
    if mask is not None:
        inputs = inputs[..., mask[0, 0] > 0][..., None]  # (N, C, cells, 1)
    if network.config.feature_normalization == "channel":
        network.input_mean.copy_(inputs.mean(dim=(0, 2, 3)))
        # A channel that never changes says nothing; the floor keeps it from being divided by zero.
        network.input_std.copy_(inputs.std(dim=(0, 2, 3)).clamp_min(1e-6))
    if network.config.feature_projection:
        network.projection.copy_(_principal_components(network, inputs))


def _principal_components(network: ASTNetwork, inputs: Tensor) -> Tensor:
    """(K, C): the directions of the standardised inputs (N, C, h, w) that vary most, the first K, on a common scale.

    A rotation and one factor: whitened, the directions that hardly vary would count as much as the others.
    """
    config = network.config
    cells = inputs.permute(0, 2, 3, 1).reshape(-1, config.input_channels)
    if config.feature_normalization == "channel":
        cells = (cells - network.input_mean) / network.input_std
    covariance = cells.T.double() @ cells.double() / len(cells)
    values, vectors = torch.linalg.eigh(covariance)  # ascending
    kept = slice(-config.feature_projection, None)
    scale = values[kept].clamp_min(0).mean().sqrt().clamp_min(1e-6)
    return (vectors[:, kept].T / scale).float()
