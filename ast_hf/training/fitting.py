"""What comes from the training set: the pictures' size and bits, the scans' heights; and the region of interest."""

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

_LOG = logging.getLogger(__name__)


def fit_config(config: ASTDetectorConfig, samples: Sequence[Sample], recipe: TrainingRecipe) -> ASTDetectorConfig:
    """The configuration for a training set; `image_bits` and `depth_range` stay as they are where they are given.

    Raises:
        ImageReadError: A picture or scan cannot be used.
    """
    if config.image_bits is None:
        config = fit_image_bits(config, samples)
    if config.uses_depth and config.depth_range is None:
        config = fit_depth_range(config, samples)
    return fit_image_size(config, samples) if recipe.keep_aspect else config


def fit_image_bits(config: ASTDetectorConfig, samples: Sequence[Sample]) -> ASTDetectorConfig:
    """The configuration with the bits that hold every value of the samples' pictures of more than 8 bits."""
    pictures = [sample.image for sample in samples if sample.image is not None]
    bits = max(filter(None, prefetch(image_bits, pictures)), default=None)
    if bits is not None:
        _LOG.info("Pictures of more than 8 bits are taken to have %d; another number is given as image_bits.", bits)
    return replace(config, image_bits=bits)


def fit_depth_range(config: ASTDetectorConfig, samples: Sequence[Sample]) -> ASTDetectorConfig:
    """The configuration with the heights that the samples' scans lie between."""
    scans = [sample.points for sample in samples if sample.points is not None]
    ranges = list(filter(None, prefetch(lambda scan: height_range(read_scan(scan)), scans)))
    if not ranges:
        return config
    return replace(config, depth_range=(min(low for low, _ in ranges), max(high for _, high in ranges)))


def fit_image_size(config: ASTDetectorConfig, samples: Sequence[Sample]) -> ASTDetectorConfig:
    """The configuration with pictures of the samples' median aspect, at the same area and in multiples of 32 pixels.

    Where `image_size` is (height, width) already, or height maps go in, which are square, it stays as it is.
    """
    if isinstance(config.image_size, tuple) or config.uses_depth:
        return config
    some = (sample.image for sample in samples[:: max(1, len(samples) // 50)])
    sizes = [read_image(image, bits=config.image_bits).size for image in some if image is not None]
    # Of a tile: the picture's, where there are as many rows of them as columns.
    aspect = median(width / height for width, height in sizes) * config.tiles[0] / config.tiles[1]
    sides = (config.image_size / aspect**0.5, config.image_size * aspect**0.5)
    height, width = (max(32, 32 * round(side / 32)) for side in sides)
    if height != width:
        config = replace(config, image_size=(height, width))
        shape = config.image_shape
        _LOG.info("Pictures are resized to %d x %d pixels (height x width), after their median aspect.", *shape)
    return config


def fit_region(config: ASTDetectorConfig, region: ImageFile | Image.Image | np.ndarray) -> Tensor:
    """A region of interest as the network keeps it, uint8 (1, 1, *image_shape).

    Args:
        config: Says what pictures are resized to; the region is resized as they are.
        region: A mask (`data.images.read_mask`) or bool array of the pictures' aspect, white where is looked.

    Raises:
        ImageReadError: It cannot be read, or nothing in it is white.
    """
    mask = region if isinstance(region, np.ndarray) else read_mask(region)
    size = config.image_shape[::-1]
    resized = np.array(Image.fromarray(mask.astype(bool)).resize(size, Image.Resampling.NEAREST))
    if not resized.any():
        raise ImageReadError(source_name(region), "the region of interest has nothing white: white is looked at.")
    return torch.from_numpy(resized.astype(np.uint8))[None, None]
