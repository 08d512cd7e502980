"""Reading pictures and masks from anyone, and keeping their geometry: one error class, no surprises.

A picture comes out as it is meant to be looked at: EXIF orientation applied, more bits than 8 brought to 8,
transparency laid on white. Colour profiles (ICC) are ignored, as in the datasets' own pipelines.
"""

import io
from typing import TypeAlias

import numpy as np
from PIL import ExifTags, Image, ImageOps

from ast_hf.data import reading
from ast_hf.data.reading import DEFAULT_LIMITS, ImageFile, ImageLimits, decoding, read_bytes
from ast_hf.errors import ImageReadError

ImageSource: TypeAlias = ImageFile | Image.Image | np.ndarray

# Under transparent pixels: browsers and viewers show them on white, so the detector sees what the user sees.
_WHITE, _BLACK = (255, 255, 255, 255), (0, 0, 0, 255)
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT, _LARGEST_SAMPLE = 258, 262, 339, 341  # tags of TIFF
_WHITE_IS_ZERO, _SIGNED = 0, 2
_DEPTHS = (10, 12, 14, 16)  # that cameras have


def read_image(source: ImageSource, *, bits: int | None = None, limits: ImageLimits = DEFAULT_LIMITS) -> Image.Image:
    """Reads a picture as 8-bit RGB in the orientation it is displayed in.

    Args:
        source: A path, encoded bytes, a binary stream, a PIL image, or an array of shape (H, W), (H, W, 1), (H, W, 3)
            or (H, W, 4): bool, uint8, uint16, or floating point in [0, 1]. Alpha is composited on white.
        bits: How many bits a colour those pictures use that have more than 8 (`ASTDetectorConfig.image_bits`): the
            high 8 of them are kept. None takes what the file says, or 16 if values are that large.

    Returns a new image without metadata; `source` is left as it is. Raises an `ImageReadError` where that is missing,
    damaged, out of limits, of another format, animated, or holds values whose range is not known or not that of `bits`.
    """
    with decoding(source) as name:
        if isinstance(source, np.ndarray):
            image = Image.fromarray(_to_8_bits(_checked_array(source, name, limits), bits, name))
        else:
            image, data = _open(source, name, limits)
            if (deep := _read_deep(image, data, name, limits)) is not None:
                orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
                image = Image.fromarray(deep.to_8_bits(bits))
                image.getexif()[ExifTags.Base.Orientation] = orientation
            image = _upright(image)
        if image.mode in ("I", "F"):
            kind = "32-bit integer" if image.mode == "I" else "floating-point"
            reason = f"this is a {kind} picture, whose range is not known; save it with 8 or 16 bits."
            raise ImageReadError(name, reason)
        rgb = _flatten(image, _WHITE)
        rgb.info = {}  # nothing of the file's metadata into what is made from it
        return rgb


def image_bits(source: ImageSource) -> int | None:
    """How many bits a colour a picture uses at least, if it has more than 8 and else None; errors as `read_image`."""
    with decoding(source) as name:
        if isinstance(source, np.ndarray):
            array = _checked_array(source, name, DEFAULT_LIMITS)
            deep = _DeepPicture(array, name) if array.dtype.newbyteorder("=") == np.uint16 else None
        else:
            deep = _read_deep(*_open(source, name, DEFAULT_LIMITS), name, DEFAULT_LIMITS)
        return None if deep is None else deep.known_bits or deep.bits_at_least


def read_mask(source: ImageFile | Image.Image, *, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Reads a ground-truth mask as bool (H, W); errors as `read_image`.

    Masks may be multi-valued (VisA numbers its defect kinds), so any value but 0 counts; where values in between make
    up the edges (`has_soft_edges`), those above half of the highest.
    """
    values = read_mask_values(source, limits=limits)
    return values > values.max() / 2 if has_soft_edges(values) else values != 0


def read_mask_values(source: ImageFile | Image.Image, *, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
    """A mask's values (H, W): grey, or the highest of the colours on black, or opacity where all paint is black."""
    with decoding(source) as name:
        image = _upright(_open(source, name, limits)[0])
        if image.mode == "F":
            raise ImageReadError(name, "this is a floating-point picture; save the mask with 8 bits.")
        if image.mode in ("1", "L", "I") or image.mode.startswith("I;16"):
            return np.asarray(image)
        values = np.asarray(_flatten(image, _BLACK)).max(axis=2)
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


def _open(source: ImageFile | Image.Image, name: str, limits: ImageLimits) -> tuple[Image.Image, bytes | None]:
    """A picture within limits and the file that it comes from, if there is one; no pixel is decoded yet."""
    if isinstance(source, Image.Image):
        image, data = source, None
    else:
        data = read_bytes(source, name, limits)
        image = Image.open(io.BytesIO(data), formats=reading.FORMATS)
    _check_size(*image.size, name, limits)
    if _has_more_frames(image):
        raise ImageReadError(name, "the file holds several pictures (pages or frames); save one of them by itself.")
    if _SIGNED in getattr(image, "tag_v2", {}).get(_SAMPLE_FORMAT, ()):
        raise ImageReadError(name, "the TIFF holds signed numbers, of which none is white; save it unsigned.")
    return image, data


def _upright(image: Image.Image) -> Image.Image:
    """A decoded copy in displayed orientation, still in the file's mode."""
    image.load()  # before the orientation is asked for: a PNG may hold it behind the pixels
    return ImageOps.exif_transpose(image)


def _check_size(width: int, height: int, name: str, limits: ImageLimits) -> None:
    (short, long), size = sorted((width, height)), f"the picture is {width} x {height} pixels"
    if short < limits.min_side:
        raise ImageReadError(name, f"{size}; each side needs at least {limits.min_side}.")
    if width * height > limits.max_pixels:
        raise ImageReadError(name, f"{size}; scale it down to at most {limits.max_pixels / 1e6:g} million.")
    if long > limits.max_aspect * short:
        raise ImageReadError(name, f"{size}, longer than {limits.max_aspect:g}:1; crop it.")


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
        reason = f"the array has shape {array.shape}; give (H, W), (H, W, 1), (H, W, 3) or (H, W, 4)."
        raise ImageReadError(name, reason)
    _check_size(array.shape[1], array.shape[0], name, limits)
    return array


def _to_8_bits(array: np.ndarray, bits: int | None, name: str) -> np.ndarray:
    kind = array.dtype.newbyteorder("=")
    if kind == np.uint16:
        array = _DeepPicture(array, name).to_8_bits(bits)
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


def _flatten(image: Image.Image, background: tuple[int, int, int, int]) -> Image.Image:
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, background), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


class _DeepPicture:
    """A picture of more than 8 bits a colour before it is known which value is white.

    `values` are uint16 (H, W) or (H, W, C): grey, grey and opacity, RGB, or RGBA; `stated` is how many bits the file
    says that its colours use. The 10 or 12 bits of a camera often lie in files of 16.
    """

    def __init__(self, values: np.ndarray, name: str, stated: int | None = None) -> None:
        self.values, self.name = values, name
        self.has_opacity = values.shape[2:] in ((2,), (4,))
        self.largest = int((values[..., :-1] if self.has_opacity else values).max())  # of a colour
        self.bits_at_least = next(depth for depth in _DEPTHS if self.largest < 1 << depth)
        # Those stated, if the values lie within them: by PNG's rules they are scaled up to 16.
        is_stated = stated and self.largest < 1 << stated
        self.known_bits = stated if is_stated else 16 if self.bits_at_least == 16 else None

    def to_8_bits(self, bits: int | None) -> np.ndarray:
        """The high 8 bits (uint8) of the values of a picture of so many; None takes its own, which must be known."""
        used = bits or self.known_bits
        if used is None:
            reason = f"no value of this 16-bit picture is above {self.largest}, and whether it is dark or of "
            reason += f"{self.bits_at_least} bits is not known; save it with 8 bits, or train on such pictures."
            raise ImageReadError(self.name, reason)
        if self.largest >> used or (self.known_bits or used) != used:
            reason = f"the picture has {self.known_bits or self.bits_at_least} bits a colour (values up to "
            reason += f"{self.largest}), and those that the detector learnt from have {used}; save it like those."
            raise ImageReadError(self.name, reason)
        eight = (self.values >> (used - 8)).astype(np.uint8)
        if self.has_opacity and self.values[..., -1].max() >> used:
            eight[..., -1] = self.values[..., -1] >> 8
        return eight


def _read_deep(image: Image.Image, data: bytes | None, name: str, limits: ImageLimits) -> _DeepPicture | None:
    """The values of a picture whose header was read, or None if it has no more than 8 bits.

    Pillow, which has opened `image` (from the file `data`, where there is one), keeps of 16-bit colours the high byte.
    """
    grey, tags = image.mode.startswith("I;16"), getattr(image, "tag_v2", {})
    if image.format == "PNG":  # the header's bit depth; Pillow forgets it with the pixels
        is_deep = data[24] == 16 if data is not None else ";16" in str(getattr(image, "tile", ""))
    else:
        is_deep = 8 < max(tags.get(_BITS_PER_SAMPLE, (8,))) <= 16
    if not grey and not is_deep:
        return None
    if not grey and (data is None or image.mode not in ("RGB", "RGBA", "LA")):
        raise ImageReadError(name, f"Pillow reads 8 of this {image.mode} picture's 16 bits; give its file, in RGB.")
    if image.format == "PNG" and data is not None:
        import imagecodecs

        with reading.quiet("imagecodecs"):
            return _DeepPicture(imagecodecs.png_decode(data), name, _significant_bits(data))
    if grey or data is None:
        values = np.asarray(image)
    else:
        values = reading.read_tiff(data, name, 4 * limits.max_pixels)
        if values.shape[0] == len(image.mode):  # colour by colour
            values = np.moveaxis(values, 0, -1)
        values = values[..., : len(image.mode)]
    bits, largest = max(tags.get(_BITS_PER_SAMPLE, (16,))), max(tags.get(_LARGEST_SAMPLE, (0,)))
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = (1 << bits) - 1 - values
    # Some programs write the picture's own largest value there.
    stated = largest.bit_length() if largest & (largest + 1) == 0 else None
    return _DeepPicture(values, name, stated if bits == 16 else bits)


def _significant_bits(png: bytes) -> int | None:
    """What the chunk sBIT says of the colours; it comes before the pixels."""
    place, channels = 8, {0: 1, 4: 1}.get(png[25], 3)
    while (kind := png[place + 4 : place + 8]) not in (b"IDAT", b""):
        end = place + 8 + int.from_bytes(png[place : place + 4], "big")
        if kind == b"sBIT":
            bits = max(png[place + 8 : end][:channels], default=0)
            return bits if 8 <= bits <= 16 else None
        place = end + 4
    return None
