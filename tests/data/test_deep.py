"""Pictures of more than 8 bits: right by the stated or the learnt depth, or refused."""

import io
import struct
import zlib
from functools import partial
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from ast_hf.data.images import image_bits, read_image
from ast_hf.errors import ImageReadError
from tests import tiny

GREY = np.arange(20 * 51, dtype=np.uint16).reshape(20, 51)  # 10 bits, and all but the highest values of them
RGB = np.dstack([GREY, GREY[::-1], GREY[:, ::-1]])
WHITE = np.full_like(GREY, 65535)
SAMPLE_FORMATS = ("int8", "int16", "int32")


def png(values: np.ndarray, *significant: int) -> bytes:
    data = imagecodecs.png_encode(values)
    if not significant:
        return data
    chunk = b"sBIT" + bytes(significant)
    return data[:33] + struct.pack(">I", len(significant)) + chunk + struct.pack(">I", zlib.crc32(chunk)) + data[33:]


def tiff(values: np.ndarray, *, largest: int = 0, orientation: int = 1, **options: Any) -> bytes:
    stream = io.BytesIO()
    tags = [(274, "H", 1, orientation, True), *([(341, "H", 1, largest, True)] if largest else [])]
    photometric = "rgb" if values.ndim == 3 else "minisblack"
    tifffile.imwrite(stream, values, extratags=tags, **{"photometric": photometric, **options})
    return stream.getvalue()


def assert_seen(source: Any, bits: int | None, expected: np.ndarray) -> None:
    seen = np.asarray(read_image(source, bits=bits))
    assert np.array_equal(seen, np.broadcast_to(expected if expected.ndim == 3 else expected[..., None], seen.shape))


OF_10_BITS = [
    *((png(values), values) for values in (GREY, RGB)),
    *((values, values) for values in (GREY, RGB, RGB.astype(">u2"), RGB[..., :1])),
    (Image.fromarray(GREY), GREY),
    *((png(np.dstack([values, WHITE])), values) for values in (GREY, RGB)),
    *((tiff(values, byteorder=order), values) for values in (GREY, RGB) for order in "<>"),
    *((tiff(values, compression="zlib", predictor=True, tile=(16, 16)), values) for values in (GREY, RGB)),
    (tiff(np.moveaxis(RGB, -1, 0).copy(), planarconfig="separate"), RGB),
]


@pytest.mark.parametrize(("source", "values"), OF_10_BITS)
def test_pictures_are_seen_by_the_depth_that_was_learnt(source: Any, values: np.ndarray) -> None:
    assert image_bits(source) == 10
    assert_seen(source, 10, values >> 2)
    assert_seen(source, 12, values >> 4)
    with pytest.raises(ImageReadError, match=r"has 10 bits a colour \(values up to 1019\).* have 9; save it"):
        read_image(source, bits=9)
    with pytest.raises(ImageReadError, match=r"no value .* above 1019.* of 10 bits is not known; save it with 8 bits"):
        read_image(source)


STATED: list[tuple[bytes, int, np.ndarray]] = [
    (png(GREY, 10), 10, GREY >> 2),
    (png(np.dstack([RGB, WHITE]), 10, 10, 10, 16), 10, RGB >> 2),
    (png(np.dstack([GREY, WHITE >> 6]), 10, 10), 10, GREY >> 2),
    (png(np.dstack([0 * GREY, WHITE // 255 * 128]), 10, 16), 10, 0 * GREY + 127),  # half transparent, on white
    (png(RGB << 6, 10, 10, 10), 16, RGB >> 2),  # as PNG's rules have it
    *((tiff(values, largest=1023), 10, values >> 2) for values in (GREY, RGB)),
    (tiff(RGB, largest=65535), 16, RGB >> 8),
    (tiff(GREY, largest=1023 << 2, bitspersample=12), 12, GREY >> 4),
    (tiff(65535 - (GREY << 6), photometric="miniswhite"), 16, GREY >> 2),
    (tiff(np.dstack([RGB << 6, 0 * GREY]), extrasamples=["unspecified"]), 16, RGB >> 2),
]


@pytest.mark.parametrize(("source", "bits", "expected"), STATED)
def test_what_the_file_says_of_its_depth_holds(source: bytes, bits: int, expected: np.ndarray) -> None:
    assert image_bits(source) == bits
    for given in (None, bits):
        assert_seen(source, given, expected)
    with pytest.raises(ImageReadError, match=f"has {bits} bits a colour .* have 14"):
        read_image(source, bits=14)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("values", [GREY, RGB])
def test_they_are_turned_like_others(values: np.ndarray, orientation: int) -> None:
    turned = np.asarray(read_image(tiff((values >> 2).astype(np.uint8), orientation=orientation)))
    assert_seen(tiff(values, orientation=orientation), 10, turned)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("whole", [png(RGB, 10, 10, 10), tiff(RGB, compression="zlib"), tiff(GREY)])
def test_of_damaged_ones_nothing_but_the_one_error_comes(whole: bytes) -> None:
    tiny.assert_damage_is_refused(partial(read_image, bits=10), whole)


def test_what_pillow_has_cut_and_signed_numbers_are_refused(tmp_path: Path) -> None:
    for name, data in (("a.png", png(RGB)), ("a.tif", tiff(RGB))):
        (tmp_path / name).write_bytes(data)
        with Image.open(tmp_path / name) as image, pytest.raises(ImageReadError, match="give its file"):
            read_image(image, bits=10)
    for kind in SAMPLE_FORMATS:
        with pytest.raises(ImageReadError, match="signed numbers"):
            read_image(tiff((GREY % 256 - 128.0).astype(kind)))
        with pytest.raises(ImageReadError, match=f"the array is {kind}"):
            read_image(GREY.astype(kind))
    with pytest.raises(ImageReadError, match="CMYK"):
        read_image(tiff(np.dstack([RGB << 6, GREY]), photometric="separated"))
