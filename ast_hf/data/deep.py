"""Pictures of more than 8 bits a colour: the 10 or 12 of a camera often lie in files of 16."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from ast_hf.data.reading import ImageLimits, quiet, read_tiff
from ast_hf.errors import ImageReadError

DEPTHS = (10, 12, 14, 16)  # that cameras have
_BITS_PER_SAMPLE, _PHOTOMETRIC, _LARGEST_SAMPLE = 258, 262, 341  # tags of TIFF
_WHITE_IS_ZERO = 0


@dataclass(frozen=True, eq=False)
class DeepPicture:
    """A picture's values before it is known which of them is white.

    Attributes:
        values: uint16 (H, W) or (H, W, C): grey, grey and opacity, RGB, or RGBA.
        name: What errors call the picture.
        stated: How many bits the file says that its colours use, or None.
    """

    values: np.ndarray
    name: str
    stated: int | None = None

    @cached_property
    def largest(self) -> int:
        """The largest value of a colour."""
        return int((self.values[..., :-1] if self._has_opacity else self.values).max())

    @property
    def bits_at_least(self) -> int:
        """The fewest of `DEPTHS` that hold the largest value."""
        return next(depth for depth in DEPTHS if self.largest < 1 << depth)

    @property
    def known_bits(self) -> int | None:
        """The stated bits, if the values lie within them (by PNG's rules they are scaled up to 16), or 16."""
        if self.stated and self.largest < 1 << self.stated:
            return self.stated
        return 16 if self.bits_at_least == 16 else None

    def to_8_bits(self, bits: int | None) -> np.ndarray:
        """The high 8 bits (uint8) of the values of a picture of so many; None takes its own, if they are known.

        Raises:
            ImageReadError: They are not, or the picture has others.
        """
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
        if self._has_opacity and self.values[..., -1].max() >> used:
            eight[..., -1] = self.values[..., -1] >> 8
        return eight

    @property
    def _has_opacity(self) -> bool:
        return self.values.shape[2:] in ((2,), (4,))


def read_deep(image: Image.Image, data: bytes | None, name: str, limits: ImageLimits) -> DeepPicture | None:
    """The values of a picture whose header was read, or None if it has no more than 8 bits.

    Args:
        image: As Pillow opens it, which of 16-bit colours keeps the high byte alone.
        data: The file, or None if `image` came without.
        name: What errors call it.
        limits: What is too large.
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

        with quiet("imagecodecs"):
            return DeepPicture(imagecodecs.png_decode(data), name, _significant_bits(data))
    return _of_tiff(np.asarray(image) if grey or data is None else _colours(image, data, name, limits), tags, name)


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


def _colours(image: Image.Image, tiff: bytes, name: str, limits: ImageLimits) -> np.ndarray:
    values = read_tiff(tiff, name, 4 * limits.max_pixels)
    if values.shape[0] == len(image.mode):  # colour by colour
        values = np.moveaxis(values, 0, -1)
    return values[..., : len(image.mode)]


def _of_tiff(values: np.ndarray, tags: Mapping[int, Any], name: str) -> DeepPicture:
    """The picture that a TIFF's tags make of its values; without tags, 16 bits."""
    bits, largest = max(tags.get(_BITS_PER_SAMPLE, (16,))), max(tags.get(_LARGEST_SAMPLE, (0,)))
    if tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO:
        values = (1 << bits) - 1 - values
    # Some programs write the picture's own largest value there.
    stated = largest.bit_length() if largest & (largest + 1) == 0 else None
    return DeepPicture(values, name, stated if bits == 16 else bits)
