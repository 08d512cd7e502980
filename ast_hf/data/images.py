"""Reading pictures and masks from anyone, and keeping their geometry: one error class, no surprises.

A picture comes out as it is meant to be looked at: EXIF orientation applied, more bits than 8 brought to 8 (`deep`),
transparency laid on white. Colour profiles (ICC) are ignored, as in the datasets' own pipelines.
"""

from __future__ import annotations

import io
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ast_hf.data.deep import DeepPicture, read_deep
from ast_hf.data.reading import DEFAULT_LIMITS, FORMATS, ImageFile, ImageLimits, decoding, read_bytes, source_name
from ast_hf.errors import ImageReadError

ImageSource: TypeAlias = "ImageFile | Image.Image | np.ndarray"

# What lies under transparent pixels: browsers and picture viewers show them on white, so the detector sees what the
# user sees.
BACKGROUND = (255, 255, 255, 255)
_SAMPLE_FORMAT, _SIGNED = 339, 2  # of TIFF


def read_image(source: ImageSource, *, bits: int | None = None, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Reads a picture as 8-bit RGB in the orientation it is displayed in.

    Args:
        source: A path, encoded bytes, a binary stream, a PIL image, or an array of shape (H, W), (H, W, 1), (H, W, 3)
            or (H, W, 4): bool, uint8, uint16, or floating point in [0, 1]. Alpha is composited on white.
        bits: How many bits a colour those pictures use that have more than 8 (`ASTDetectorConfig.image_bits`): the
            high 8 of them are kept. None takes what the file says, or 16 if values are that large.
        limits: What is too large or too small.

    Returns:
        A new image without metadata; `source` is left as it is.

    Raises:
        ImageReadError: `source` is missing, damaged, out of limits, of another format, animated, or holds values
            whose range is not known or not that of `bits`.
    """
    name = source_name(source)
    with decoding(name):
        if isinstance(source, np.ndarray):
            array = _checked_array(source, name, limits)
            return _to_rgb(Image.fromarray(_to_8_bits(array, bits, name)), name)
        image, data = _open(source, name, limits)
        deep = read_deep(image, data, name, limits)
        if deep is not None:
            orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
            image = Image.fromarray(deep.to_8_bits(bits))
            image.getexif()[ExifTags.Base.Orientation] = orientation
        image.load()  # before the orientation is asked for: a PNG may hold it behind the pixels
        return _to_rgb(ImageOps.exif_transpose(image), name)


def image_bits(source: ImageSource, *, limits: ImageLimits = DEFAULT_LIMITS) -> int | None:
    """How many bits a colour a picture uses at least, if it has more than 8 and else None; errors as `read_image`."""
    name = source_name(source)
    with decoding(name):
        if isinstance(source, np.ndarray):
            array = _checked_array(source, name, limits)
            deep = DeepPicture(array, name) if array.dtype.newbyteorder("=") == np.uint16 else None
        else:
            deep = read_deep(*_open(source, name, limits), name, limits)
        return None if deep is None else deep.known_bits or deep.bits_at_least


def read_mask(source: ImageFile | Image.Image, *, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Reads a ground-truth mask as bool (H, W).

    Masks may be multi-valued (VisA numbers its defect kinds), so any value but 0 counts; where values in between make
    up the edges (`has_soft_edges`), those above half of the highest.

    Raises:
        ImageReadError: As `read_image`.
    """
    values = read_mask_values(source, limits=limits)
    return values > values.max() / 2 if has_soft_edges(values) else values != 0


def read_mask_values(source: ImageFile | Image.Image, *, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Reads a mask's values (H, W): grey, or the highest of the colours on black, or opacity where all paint is black.

    Raises:
        ImageReadError: As `read_image`.
    """
    name = source_name(source)
    with decoding(name):
        image = _decode(source, name, limits)
        if image.mode == "F":
            raise ImageReadError(name, "this is a floating-point picture; save the mask with 8 bits.")
        if image.mode in ("1", "L", "I") or image.mode.startswith("I;16"):
            return np.asarray(image)
        values = np.asarray(_flatten(image, background=(0, 0, 0, 255))).max(axis=2)
        if values.any() or not image.has_transparency_data:
            return values
        opacity = np.asarray(image.convert("RGBA").getchannel("A"))
        return opacity if opacity.min() < opacity.max() else values


def has_soft_edges(values: np.ndarray) -> bool:
    """Whether a mask's values in between (H, W) are its edges, after antialiasing, resizing or JPEG, and no classes.

    Such values are several, and unlike a class hardly any of them fills an area, not even of 2 x 2 pixels.
    """
    top = int(values.max())
    between = (values > 0) & (values < top)
    kinds, pixels = np.unique(values[between], return_counts=True)
    corner = values[:-1, :-1]
    area = (corner == values[1:, :-1]) & (corner == values[:-1, 1:]) & (corner == values[1:, 1:])
    filling = np.bincount(np.searchsorted(kinds, corner[area & between[:-1, :-1]]), minlength=len(kinds))
    return bool(np.count_nonzero(filling < 0.2 * pixels) >= (3 if top >= 128 else 8))


def _decode(source: ImageFile | Image.Image, name: str, limits: ImageLimits) -> Image.Image:
    """A decoded copy in displayed orientation, still in the file's mode."""
    image, _ = _open(source, name, limits)
    # Before the orientation is asked for: a PNG may hold it behind the pixels.
    image.load()
    return ImageOps.exif_transpose(image)


def _open(source: ImageFile | Image.Image, name: str, limits: ImageLimits) -> tuple[Image.Image, bytes | None]:
    """A picture within limits and the file that it comes from, if there is one; no pixel is decoded yet."""
    if isinstance(source, Image.Image):
        image, data = source, None
    else:
        data = read_bytes(source, name, limits)
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    _check_size(*image.size, name, limits)
    if _has_more_frames(image):
        raise ImageReadError(name, "the file holds several pictures (pages or frames); save one of them by itself.")
    if _SIGNED in getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, ()):
        raise ImageReadError(name, "the TIFF holds signed numbers, of which none is white; save it unsigned.")
    return image, data


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


def _checked_array(array: np.ndarray, name: str, limits: ImageLimits) -> np.ndarray:
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ImageReadError(
            name, f"the array has shape {array.shape}; give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."
        )
    _check_size(array.shape[1], array.shape[0], name, limits)
    return array


def _to_8_bits(array: np.ndarray, bits: int | None, name: str) -> np.ndarray:
    kind = array.dtype.newbyteorder("=")
    if kind == np.uint16:
        array = DeepPicture(array, name).to_8_bits(bits)
    elif kind == np.bool_:
        array = array * np.uint8(255)
    elif np.issubdtype(kind, np.floating):
        # One comparison for all: it is false for NaN as well.
        if not ((array >= 0) & (array <= 1)).all():
            raise ImageReadError(name, "the array has values outside [0, 1] or NaN; scale it, or give uint8.")
        array = np.rint(array.astype(np.float32) * 255)
    elif kind != np.uint8:
        raise ImageReadError(name, f"the array is {kind}; give uint8, uint16, bool, or floating point in [0, 1].")
    return array.astype(np.uint8)


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode in ("I", "F"):
        kind = "32-bit integer" if image.mode == "I" else "floating-point"
        raise ImageReadError(name, f"this is a {kind} picture, whose range is not known; save it with 8 or 16 bits.")
    rgb = _flatten(image, BACKGROUND)
    rgb.info = {}  # nothing of the file's metadata into what is made from it
    return rgb


def _flatten(image: Image.Image, background: tuple[int, int, int, int]) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")
