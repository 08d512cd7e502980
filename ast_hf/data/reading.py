"""Bytes from a path, a stream or memory, within limits, and one error for whatever is wrong with them."""

import io
import logging
import os
import struct
import threading
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import BinaryIO, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError

from ast_hf.errors import ImageReadError

ImageFile: TypeAlias = str | os.PathLike[str] | bytes | BinaryIO

# TIFF's numbers for none, LZW, the two of deflate, and PackBits.
_COMPRESSIONS = {1, 5, 8, 32946, 32773}
# An allow-list: by default Pillow sniffs sixty formats, among them EPS, which starts Ghostscript.
FORMATS = ("PNG", "JPEG", "BMP", "TIFF", "WEBP")
# What Pillow, tifffile, imagecodecs and zipfile raise for damaged data; a lack of memory is none of them.
_DECODER_FAULTS = (
    OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, ArithmeticError, RuntimeError, struct.error,
    zlib.error, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class ImageLimits:
    """What is refused from the header alone, before a pixel is decoded."""

    max_bytes: int = 256 * 2**20
    max_pixels: int = 64_000_000
    max_points: int = 2**24  # of a scan: 4096 x 4096
    min_side: int = 8
    max_aspect: float = 50.0


DEFAULT_LIMITS = ImageLimits()


def source_name(source: object) -> str:
    """What errors call `source`: its path, or the type of data that came without one."""
    if isinstance(source, (str, os.PathLike)):
        return str(source)
    return str(getattr(source, "filename", "") or getattr(source, "name", "") or f"<{type(source).__name__}>")


@contextmanager
def decoding(source: object) -> Iterator[str]:
    """Gives what errors call `source`, and makes an `ImageReadError` of what a decoder raises for unreadable data."""
    name = source_name(source)
    try:
        yield name
    except ImageReadError:
        raise
    except UnidentifiedImageError as error:
        reason = f"this is not a picture that is read: {', '.join(FORMATS)} of 8 or 16 bits."
        raise ImageReadError(name, reason) from error
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageReadError(name, "the picture declares too many pixels; scale it down.") from error
    except _DECODER_FAULTS as error:
        detail = f"{type(error).__name__}: {error}"
        raise ImageReadError(name, f"the data is damaged or cut short ({detail}); export or copy it again.") from error


def read_bytes(source: ImageFile, name: str, limits: ImageLimits) -> bytes:
    """All of `source`, refused where it is missing, empty, or larger than `limits.max_bytes`."""
    if isinstance(source, (str, os.PathLike)):
        try:
            # Neither a folder, nor a pipe or a device, whose opening would wait for ever.
            if (path := Path(source)).is_dir():
                raise ImageReadError(name, "this is a folder; list its pictures with find_images.")
            if not path.is_file():
                raise ImageReadError(name, "there is no such file; check the path.")
            with path.open("rb") as stream:
                data = stream.read(limits.max_bytes + 1)
        except OSError as error:
            raise ImageReadError(name, f"the file cannot be opened ({error.strerror}).") from error
    elif isinstance(source, (bytes, bytearray, memoryview)):
        data = bytes(source)
    elif hasattr(source, "read"):
        data = source.read(limits.max_bytes + 1)
    else:
        raise ImageReadError(name, "give a path, encoded bytes, a binary stream, a PIL image or a NumPy array.")
    if not isinstance(data, bytes):
        raise ImageReadError(name, "the stream gives text; open it in binary mode.")
    if not data:
        raise ImageReadError(name, "the file is empty (0 bytes); copy it again.")
    if len(data) > limits.max_bytes:
        raise ImageReadError(name, f"the file is larger than {limits.max_bytes / 2**20:.0f} MiB; scale it down.")
    return data


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Drops a logger's records of this thread for a while: damaged files are reported by the error alone."""
    logger, here = logging.getLogger(name), threading.get_ident()

    def is_elsewhere(record: logging.LogRecord) -> bool:
        return record.thread != here

    logger.addFilter(is_elsewhere)
    try:
        yield
    finally:
        logger.removeFilter(is_elsewhere)


def read_tiff(data: bytes, name: str, most: int) -> np.ndarray:
    """The values of a TIFF of one page, of at most so many values, stored in a way that is read."""
    import tifffile

    with quiet("tifffile"), tifffile.TiffFile(io.BytesIO(data)) as tiff:
        if len(tiff.pages) != 1:
            raise ImageReadError(name, f"the TIFF has {len(tiff.pages)} pages; save one of them by itself.")
        page = tiff.pages.first
        # A tile is decoded whole, however little of it the page shows.
        if max(prod(page.shape), prod(page.chunks)) > most:
            raise ImageReadError(name, f"the TIFF declares {page.shape} values in parts of {page.chunks}: too many.")
        if page.compression not in _COMPRESSIONS:
            raise ImageReadError(name, f"the TIFF is compressed with {page.compression!r}; use none, LZW or deflate.")
        return page.asarray(maxworkers=1)
