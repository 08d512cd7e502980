"""A part as it comes, a picture and perhaps a scan of it, and as the networks take it."""

import glob
import hashlib
import logging
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ast_hf.config import ASTDetectorConfig
from ast_hf.data.folders import SCAN_EXTENSIONS, check_good_parts, describe_folders, find_images, pair_scans
from ast_hf.data.images import read_image
from ast_hf.data.point_cloud import DepthProcessor
from ast_hf.data.reading import DEFAULT_LIMITS, decoding, read_bytes, source_name
from ast_hf.data.sample import Sample
from ast_hf.data.scans import height_range, heights, read_scan
from ast_hf.data.transforms import normalize, to_pixels
from ast_hf.errors import ImageReadError

_LOG = logging.getLogger(__name__)
_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class LoadedSample:
    """A sample read: what `ASTNetwork.forward` takes, but not yet normalised or in a batch, and the picture itself."""

    picture: Image.Image  # perhaps scaled down to draw on
    size: tuple[int, int]  # (width, height) of the picture before
    pixels: Tensor | None  # uint8 (3, *image_shape)
    depth: Tensor | None  # float32 (1, depth_size, depth_size)
    foreground: Tensor | None  # float32 (1, depth_size, depth_size) of 0 and 1


def load_sample(config: ASTDetectorConfig, sample: Sample, *, longest_side: int | None = None) -> LoadedSample:
    """Reads picture and scan and brings them to the configuration's sizes; the picture to draw on to `longest_side`.

    Raises an `ImageReadError` where one of them is missing, not wanted, or cannot be used, or their shapes differ.
    """
    if config.uses_rgb and sample.image is None:
        raise ImageReadError(sample.name, "this detector needs a picture of the part")
    if config.uses_depth and sample.points is None:
        raise ImageReadError(sample.name, "this detector needs the part's organised point cloud: pass points=")
    if sample.points is not None and not config.uses_depth:
        raise ImageReadError(sample.name, "this detector takes pictures alone, and a point cloud was given")
    picture = None if sample.image is None else read_image(sample.image, bits=config.image_bits)
    pixels = to_pixels(picture, config.image_shape) if config.uses_rgb and picture is not None else None
    depth = foreground = None
    if config.uses_depth and sample.points is not None:
        try:
            points = read_scan(sample.points, learnt=config.depth_range)
            depth, foreground = DepthProcessor(config.depth_size)(points, source=source_name(sample.points))
        except ImageReadError as error:
            # What is told of a part is told under its picture's name.
            raise error if picture is None else ImageReadError(sample.name, f"its scan {error}") from error
        if picture is not None and picture.size != points.shape[1::-1]:
            sizes = f"{picture.width} x {picture.height} against {points.shape[1]} x {points.shape[0]}"
            reason = f"picture and scan differ in size ({sizes}); they must fit pixel by pixel"
            raise ImageReadError(sample.name, reason)
        picture = picture or _height_picture(points)
    assert picture is not None
    size = picture.size
    if longest_side is not None:
        picture.thumbnail((longest_side, longest_side))
    return LoadedSample(picture, size, pixels, depth, foreground)


def _height_picture(points: np.ndarray) -> Image.Image:
    """A grey picture of a scan, nearer parts brighter, for drawing on where there is no photograph."""
    z = heights(points).astype(np.float64)
    low, high = height_range(points) or (0.0, 0.0)
    valid = np.isfinite(z) & (z != 0)
    grey = np.clip((high - z) / max(high - low, 1e-9), 0, 1, where=valid, out=np.zeros_like(z))
    return Image.fromarray((grey * 255).astype(np.uint8)).convert("RGB")


def collect_samples(config: ASTDetectorConfig, images: Any, points: Iterable[Any] | None = None) -> list[Sample]:
    """Samples of the configuration's modality from what a user gives to train on.

    `images` are a folder (searched for pictures; for depth modalities it holds rgb/ and xyz/, as `pair_scans`), or a
    sequence of pictures, `Sample`s, or mappings with "image" and perhaps "points", such as a `datasets` or torch
    dataset gives; `points` are scans, one a picture, where `images` holds none. Raises an `ImageReadError` where
    a folder is missing or empty, or pictures and scans do not pair up.
    """
    if isinstance(images, (str, os.PathLike)):
        folder = Path(images)
        if config.uses_rgb and config.uses_depth:
            return [Sample(picture, scan) for picture, scan in pair_scans(folder)]
        if config.uses_depth:
            return [Sample(points=path) for path in find_images(folder / "xyz", SCAN_EXTENSIONS)]
        return [Sample(path) for path in find_images(folder)]
    if images is not None and not hasattr(images, "__getitem__"):
        images = list(images)
    # By index, since torch's datasets promise no iteration that ends.
    samples = [_as_sample(images[i]) for i in range(len(images))] if images is not None else []
    if points is None:
        return samples
    scans = list(points)
    if samples and len(samples) != len(scans):
        raise ImageReadError("training data", f"{len(samples)} pictures came with {len(scans)} scans")
    return [Sample(s.image, scan) for s, scan in zip(samples or [Sample()] * len(scans), scans, strict=True)]


def _as_sample(item: Any) -> Sample:
    if isinstance(item, Sample):
        return item
    if isinstance(item, Mapping):
        return Sample(item.get("image"), item.get("points"))
    if isinstance(item, tuple):  # (picture, label) as torchvision's datasets give it
        return Sample(item[0])
    # A stream can be read once, and a picture may be asked for twice.
    return Sample(item.read() if hasattr(item, "read") else item)


def collect_good_samples(config: ASTDetectorConfig, images: Any, points: Iterable[Any] | None = None) -> list[Sample]:
    """`collect_samples` to train on: what would be learnt by mistake is refused (`check_good_parts`) or else logged."""
    if isinstance(images, (str, os.PathLike)):
        check_good_parts(images, (path.relative_to(images) for path in find_images(images)))
    samples = collect_samples(config, images, points)
    sources = [sample.image if sample.image is not None else sample.points for sample in samples]
    if files := [Path(source) for source in sources if isinstance(source, (str, os.PathLike))]:
        _LOG.info("%d good parts: %s.", len(samples), describe_folders(files))
    if copies := describe_copies(sources):
        _LOG.warning("Of the good parts %s", copies)
    return samples


def describe_copies(sources: Sequence[Any]) -> str:
    """A sentence on how many files, or pictures in memory, equal another one in every byte; empty where none does."""
    digests = set()
    for source in sources:
        with decoding(source) as name:
            is_encoded = isinstance(source, (str, os.PathLike, bytes))
            data = read_bytes(source, name, DEFAULT_LIMITS) if is_encoded else np.asarray(source).tobytes()
        digests.add(hashlib.sha256(data).digest())
    copies = len(sources) - len(digests)
    text = f"{copies} of {len(sources)} are copies of others: they teach nothing new, and the threshold may be too low."
    return text if copies else ""


def file_sample(config: ASTDetectorConfig, path: Path) -> Sample:
    """The sample of a single file: a picture, a scan for depth alone, or for both a picture with its scan.

    The scan has the picture's path with xyz for rgb, as in MVTec 3D-AD: .../rgb/000.png has .../xyz/000.tiff (or .tif).
    Raises an `ImageReadError` where there is no scan of the picture, or more than one.
    """
    if not config.uses_depth:
        return Sample(path)
    if not config.uses_rgb:
        return Sample(points=path)
    if not path.is_file():
        raise ImageReadError(path, "there is no such file; check the path.")
    absolute = path.absolute()
    rgb = next((parent for parent in absolute.parents if parent.name == "rgb"), absolute.parent)
    wanted = rgb.parent / "xyz" / absolute.relative_to(rgb)
    beside = wanted.parent.glob(f"{glob.escape(path.stem)}.*")
    scans = sorted(scan for scan in beside if scan.stem == path.stem and scan.suffix.lower() in SCAN_EXTENSIONS)
    if not scans:
        raise ImageReadError(path, f"its scan is missing: there is no {wanted.with_suffix('')}.tiff or .tif")
    if len(scans) > 1:
        raise ImageReadError(path, f"its scan could be {scans[0]} or {scans[1]}; remove the one that is not meant.")
    return Sample(path, scans[0])


def count_readers(device: torch.device) -> int:
    """Threads that keep up with a device: decoding takes several times as long as computing a map on a GPU."""
    return min(os.cpu_count() or 1, 16) if device.type == "cuda" else 2


def prefetch(function: Callable[[_Item], _Result], items: Iterable[_Item], *, workers: int = 2) -> Iterator[_Result]:
    """`map` with the next few results computed in threads meanwhile; decoding pictures leaves the GIL alone."""
    # For one there is no meanwhile, and in a new thread torch starts threads of its own.
    if isinstance(items, Sequence) and len(items) == 1:
        yield function(items[0])
        return
    with ThreadPoolExecutor(workers) as executor:
        source = iter(items)
        try:
            waiting = deque(executor.submit(function, item) for item in islice(source, 4 * workers))
            while waiting:
                result = waiting.popleft().result()
                waiting.extend(executor.submit(function, item) for item in islice(source, 1))
                yield result
        finally:
            executor.shutdown(cancel_futures=True)


def batched(items: Iterable[_Item], size: int) -> Iterator[list[_Item]]:
    """The items in lists of `size`, the last one perhaps shorter."""
    source = iter(items)
    while batch := list(islice(source, size)):
        yield batch


def stack(tensors: Sequence[Tensor | None], device: torch.device) -> Tensor | None:
    """A batch of them on the device, or None where they are None."""
    present = [tensor for tensor in tensors if tensor is not None]
    if not present:
        return None
    batch = torch.stack(present)
    # Only from pinned memory is a copy to a GPU made beside what that is computing.
    return batch.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else batch.to(device)


def stack_pixel_values(
    config: ASTDetectorConfig, samples: Sequence[LoadedSample], device: torch.device
) -> Tensor | None:
    """The pictures of a batch as `ASTNetwork.forward` takes them, or None where there are none."""
    pixels = stack([sample.pixels for sample in samples], device)
    return None if pixels is None else normalize(pixels, config.image_mean, config.image_std)
