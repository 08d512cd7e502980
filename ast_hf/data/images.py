"""Reading pictures and masks from anyone, and keeping their geometry: one error class, no surprises.

A picture comes out as it is meant to be looked at: EXIF orientation applied, 16 bits brought to 8 by their high byte,
transparency laid on white. Colour profiles (ICC) are ignored, as in the datasets' own pipelines.
"""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import TypeAlias

import numpy as np
from PIL import Image, ImageOps

from ast_hf.data.reading import DEFAULT_LIMITS, FORMATS, ImageFile, ImageLimits, decoding, read_bytes, source_name
from ast_hf.errors import ImageReadError

ImageSource: TypeAlias = "ImageFile | Image.Image | np.ndarray"

EXTENSIONS = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})
# What lies under transparent pixels: browsers and picture viewers show them on white, so the detector sees what the
# user sees.
BACKGROUND = (255, 255, 255, 255)


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
    with decoding(name):
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
    with decoding(name):
        image = _decode(source, name, limits)
        if image.mode == "F":
            raise ImageReadError(name, "this is a floating-point picture; save the mask with 8 bits.")
        if image.mode in ("1", "L", "I") or image.mode.startswith("I;16"):
            return np.asarray(image) != 0
        return np.any(np.asarray(_flatten(image, background=(0, 0, 0, 255))), axis=2)


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
