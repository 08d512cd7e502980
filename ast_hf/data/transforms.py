"""Between pictures and tensors: resizing and normalising on the way in, upsampling maps on the way out."""

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.functional import interpolate

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def to_pixel_values(
    image: Image.Image,
    size: tuple[int, int],
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
) -> Tensor:
    """An RGB picture as the network's input, float32 (3, H, W), as torchvision's Resize, ToTensor and Normalize give.

    It is resized to `size`, (H, W), as the authors do (bilinear with antialiasing, aspect not kept), and normalised by
    mean and deviation of each colour in [0, 1], ImageNet's by default.
    """
    return normalize(to_pixels(image, size), mean, std)


def to_pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """The first half of `to_pixel_values`: pixels uint8 (3, H, W), a quarter of the bytes."""
    if image.mode != "RGB":
        raise ValueError(f"The picture has mode {image.mode}, not RGB: read it with read_image.")
    resized = np.array(image.resize(size[::-1], Image.Resampling.BILINEAR))
    return torch.from_numpy(resized).permute(2, 0, 1).contiguous()


def normalize(pixels: Tensor, mean: Sequence[float] = IMAGENET_MEAN, std: Sequence[float] = IMAGENET_STD) -> Tensor:
    """The second half: RGB pixels uint8 (..., 3, H, W) in float32, normalised."""
    shift, scale = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (mean, std))
    return pixels.float().div_(255).sub_(shift).div_(scale)


def upsample_map(anomaly_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Brings maps (B, h, w) or (h, w) to `size` = (H, W), bicubic as in the paper; values may overshoot a little."""
    batch = anomaly_map.reshape(-1, 1, *anomaly_map.shape[-2:])
    resized = interpolate(batch, size=size, mode="bicubic", align_corners=False)
    return resized.reshape(*anomaly_map.shape[:-2], *size)
