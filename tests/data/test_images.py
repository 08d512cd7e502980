"""Pictures and masks: what is read, what is refused, and that nothing but ImageReadError ever comes of bad data."""

import io
import os
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageFilter
from PIL.Image import Transpose
from torchvision import transforms

from ast_hf.data.images import has_soft_edges, read_image, read_mask, read_mask_values
from ast_hf.data.scans import read_scan
from ast_hf.data.transforms import to_pixel_values
from ast_hf.errors import ImageReadError
from tests import tiny

HEIGHT, WIDTH = 16, 32
RGB = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
DEEP = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
READERS = pytest.mark.parametrize("read", [read_image, read_mask, read_scan])
# What a picture must have been through to be upright again in the EXIF orientations from 2 to 8.
UNDONE = [
    *(Transpose.FLIP_LEFT_RIGHT, Transpose.ROTATE_180, Transpose.FLIP_TOP_BOTTOM, Transpose.TRANSPOSE),
    *(Transpose.ROTATE_90, Transpose.TRANSVERSE, Transpose.ROTATE_270),
]
RED, CLEAR = Image.new("RGB", (WIDTH, HEIGHT), "red"), Image.new("RGBA", (16, 16), (255, 0, 0, 0))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


def readable() -> Iterator[tuple[Any, Any]]:
    """Sources, and the pixels that must come of them."""
    picture, high_bytes = Image.fromarray(RGB), (DEEP >> 8)[..., None]
    for kind, options in (("PNG", {}), ("BMP", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
        yield encoded(picture, kind, **options), RGB
    for mode in ("1", "L", "LA", "P", "PA", "RGBA", "CMYK", "YCbCr", "HSV"):
        yield picture.convert(mode), np.asarray(picture.convert(mode).convert("RGB"))
    for kind, mode, order in (("PNG", "I;16", "<u2"), ("TIFF", "I;16", "<u2"), ("TIFF", "I;16B", ">u2")):
        yield encoded(Image.frombytes(mode, (WIDTH, HEIGHT), DEEP.astype(order).tobytes()), kind), high_bytes
        yield DEEP.astype(order), high_bytes
    for dtype in (np.float16, np.float64, ">f4"):
        yield (RGB / 255).astype(dtype), RGB
    yield RGB[..., :1] > 99, (RGB[..., :1] > 99) * 255
    yield np.dstack([RGB, np.full((HEIGHT, WIDTH), 255, np.uint8)]), RGB
    yield Image.new("RGBA", (16, 16), (0, 0, 0, 128)), 127  # on white
    for mode in ("RGBA", "LA", "PA"):
        yield CLEAR.convert(mode), 255
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    yield encoded(palette, transparency=0), 255
    for orientation, undone in enumerate(UNDONE, start=2):
        exif = Image.Exif()
        exif[0x0112] = orientation
        for kind, options in (("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True})):
            yield encoded(picture.transpose(undone), kind, exif=exif, **options), RGB
    # A phone's photo with a preview behind it, turned by a quarter (the last orientation).
    phone = encoded(RED, "MPO", exif=exif, save_all=True, append_images=[Image.new("RGB", (16, 8), "blue")])
    yield phone, np.full((WIDTH, HEIGHT, 3), (254, 0, 0))


@pytest.mark.parametrize(("source", "expected"), list(readable()))
def test_pictures_come_back_as_they_are_meant_to_be_seen(source: Any, expected: Any) -> None:
    image = np.asarray(read_image(source))
    assert np.array_equal(image, np.broadcast_to(expected, (*image.shape[:2], 3)))


def test_every_kind_of_source_gives_the_same_picture_and_is_left_alone(tmp_path: Path) -> None:
    path, data, image = tmp_path / "Teil 1, grün.png", encoded(Image.fromarray(RGB)), Image.fromarray(RGB)
    path.write_bytes(data)
    image.info["icc_profile"] = b"profile"
    with path.open("rb") as stream, Image.open(path) as lazy:
        for source in (str(path), path, data, bytearray(data), stream, lazy, image, RGB):
            read = read_image(source)  # type: ignore[arg-type]
            assert np.array_equal(read, RGB) and not read.info
            read.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(image, RGB) and image.info


REFUSED = {
    "outside": [np.full((16, 16), value) for value in (np.nan, 255.0, -0.1)],
    "the array is": [np.zeros((16, 16), dtype) for dtype in (np.int64, complex, object)],
    "shape": [np.zeros(shape, np.uint8) for shape in ((), (3, 16, 16), (1, 16, 16, 3))],
    "at least 8": [np.zeros((0, 16), np.uint8), png_header(7, 100)],
    "50:1": [np.zeros((8, 401), np.uint8), png_header(20_000, 100)],
    "64 million": [png_header(10_000, 9_500)],  # where Pillow warns
    "too many pixels": [png_header(20_000, 20_000)],  # where it raises
    "several": [
        encoded(RED, kind, save_all=True, append_images=[Image.fromarray(RGB)]) for kind in ("TIFF", "PNG", "WEBP")
    ],
    "BMP, TIFF, WEBP": [encoded(RED, kind) for kind in ("GIF", "PPM", "ICO", "EPS", "PDF", "TGA")],
    "range is not known": [Image.new(mode, (16, 16)) for mode in "IF"],
    "give a path": [None, 3, ["part.png"]],
    "binary mode": [io.StringIO("part.png")],
}


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("reason", "source"), [(reason, source) for reason in REFUSED for source in REFUSED[reason]])
def test_hostile_and_unclear_pictures_are_refused(reason: str, source: Any) -> None:
    with pytest.raises(ImageReadError, match=reason):
        read_image(source)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP"])
def test_of_damaged_files_nothing_but_the_one_error_comes(kind: str) -> None:
    whole = encoded(Image.fromarray(RGB), kind)
    for share in (0.3, 0.9):
        with pytest.raises(ImageReadError):
            read_image(whole[: int(len(whole) * share)])
    tiny.assert_damage_is_refused(read_image, whole)


@READERS
def test_a_lack_of_memory_is_not_called_damage(read: Any) -> None:
    with pytest.raises(MemoryError):
        read(SimpleNamespace(read=Mock(side_effect=MemoryError)))


@READERS
def test_paths_that_hold_no_picture_are_named(read: Any, tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    reasons = {"missing.png": "no such file", "empty.png": "0 bytes", "pipe.png": "no such file", ".": "folder"}
    for name, reason in {**reasons, "x" * 300: "cannot be opened", "nul\0.png": "no such file|damaged"}.items():
        with pytest.raises(ImageReadError, match=reason) as caught:
            read(tmp_path / name)
        assert caught.value.source == str(tmp_path / name)


def test_any_value_but_zero_is_mask() -> None:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2, 3:6] = (1, 7, 255)
    colour, exif = Image.fromarray(np.dstack([0 * values, 0 * values, values])), Image.Exif()
    exif[0x0112] = 6
    assert np.array_equal(read_mask(encoded(colour, exif=exif)), np.rot90(values, -1) > 0)
    # 1 of 65535 counts as well.
    for image in (
        *map(Image.fromarray, (values, values > 0, values.astype(np.uint16))),
        colour,
        colour.convert("RGBA"),
    ):
        assert np.array_equal(read_mask(encoded(image)), values > 0)
    assert not read_mask(CLEAR).any(), "painted, but transparent"
    with pytest.raises(ImageReadError, match="floating-point"):
        read_mask(Image.new("F", (16, 16)))


def discs(*values: int) -> Image.Image:
    """A mask with a disc of each value, 17 pixels across, side by side."""
    mask = Image.new("L", (88, 64))
    for place, value in enumerate(values):
        ImageDraw.Draw(mask).ellipse((20 * place + 2, 10, 20 * place + 18, 26), fill=value)
    return mask


def painted_black(mask: Image.Image) -> Image.Image:
    return Image.merge("RGBA", [Image.new("L", mask.size)] * 3 + [mask])


SOFTENED: dict[str, Callable[[Image.Image], Any]] = {
    **{f"JPEG {quality}": partial(encoded, kind="JPEG", quality=quality) for quality in (60, 75, 90, 95)},
    "JPEG of grey": lambda mask: encoded(mask.point(lambda value: value * 5 // 8), "JPEG", quality=80),
    "JPEG of dark grey": lambda mask: encoded(mask.point(lambda value: value * 3 // 8), "JPEG", quality=80),
    "JPEG of red": lambda mask: encoded(Image.merge("RGB", [mask, *[Image.new("L", mask.size)] * 2]), "JPEG"),
    "resized": lambda mask: mask.resize((176, 128), Image.Resampling.BILINEAR).resize(mask.size, Image.Resampling.BOX),
    "blurred": lambda mask: mask.filter(ImageFilter.GaussianBlur(1)),
    "blurred black": lambda mask: painted_black(mask.filter(ImageFilter.GaussianBlur(1))),
}


@pytest.mark.parametrize("how", SOFTENED)
def test_soft_edges_are_cut_at_half(how: str) -> None:
    mask = discs(255, 255)
    assert has_soft_edges(read_mask_values(SOFTENED[how](mask)))
    differing = np.count_nonzero(read_mask(SOFTENED[how](mask)) != (np.asarray(mask) > 0))
    assert differing <= (0 if how.startswith("JPEG") else 0.03 * np.count_nonzero(mask))


@pytest.mark.parametrize("values", [(1, 2, 3), (254, 255), (1, 2, 3, 255), (40, 80, 120, 180), (255,), ()])
@pytest.mark.parametrize("change", [lambda mask: mask, painted_black])
def test_classes_are_no_soft_edges(values: tuple[int, ...], change: Callable[[Image.Image], Image.Image]) -> None:
    mask = change(discs(*values))
    assert not has_soft_edges(read_mask_values(mask))
    assert np.array_equal(read_mask(mask), np.asarray(mask.getchannel(mask.getbands()[-1])) > 0)


def test_a_mask_of_half_the_size_has_soft_edges() -> None:
    assert has_soft_edges(np.asarray(discs(255).resize((44, 32), Image.Resampling.BOX)))  # three values in between


def test_hairlines_of_numbered_classes_are_no_soft_edges() -> None:
    lines = np.diag(np.arange(16) % 6).astype(np.uint8)
    assert np.array_equal(read_mask(Image.fromarray(lines)), lines > 0)


@pytest.mark.parametrize("size", [8, 24, 40])
def test_pixel_values_are_those_of_torchvision(size: int) -> None:
    image, normalize = Image.fromarray(RGB), transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    reference = transforms.Compose([transforms.Resize((size, 2 * size)), transforms.ToTensor(), normalize])
    assert torch.equal(to_pixel_values(image, (size, 2 * size)), reference(image))
