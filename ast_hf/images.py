"""Reading pictures, masks and 3D scans from anyone, and keeping their geometry: one error class, no surprises.

A picture comes out as it is meant to be looked at: EXIF orientation applied, 16 bits brought to 8 by their high byte,
transparency laid on white. Colour profiles (ICC) are ignored, as in the datasets' own pipelines.
"""

from __future__ import annotations

import io
import os
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from ast_hf.errors import ImageReadError
from ast_hf.reading import DEFAULT_LIMITS, FORMATS, ImageFile, ImageLimits, one_error, quiet, read_bytes, source_name

if TYPE_CHECKING:
    import tifffile

ImageSource: TypeAlias = "ImageFile | Image.Image | np.ndarray"

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
# What lies under transparent pixels: browsers and picture viewers show them on white, so the detector sees what the
# user sees.
BACKGROUND = (255, 255, 255, 255)
# TIFF's numbers for none, LZW and the two of deflate.
_SCAN_COMPRESSIONS = {1, 5, 8, 32946}


def read_image(source: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Reads a picture as 8-bit RGB in the orientation it is displayed in.

    Args:
        source: A path, encoded bytes, a binary stream, a PIL image, or an array of shape (H, W), (H, W, 1), (H, W, 3)
            or (H, W, 4): bool, uint8, uint16, or floating point in [0, 1]. 16 bits are divided by 256 (rounding down),
            alpha is composited on white.
        limits: What is too large or too small.

    Returns:
        A new image without metadata; `source` is left as it is.

    Raises:
        ImageReadError: `source` is missing, damaged, out of limits, of another format, animated, or holds values
            whose range is not known.
    """
    name = source_name(source)
    with one_error(name):
        if isinstance(source, np.ndarray):
            return _to_rgb(_image_from_array(source, name, limits), name)
        return _to_rgb(_decode(source, name, limits), name)


def read_mask(source: ImageFile | Image.Image, *, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Reads a ground-truth mask as bool (H, W): true wherever any colour channel is not zero and not transparent.

    Masks may be multi-valued (VisA numbers its defect kinds), so any value but 0 counts.

    Raises:
        ImageReadError: As `read_image`.
    """
    name = source_name(source)
    with one_error(name):
        image = _decode(source, name, limits)
        if image.mode == "F":
            raise ImageReadError(name, "this is a floating-point picture; save the mask with 8 bits.")
        if image.mode in ("1", "L", "I") or image.mode.startswith("I;16"):
            return np.asarray(image) != 0
        return np.any(np.asarray(_flatten(image, background=(0, 0, 0, 255))), axis=2)


def read_scan(source: ImageFile | np.ndarray, *, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Reads an organised point cloud, such as MVTec 3D-AD's xyz TIFFs.

    Args:
        source: A TIFF (path, bytes or binary stream) of one page, or an array: floating point, (H, W, 3) for x, y, z
            or (H, W) for z alone, in metres. Zeros and non-finite values mark points that were not measured; they
            are kept.
        limits: What is too large or too small.

    Returns:
        float32, (H, W, 3) or (H, W).

    Raises:
        ImageReadError: `source` is missing, damaged, out of limits, or not such a cloud.
    """
    name = source_name(source)
    with one_error(name):
        if isinstance(source, np.ndarray):
            _check_scan(source.shape, source.dtype, name, limits)
            points = source
        else:
            points = _read_tiff(read_bytes(source, name, limits), name, limits)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf: not measured
            return np.ascontiguousarray(points, dtype=np.float32)


def to_pixel_values(image: Image.Image, size: int) -> Tensor:
    """Turns an RGB picture into the network's input, value for value as torchvision's Resize, ToTensor and Normalize.

    Args:
        image: As `read_image` gives it.
        size: Side of the square it is resized to (bilinear with antialiasing, aspect not kept), as the authors do.

    Returns:
        float32 (3, size, size), normalised with ImageNet's mean and deviation.
    """
    return normalize(to_square(image, size))


def to_square(image: Image.Image, size: int) -> Tensor:
    """The first half of `to_pixel_values`: pixels uint8 (3, size, size), a quarter of the bytes."""
    if image.mode != "RGB":
        raise ValueError(f"The picture has mode {image.mode}, not RGB: read it with read_image.")
    resized = np.array(image.resize((size, size), Image.Resampling.BILINEAR))
    return torch.from_numpy(resized).permute(2, 0, 1).contiguous()


def normalize(pixels: Tensor) -> Tensor:
    """The second half: RGB pixels uint8 (..., 3, H, W) in float32, normalised with ImageNet's mean and deviation."""
    mean, std = (torch.tensor(v, device=pixels.device).view(3, 1, 1) for v in (IMAGENET_MEAN, IMAGENET_STD))
    return pixels.float().div_(255).sub_(mean).div_(std)


def upsample_map(anomaly_map: Tensor, size: tuple[int, int]) -> Tensor:
    """Brings maps (B, h, w) or (h, w) to `size` = (H, W), bicubic as in the paper; values may overshoot a little."""
    batched = anomaly_map if anomaly_map.ndim == 3 else anomaly_map[None]
    resized = torch.nn.functional.interpolate(batched[:, None], size=size, mode="bicubic", align_corners=False)[:, 0]
    return resized if anomaly_map.ndim == 3 else resized[0]


def find_images(folder: str | os.PathLike[str]) -> list[Path]:
    """Lists the pictures under a folder by their extension (`EXTENSIONS`, in any case), sorted.

    Hidden files and folders are left out, linked folders are not entered. Empty and damaged files are listed: reading
    them fails with a reason, where leaving them out would hide the loss.

    Raises:
        ImageReadError: The folder is missing, cannot be listed, or has no picture.
    """
    root = Path(folder)
    if not root.is_dir():
        problem = "this is a file; give the folder that it lies in." if root.exists() else "there is no such folder."
        raise ImageReadError(root, problem)

    def refuse(error: OSError) -> None:
        raise ImageReadError(error.filename, f"the folder cannot be listed ({error.strerror}).") from error

    found = []
    for parent, folders, files in os.walk(root, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(parent, name) for name in files if _is_picture_name(name)]
    if not found:
        raise ImageReadError(root, f"there are no pictures in this folder; put {', '.join(FORMATS)} files in.")
    return sorted(found)


def _is_picture_name(name: str) -> bool:
    return not name.startswith(".") and Path(name).suffix.lower() in EXTENSIONS


def _decode(source: ImageFile | Image.Image, name: str, limits: ImageLimits) -> Image.Image:
    """A decoded copy in displayed orientation, still in the file's mode; header first, pixels only within limits."""
    if isinstance(source, Image.Image):
        image = source
    else:
        image = Image.open(io.BytesIO(read_bytes(source, name, limits)), formats=FORMATS)
    _check_size(*image.size, name, limits)
    if _has_more_frames(image):
        raise ImageReadError(name, "the file holds several pictures (pages or frames); save one of them by itself.")
    # Before the orientation is asked for: a PNG may hold it behind the pixels.
    image.load()
    return ImageOps.exif_transpose(image)


def _check_size(width: int, height: int, name: str, limits: ImageLimits) -> None:
    short, long = sorted((width, height))
    if short < limits.min_side:
        raise ImageReadError(
            name, f"the picture is {width} x {height} pixels; each side needs at least {limits.min_side}."
        )
    if width * height > limits.max_pixels:
        most = f"{limits.max_pixels / 1e6:g} million"
        raise ImageReadError(name, f"the picture is {width} x {height} pixels; scale it down to at most {most}.")
    if long > limits.max_aspect * short:
        raise ImageReadError(
            name, f"the picture is {width} x {height} pixels, longer than {limits.max_aspect:g}:1; crop it."
        )


def _has_more_frames(image: Image.Image) -> bool:
    # Phones store a preview behind the photo: the first picture of an MPO is the photo.
    if image.format == "MPO":
        return False
    # Not n_frames, which takes minutes to count the pages of a small TIFF made for the purpose.
    current = image.tell()
    try:
        image.seek(0 if current else 1)
    except EOFError:
        return False
    image.seek(current)
    return True


def _image_from_array(array: np.ndarray, name: str, limits: ImageLimits) -> Image.Image:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageReadError(
            name, f"the array has shape {array.shape}; give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."
        )
    _check_size(array.shape[1], array.shape[0], name, limits)
    kind = array.dtype.newbyteorder("=")
    if kind == np.uint16:
        array = array >> 8
    elif kind == np.bool_:
        array = array * np.uint8(255)
    elif np.issubdtype(kind, np.floating):
        # One comparison for all: it is false for NaN as well.
        if not ((array >= 0) & (array <= 1)).all():
            raise ImageReadError(name, "the array has values outside [0, 1] or NaN; scale it, or give uint8.")
        array = np.rint(array.astype(np.float32) * 255)
    elif kind != np.uint8:
        raise ImageReadError(name, f"the array is {kind}; give uint8, uint16, bool, or floating point in [0, 1].")
    return Image.fromarray(array.astype(np.uint8))


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode.startswith("I;16"):
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    elif image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise ImageReadError(name, f"this is a {kind} picture, whose range is not known; save it with 8 or 16 bits.")
    rgb = _flatten(image, BACKGROUND)
    rgb.info = {}  # nothing of the file's metadata into what is made from it
    return rgb


def _flatten(image: Image.Image, background: tuple[int, int, int, int]) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba)
    return image.convert("RGB")


def _read_tiff(data: bytes, name: str, limits: ImageLimits) -> np.ndarray:
    import tifffile

    if data[:2] not in (b"II", b"MM"):
        raise ImageReadError(name, "this is not a TIFF; other scans can be passed as an array (H, W, 3) in metres.")
    with quiet("tifffile"), tifffile.TiffFile(io.BytesIO(data)) as tiff:
        if len(tiff.pages) != 1:
            raise ImageReadError(name, f"the TIFF has {len(tiff.pages)} pages; a scan has one.")
        page = tiff.pages.first
        _check_scan(page.shape, page.dtype, name, limits)
        _check_storage(page, name, limits)
        return page.asarray(maxworkers=1)


def _check_storage(page: tifffile.TiffPage, name: str, limits: ImageLimits) -> None:
    # A tile is decoded whole, however little of it the page shows.
    if prod(page.chunks) > 3 * limits.max_points:
        raise ImageReadError(name, "the TIFF declares tiles far larger than a scan; save it in strips.")
    if page.compression not in _SCAN_COMPRESSIONS:
        raise ImageReadError(name, f"the TIFF is compressed with {page.compression!r}; use none, LZW or deflate.")


def _check_scan(shape: tuple[int, ...], dtype: np.dtype | None, name: str, limits: ImageLimits) -> None:
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise ImageReadError(name, f"the scan has shape {shape}; give (H, W, 3) for x, y, z or (H, W) for z.")
    if dtype is None or not np.issubdtype(dtype, np.floating):
        raise ImageReadError(name, f"the scan is {dtype}; give metres in floating point.")
    height, width = shape[:2]
    if min(height, width) < limits.min_side:
        raise ImageReadError(
            name, f"the scan is {width} x {height} points; each side needs at least {limits.min_side}."
        )
    if height * width > limits.max_points:
        raise ImageReadError(
            name, f"the scan declares {width} x {height} points; at most {limits.max_points} are read."
        )
