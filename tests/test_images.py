"""Pictures, masks and scans: what is read, what is refused, and that nothing but ImageReadError ever escapes."""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision import transforms

from ast_hf.errors import ImageReadError
from ast_hf.images import ImageLimits, find_images, read_image, read_mask, read_scan, to_pixel_values, upsample_map

ORIENTATION = 0x0112
HEIGHT, WIDTH = 16, 32


@pytest.fixture(scope="module")
def rgb() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def scan_bytes(points: np.ndarray, **options: object) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, points, **{"photometric": "rgb" if 3 in points.shape else "minisblack"} | options)
    return stream.getvalue()


def png_header(width: int, height: int) -> bytes:
    """A PNG that declares a size and holds next to nothing."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 64)) + chunk(b"IEND", b"")


# Sources


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP"])
def test_lossless_formats_come_back_bit_for_bit(rgb: np.ndarray, kind: str) -> None:
    options = {"lossless": True} if kind == "WEBP" else {}
    image = read_image(encoded(Image.fromarray(rgb), kind, **options))
    assert image.mode == "RGB"
    assert np.array_equal(image, rgb)


def test_every_kind_of_source_gives_the_same_picture(rgb: np.ndarray, tmp_path: Path) -> None:
    path = tmp_path / "Teil 1, grün.png"
    data = encoded(Image.fromarray(rgb))
    path.write_bytes(data)
    with path.open("rb") as stream, Image.open(path) as lazy:
        for source in (str(path), path, data, bytearray(data), stream, lazy, Image.fromarray(rgb), rgb):
            assert np.array_equal(read_image(source), rgb)  # type: ignore[arg-type]


def test_the_source_is_left_alone_and_its_metadata_behind(rgb: np.ndarray) -> None:
    source = Image.fromarray(rgb)
    source.info["icc_profile"] = b"profile"
    image = read_image(source)
    image.putpixel((0, 0), (1, 2, 3))
    assert np.array_equal(source, rgb)
    assert source.info
    assert not image.info


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, orientation: int) -> None:
    stored = np.zeros((HEIGHT, WIDTH), np.uint8)
    stored[: HEIGHT // 2, : WIDTH // 2] = 255  # the upper left quarter, as stored
    displayed = {
        1: stored, 2: stored[:, ::-1], 3: stored[::-1, ::-1], 4: stored[::-1],
        5: stored.T, 6: stored[::-1].T, 7: stored[::-1, ::-1].T, 8: stored[:, ::-1].T,
    }[orientation]  # fmt: skip
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    data = encoded(Image.fromarray(stored).convert("RGB"), kind, exif=exif)
    image = read_image(data)
    assert np.array_equal(np.asarray(image)[..., 0] > 127, displayed > 127)
    assert not image.getexif().get(ORIENTATION)
    if kind == "PNG":
        assert np.array_equal(read_mask(data), displayed > 0)


# Modes


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr", "HSV"])
def test_opaque_pictures_of_any_mode_are_converted(rgb: np.ndarray, mode: str) -> None:
    source = Image.fromarray(rgb).convert(mode)
    image = read_image(source)
    assert image.mode == "RGB"
    assert np.array_equal(image, source.convert("RGB"))


@pytest.mark.parametrize(("kind", "mode"), [("PNG", "I;16"), ("TIFF", "I;16"), ("TIFF", "I;16B")])
def test_sixteen_bits_keep_their_high_byte(kind: str, mode: str) -> None:
    deep = np.linspace(0, 65535, HEIGHT * WIDTH).astype(np.uint16).reshape(HEIGHT, WIDTH)
    stored = deep.astype(">u2" if mode == "I;16B" else "<u2").tobytes()
    image = read_image(encoded(Image.frombytes(mode, (WIDTH, HEIGHT), stored), kind))
    assert np.array_equal(np.asarray(image)[..., 0], deep >> 8)
    assert np.array_equal(read_image(deep), image)
    assert np.array_equal(read_image(deep.astype(">u2")), image)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_laid_on_white(mode: str) -> None:
    clear = Image.new("RGBA", (16, 16), (255, 0, 0, 0)).convert(mode)
    assert np.unique(read_image(clear)).tolist() == [255]
    half = read_image(Image.new("RGBA", (16, 16), (0, 0, 0, 128)))
    assert half.getpixel((0, 0)) == (127, 127, 127)


def test_a_transparent_palette_entry_is_laid_on_white() -> None:
    palette = Image.new("P", (16, 16), 0)
    palette.putpalette([200, 0, 0, 0, 200, 0])
    assert read_image(encoded(palette, transparency=0)).getpixel((3, 3)) == (255, 255, 255)


@pytest.mark.parametrize(("mode", "word"), [("F", "floating-point"), ("I", "32-bit integer")])
def test_modes_without_a_known_range_are_refused(mode: str, word: str, tmp_path: Path) -> None:
    path = tmp_path / "deep.tiff"
    Image.new(mode, (16, 16)).save(path)
    with pytest.raises(ImageReadError, match=word) as caught:
        read_image(path)
    assert caught.value.source == str(path)


# Arrays


@pytest.mark.parametrize("channels", [None, 1, 3, 4])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.bool_, np.float16, np.float32, np.float64, ">f4"])
def test_arrays(rgb: np.ndarray, channels: int | None, dtype: type) -> None:
    eight = np.dstack([rgb, np.full((HEIGHT, WIDTH), 255, np.uint8)])
    eight = eight[..., 0] if channels is None else eight[..., :channels]
    kind = np.dtype(dtype)
    if kind == np.bool_:
        eight = (eight > 99) * np.uint8(255)
    full = {"u": 2 ** (8 * kind.itemsize) - 1, "b": 1, "f": 1.0}[kind.kind]
    array = (
        (eight / 255 * full).astype(kind) if kind.kind == "f" else (eight.astype(np.int64) * full // 255).astype(kind)
    )
    image = read_image(array)
    expected = np.broadcast_to(eight.reshape(HEIGHT, WIDTH, -1)[..., :3], (HEIGHT, WIDTH, 3))
    assert image.mode == "RGB"
    assert np.array_equal(image, expected)


@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (np.full((16, 16), np.nan), "outside"),
        (np.full((16, 16, 3), 255.0), "outside"),
        (np.full((16, 16), -0.1), "outside"),
        (np.full((16, 16), np.inf), "outside"),
        (np.zeros((16, 16), np.int64), "int64"),
        (np.zeros((16, 16), complex), "complex"),
        (np.full((16, 16), None), "object"),
        (np.zeros((3, 16, 16), np.uint8), "shape"),
        (np.zeros((16, 16, 2), np.uint8), "shape"),
        (np.zeros((1, 16, 16, 3), np.uint8), "shape"),
        (np.zeros((), np.uint8), "shape"),
        (np.zeros((0, 16), np.uint8), "at least 8"),
        (np.zeros((7, 16), np.uint8), "at least 8"),
        (np.zeros((8, 401), np.uint8), "50:1"),
    ],
)
def test_arrays_without_one_meaning_are_refused(array: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageReadError, match=reason):
        read_image(array)


# What is refused before a pixel is decoded


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        ((1, 1), "at least 8"),
        ((7, 100), "at least 8"),
        ((20_000, 100), "50:1"),
        ((10_000, 9_500), "64 million"),  # Pillow warns
        ((20_000, 20_000), "too many pixels"),  # Pillow raises
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_sizes_are_checked_in_the_header(size: tuple[int, int], reason: str) -> None:
    with pytest.raises(ImageReadError, match=reason):
        read_image(png_header(*size))


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_bomb_warning_made_an_error_is_the_same_error() -> None:
    with pytest.raises(ImageReadError, match="too many pixels"):
        read_image(png_header(10_000, 9_500))


def test_limits_are_the_callers(rgb: np.ndarray) -> None:
    data = encoded(Image.fromarray(rgb))
    for limits in (
        ImageLimits(max_pixels=HEIGHT * WIDTH - 1),
        ImageLimits(max_aspect=1.9),
        ImageLimits(min_side=HEIGHT + 1),
        ImageLimits(max_bytes=len(data) - 1),
    ):
        with pytest.raises(ImageReadError):
            read_image(data, limits=limits)
    read_image(data, limits=ImageLimits(max_pixels=HEIGHT * WIDTH, max_aspect=2, min_side=HEIGHT, max_bytes=len(data)))


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
def test_files_of_several_pictures_are_refused(rgb: np.ndarray, kind: str) -> None:
    frames = [Image.fromarray(rgb), Image.fromarray(rgb[::-1].copy())]
    data = encoded(frames[0], kind, save_all=True, append_images=frames[1:])
    with pytest.raises(ImageReadError, match="several"):
        read_image(data)
    with Image.open(io.BytesIO(data)) as lazy, pytest.raises(ImageReadError, match="several"):
        read_image(lazy)


def test_the_photo_of_a_phones_jpeg_with_preview_is_read(rgb: np.ndarray) -> None:
    photo, preview = Image.new("RGB", (32, 16), "red"), Image.new("RGB", (16, 8), "blue")
    data = encoded(photo, "MPO", save_all=True, append_images=[preview])
    image = read_image(data)
    assert image.size == (32, 16)
    assert image.getpixel((5, 5))[0] > 250  # type: ignore[index]


@pytest.mark.parametrize("kind", ["GIF", "PPM", "ICO", "EPS", "PDF", "TGA"])
def test_other_formats_are_refused_whatever_the_name(rgb: np.ndarray, kind: str, tmp_path: Path) -> None:
    path = tmp_path / "part.png"
    path.write_bytes(encoded(Image.fromarray(rgb), kind))
    with pytest.raises(ImageReadError, match="PNG, JPEG, BMP, TIFF, WEBP"):
        read_image(path)


@pytest.mark.parametrize("data", [b"<svg xmlns='http://www.w3.org/2000/svg'/>", b"\x89PNG\r\n\x1a\n", b"part.png"])
def test_what_is_no_picture_is_refused(data: bytes) -> None:
    with pytest.raises(ImageReadError):
        read_image(data)


# Damage


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "TIFF", "WEBP"])
@pytest.mark.parametrize("share", [0.3, 0.9])
def test_truncated_files_are_refused(rgb: np.ndarray, kind: str, share: float) -> None:
    data = encoded(Image.fromarray(rgb), kind)
    with pytest.raises(ImageReadError):
        read_image(data[: int(len(data) * share)])


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "SCAN"])
def test_of_damaged_files_nothing_but_the_one_error_comes(rgb: np.ndarray, kind: str) -> None:
    if kind == "SCAN":
        whole, read = scan_bytes(rgb.astype(np.float32), compression="zlib"), read_scan
    else:
        whole, read = encoded(Image.fromarray(rgb), kind), read_image
    random = np.random.default_rng(0)
    refused = 0
    for _ in range(200):
        mutant = bytearray(whole)
        for place in random.integers(0, min(len(mutant), random.choice([40, 400, 4000])), random.integers(1, 6)):
            mutant[place] = random.integers(256)
        try:
            read(bytes(mutant))
        except ImageReadError:
            refused += 1
    assert refused > 10


@given(st.binary(max_size=200))
def test_of_any_bytes_nothing_but_the_one_error_comes(data: bytes) -> None:
    for read in (read_image, read_mask, read_scan):
        with pytest.raises(ImageReadError):
            read(data)


# Paths


def test_paths_that_hold_no_picture_are_named(tmp_path: Path) -> None:
    (tmp_path / "empty.png").touch()
    os.mkfifo(tmp_path / "pipe.png")
    for name, reason in {
        "missing.png": "no such file",
        "empty.png": "0 bytes",
        "pipe.png": "no such file",
        ".": "folder",
        "x" * 300 + ".png": "cannot be opened",
        "nul\0.png": "no such file|damaged",
    }.items():
        for read in (read_image, read_mask, read_scan):
            with pytest.raises(ImageReadError, match=reason) as caught:
                read(tmp_path / name)
            assert caught.value.source == str(tmp_path / name)


@pytest.mark.parametrize("source", [None, 3, ["part.png"], io.StringIO("part.png")])
def test_sources_of_another_type_are_refused(source: object) -> None:
    for read in (read_image, read_mask, read_scan):
        with pytest.raises(ImageReadError, match=r"give a path|binary mode"):
            read(source)  # type: ignore[operator]


def test_find_images(tmp_path: Path) -> None:
    wanted = ["a.PNG", "b.jpeg", "empty.tif", "sub/c.webp", "sub/deep/d.BMP"]
    other = [".hidden.png", ".cache/e.png", "Thumbs.db", ".DS_Store", "notes.txt", "f.png.part", "sub/g.gif"]
    for name in wanted + other:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    (tmp_path / "sub" / "loop").symlink_to(tmp_path)
    assert find_images(tmp_path) == [tmp_path / name for name in wanted]
    assert find_images(str(tmp_path)) == find_images(tmp_path)


def test_a_folder_without_pictures_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    for folder, reason in ((tmp_path, "no pictures"), (tmp_path / "x", "no such"), (tmp_path / "notes.txt", "a file")):
        with pytest.raises(ImageReadError, match=reason) as caught:
            find_images(folder)
        assert caught.value.source == str(folder)


# Masks


def test_any_value_but_zero_is_mask() -> None:
    values = np.zeros((HEIGHT, WIDTH), np.uint8)
    values[2, 3:6] = (1, 7, 255)
    expected = values > 0
    for image in (
        Image.fromarray(values),
        Image.fromarray(np.dstack([0 * values, 0 * values, values])),
        Image.fromarray(np.dstack([values, values, values, np.full_like(values, 255)])),
        Image.fromarray(values).convert("P"),
        Image.fromarray(values.astype(np.uint16)),  # 1 of 65535 counts as well
        Image.fromarray(expected),
    ):
        mask = read_mask(encoded(image))
        assert mask.dtype == np.bool_
        assert np.array_equal(mask, expected)


def test_what_is_painted_but_transparent_is_no_mask() -> None:
    assert not read_mask(Image.new("RGBA", (16, 16), (255, 255, 255, 0))).any()


def test_a_floating_point_mask_is_refused() -> None:
    with pytest.raises(ImageReadError, match="floating-point"):
        read_mask(encoded(Image.new("F", (16, 16)), "TIFF"))


# Scans


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw"}, {"byteorder": ">"}])
@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scans_come_back_bit_for_bit(
    options: dict[str, str], channels: tuple[int, ...], dtype: type, tmp_path: Path
) -> None:
    points = np.random.default_rng(0).normal(size=(HEIGHT, WIDTH, *channels)).astype(dtype)
    points[0, 0], points[0, 1] = np.nan, np.inf
    (tmp_path / "scan.tiff").write_bytes(scan_bytes(points, **options))
    for source in (tmp_path / "scan.tiff", points):
        read = read_scan(source)
        assert read.dtype == np.float32
        assert read.dtype.isnative
        assert np.array_equal(read, points.astype(np.float32), equal_nan=True)


def several_pages() -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        for _ in range(2):
            writer.write(np.zeros((16, 16), np.float32))
    return stream.getvalue()


def declared(width: int, height: int) -> bytes:
    """An uncompressed float TIFF (H, W, 3) of a size that its few bytes do not hold."""
    tags = [
        (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 32), (259, 3, 1, 1), (262, 3, 1, 1), (273, 4, 1, 8),
        (277, 3, 1, 3), (278, 4, 1, height), (279, 4, 1, 64), (284, 3, 1, 1), (339, 3, 1, 3),
    ]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (lambda: scan_bytes(np.zeros((16, 16, 3), np.uint16)), "floating point"),
        (lambda: scan_bytes(np.zeros((16, 16, 2), np.float32), planarconfig="contig"), "shape"),
        (lambda: scan_bytes(np.zeros((3, 16, 16), np.float32), planarconfig="separate"), "shape|pages"),
        (lambda: scan_bytes(np.zeros((4, 16, 3), np.float32)), "at least 8"),
        (lambda: scan_bytes(np.zeros((16, 16), np.float32), compression="zstd"), "ZSTD"),
        (lambda: scan_bytes(np.zeros((16, 16), np.float32))[:-500], "damaged"),
        (several_pages, "2 pages"),
        (lambda: declared(40_000, 40_000), "declares 40000 x 40000"),
        (lambda: declared(1000, 1000), "damaged"),
        (lambda: encoded(Image.new("RGB", (16, 16))), "not a TIFF"),
        (lambda: b"II*\0", "damaged"),
        (lambda: np.zeros((16, 16, 3), np.int32), "floating point"),
        (lambda: np.zeros((16, 16, 4), np.float32), "shape"),
        (lambda: np.zeros(16, np.float32), "shape"),
    ],
)
def test_what_is_no_scan_is_refused(source: Callable[[], bytes | np.ndarray], reason: str) -> None:
    with pytest.raises(ImageReadError, match=reason):
        read_scan(source())


def test_tiles_far_larger_than_the_scan_are_refused() -> None:
    data = bytearray(scan_bytes(np.zeros((16, 16), np.float32), tile=(16, 16)))
    for tag in (322, 323):  # tile width and length
        place = data.index(struct.pack("<H", tag))
        data[place : place + 12] = struct.pack("<HHII", tag, 4, 1, 1 << 16)
    with pytest.raises(ImageReadError, match="tiles"):
        read_scan(bytes(data))


def test_damaged_scans_log_nothing_and_the_logger_is_as_before(caplog: pytest.LogCaptureFixture) -> None:
    data = bytearray(scan_bytes(np.zeros((16, 16), np.float32)))
    data[data.index(struct.pack("<H", 273), 8) + 2] = 99  # a type of number that TIFF does not have
    with pytest.raises(ImageReadError):
        read_scan(bytes(data))
    assert not caplog.records
    tifffile.logger().warning("heard")
    assert caplog.messages == ["heard"]


# Towards the network and back


@pytest.mark.parametrize("size", [8, 24, 40])
def test_pixel_values_are_those_of_torchvision(rgb: np.ndarray, size: int) -> None:
    image = Image.fromarray(rgb)
    reference = transforms.Compose(
        [
            transforms.Resize((size, size)),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    values = to_pixel_values(image, size)
    assert values.dtype == torch.float32
    assert torch.equal(values, reference(image))


def test_pixel_values_ask_for_rgb() -> None:
    with pytest.raises(ValueError, match="read_image"):
        to_pixel_values(Image.new("L", (16, 16)), 8)


def test_upsampled_maps_keep_their_leading_dimension() -> None:
    maps = torch.rand(2, 6, 6)
    reference = torch.nn.functional.interpolate(maps[:, None], size=(30, 20), mode="bicubic", align_corners=False)[:, 0]
    assert torch.equal(upsample_map(maps, (30, 20)), reference)
    assert torch.equal(upsample_map(maps[0], (30, 20)), reference[0])
