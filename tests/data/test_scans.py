"""Organised point clouds from files and arrays: bit for bit, or refused."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from ast_hf.data.scans import read_scan
from ast_hf.errors import ImageReadError
from tests import tiny


def scan_bytes(points: np.ndarray, **options: Any) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, points, **{"photometric": "rgb" if 3 in points.shape else "minisblack"} | options)
    return stream.getvalue()


def with_tags(data: bytes, value: int, *tags: int) -> bytes:
    """A TIFF in which some tags declare another number."""
    changed = bytearray(data)
    for tag in tags:
        place = data.index(struct.pack("<H", tag), 8)
        changed[place : place + 12] = struct.pack("<HHII", tag, 4, 1, value)
    return bytes(changed)


PLAIN = scan_bytes(np.zeros((16, 16), np.float32))
WIDTH, LENGTH, ROWS, BYTES, TILE_WIDTH, TILE_LENGTH = 256, 257, 278, 279, 322, 323


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"compression": "lzw"}, {"byteorder": ">"}])
@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_scans_come_back_bit_for_bit(options: Any, channels: tuple[int, ...], dtype: type, tmp_path: Path) -> None:
    points = np.random.default_rng(0).normal(size=(16, 32, *channels)).astype(dtype)
    points[0, 0], points[0, 1] = np.nan, np.inf
    (tmp_path / "scan.tiff").write_bytes(scan_bytes(points, **options))
    for source in (tmp_path / "scan.tiff", points):
        read = read_scan(source)
        assert read.dtype == np.float32 and read.dtype.isnative
        assert np.array_equal(read, points.astype(np.float32), equal_nan=True)


@pytest.mark.parametrize(
    ("source", "reason"),
    [
        (scan_bytes(np.zeros((16, 16, 3), np.uint16)), "floating point"),
        (scan_bytes(np.zeros((16, 16, 2), np.float32), planarconfig="contig"), "shape"),
        (scan_bytes(np.zeros((3, 16, 16), np.float32), planarconfig="separate"), "shape|pages"),
        (scan_bytes(np.zeros((4, 16, 3), np.float32)), "at least 8"),
        (scan_bytes(np.zeros((16, 16), np.float32), compression="zstd"), "ZSTD"),
        (scan_bytes(np.zeros((2, 16, 16), np.float32)), "2 pages"),
        (with_tags(PLAIN, 40_000, WIDTH, LENGTH, ROWS), "declares 40000 x 40000"),
        (with_tags(PLAIN, 1000, WIDTH, LENGTH, ROWS), "damaged"),
        (
            with_tags(scan_bytes(np.zeros((16, 16), np.float32), tile=(16, 16)), 1 << 16, TILE_WIDTH, TILE_LENGTH),
            "tiles",
        ),
        (PLAIN[:-500], "damaged"),
        (b"\x89PNG\r\n\x1a\n", "not a TIFF"),
        (b"II*\0", "damaged"),
        (np.zeros((16, 16, 3), np.int32), "floating point"),
        (np.zeros((16, 16, 4), np.float32), "shape"),
        (np.zeros(16, np.float32), "shape"),
    ],
)
def test_what_is_no_scan_is_refused(source: bytes | np.ndarray, reason: str, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(ImageReadError, match=reason):
        read_scan(source)
    tifffile.logger().warning("heard")
    assert caplog.messages == ["heard"], "nothing more, and the logger is as before"


def test_of_damaged_scans_nothing_but_the_one_error_comes() -> None:
    tiny.assert_damage_is_refused(read_scan, scan_bytes(np.zeros((16, 32, 3), np.float32), compression="zlib"))
