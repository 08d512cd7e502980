"""A part as it comes, a picture and perhaps a scan of it, and as the networks take it."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ast_hf.config import ASTDetectorConfig
from ast_hf.depth import DepthProcessor
from ast_hf.errors import ImageReadError
from ast_hf.images import ImageSource, find_images, normalize, read_image, read_scan, to_square
from ast_hf.reading import ImageFile, source_name

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")

Scan: TypeAlias = "ImageFile | np.ndarray"


@dataclass(frozen=True)
class Part:
    """One part: its picture, its organised point cloud, or both, as `images.read_image` and `read_scan` take them."""

    image: ImageSource | None = None
    points: Scan | None = None

    @property
    def name(self) -> str:
        """The file's path, or a stand-in for data without one."""
        return source_name(self.image if self.image is not None else self.points)


@dataclass(frozen=True)
class ReadPart:
    """A part read: what `ASTDetector.forward` takes, but for the batch and ImageNet's mean, and the picture itself."""

    picture: Image.Image
    pixels: Tensor | None  # uint8 (3, image_size, image_size)
    depth: Tensor | None
    foreground: Tensor | None


def read_part(config: ASTDetectorConfig, part: Part) -> ReadPart:
    """Reads picture and scan and brings them to the configuration's sizes.

    Raises:
        ImageReadError: One of them is missing, not wanted, or cannot be used, or their shapes differ.
    """
    _check_modality(config, part)
    picture = None if part.image is None else read_image(part.image)
    pixels = to_square(picture, config.image_size) if config.uses_rgb and picture is not None else None
    depth = foreground = None
    if config.uses_depth and part.points is not None:
        points = read_scan(part.points)
        if picture is not None and picture.size != points.shape[1::-1]:
            sizes = f"{picture.width} x {picture.height} against {points.shape[1]} x {points.shape[0]}"
            raise ImageReadError(part.name, f"picture and scan differ in size ({sizes}); they must fit pixel by pixel")
        depth, foreground = DepthProcessor(config.depth_size)(points, source=source_name(part.points))
        picture = picture or _height_picture(points)
    assert picture is not None  # _check_modality has seen to it
    return ReadPart(picture, pixels, depth, foreground)


def as_parts(config: ASTDetectorConfig, images: Any, points: Iterable[Any] | None = None) -> list[Part]:
    """Parts from what a user gives to train on.

    Args:
        config: Its modality says what a part needs.
        images: A folder (searched for pictures; for depth modalities it holds rgb/ and xyz/ with equal names), or
            a sequence of pictures, `Part`s, or mappings with "image" and perhaps "points", such as a `datasets`
            or torch dataset gives.
        points: Scans, one a picture, where `images` does not hold them.

    Raises:
        ImageReadError: A folder is missing or empty, or pictures and scans do not pair up.
    """
    if isinstance(images, (str, os.PathLike)):
        return _folder_parts(config, Path(images))
    if images is not None and not hasattr(images, "__getitem__"):
        images = list(images)
    # By index, since torch's datasets promise no iteration that ends.
    parts = [_as_part(images[i]) for i in range(len(images))] if images is not None else []
    if points is not None:
        scans = list(points)
        if parts and len(parts) != len(scans):
            raise ImageReadError("training data", f"{len(parts)} pictures came with {len(scans)} scans")
        parts = [Part(part.image, scan) for part, scan in zip(parts or [Part()] * len(scans), scans, strict=True)]
    return parts


def _as_part(item: Any) -> Part:
    if isinstance(item, Part):
        return item
    if isinstance(item, Mapping):
        return Part(item.get("image"), item.get("points"))
    if isinstance(item, tuple):  # (picture, label) as torchvision's datasets give it
        return Part(item[0])
    # A stream can be read once, and a picture may be asked for twice.
    return Part(item.read() if hasattr(item, "read") else item)


def _folder_parts(config: ASTDetectorConfig, folder: Path) -> list[Part]:
    if not config.uses_depth:
        return [Part(path) for path in find_images(folder)]
    scans = {path.stem: path for path in find_images(folder / "xyz")}
    if not config.uses_rgb:
        return [Part(points=path) for path in scans.values()]
    pictures = {path.stem: path for path in find_images(folder / "rgb")}
    if alone := sorted(pictures.keys() ^ scans.keys()):
        raise ImageReadError(folder, f"rgb/ and xyz/ do not pair up; first without its counterpart: {alone[0]}")
    return [Part(pictures[stem], scans[stem]) for stem in sorted(pictures)]


def _check_modality(config: ASTDetectorConfig, part: Part) -> None:
    if config.uses_rgb and part.image is None:
        raise ImageReadError(part.name, "this detector needs a picture of the part")
    if config.uses_depth and part.points is None:
        raise ImageReadError(part.name, "this detector needs the part's organised point cloud: pass points=")
    if part.points is not None and not config.uses_depth:
        raise ImageReadError(part.name, "this detector takes pictures alone, and a point cloud was given")


def _height_picture(points: np.ndarray) -> Image.Image:
    """A grey picture of a scan, nearer parts brighter, for drawing on where there is no photograph."""
    z = points[..., 2] if points.ndim == 3 else points
    valid = np.isfinite(z) & (z != 0)
    low, high = np.percentile(z[valid], (1, 99))
    grey = np.clip((high - z) / max(high - low, 1e-9), 0, 1, where=valid, out=np.zeros_like(z, dtype=np.float64))
    return Image.fromarray((grey * 255).astype(np.uint8)).convert("RGB")


def ahead(function: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int = 2) -> Iterator[_Result]:
    """`map` with the next few results computed in threads meanwhile; decoding pictures leaves the GIL alone."""
    # For one there is no meanwhile, and in a new thread torch starts threads of its own.
    if isinstance(items, Sequence) and len(items) == 1:
        yield function(items[0])
        return
    with ThreadPoolExecutor(workers) as executor:
        waiting: deque[Future[_Result]] = deque()
        source = iter(items)
        try:
            waiting.extend(executor.submit(function, item) for item in islice(source, 4 * workers))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(executor.submit(function, item) for item in islice(source, 1))
                yield result
        finally:
            for future in waiting:
                future.cancel()


def stack(tensors: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """A batch of them on the device, or None where they are None."""
    present = [tensor for tensor in tensors if tensor is not None]
    if not present:
        return None
    batch = torch.stack(present)
    # Only from pinned memory is a copy to a GPU made beside what that is computing.
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)


def pixel_values(parts: Sequence[ReadPart], device: torch.device) -> Tensor | None:
    """The pictures of a batch as `ASTDetector.forward` takes them, or None where there are none."""
    pixels = stack([part.pixels for part in parts], device)
    return None if pixels is None else normalize(pixels)
