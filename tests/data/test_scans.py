"""Organised point clouds from files and arrays: bit for bit, or refused."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from ast_hf.data.scans import height_range, read_scan
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
    points = np.random.default_rng(0).normal(0, 0.2, (16, 32, *channels)).astype(dtype)
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
        (with_tags(PLAIN, 40_000, WIDTH, LENGTH, ROWS), r"declares \(40000, 40000\) values"),
        (with_tags(PLAIN, 1000, WIDTH, LENGTH, ROWS), "damaged"),
        (
            with_tags(scan_bytes(np.zeros((16, 16), np.float32), tile=(16, 16)), 1 << 16, TILE_WIDTH, TILE_LENGTH),
            "in parts of",
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


@pytest.mark.parametrize("markers", [(-9999,), (-1,), (65535,), (1e10, -9999), (-9999, -1), (-3.4e38,)])
@pytest.mark.parametrize("flat", [False, True])
def test_constants_far_from_all_others_are_holes(markers: tuple[float, ...], flat: bool) -> None:
    points, expected = tiny.scan(0), tiny.scan(0)
    for row, marker in enumerate(markers):
        points[row, :9], expected[row, :9] = marker, 0
    points[5, 5] = np.nan
    expected[5, 5] = np.nan
    if flat:
        points, expected = points[..., 2], expected[..., 2]
    given = points.copy()
    assert np.array_equal(read_scan(points), expected, equal_nan=True)
    assert np.array_equal(points, given, equal_nan=True), "left alone"


# A box of 2 cm on a plane: seen from 0.5 m above, and by its height.
FROM_ABOVE, HEIGHTS = tiny.scan(0), (0.5 - tiny.scan(0)) * np.float32([0, 0, 1])
IMPLAUSIBLE = r"z runs from \S+ to \S+, and in metres it would lie within 10 of 0 and span at most 2; convert it"


@pytest.mark.parametrize(
    ("taught", "seen", "reason"),
    [
        (None, FROM_ABOVE * 1000, IMPLAUSIBLE),
        (None, HEIGHTS * 1000, IMPLAUSIBLE),
        (FROM_ABOVE, FROM_ABOVE * 10, r"from 4\.798 to 5.*learnt from it ran from 0\.4798 to 0\.5"),
        (FROM_ABOVE, -FROM_ABOVE, "same unit, direction and origin"),
        (HEIGHTS, HEIGHTS * 10, "same unit"),
        (HEIGHTS, -HEIGHTS, "same unit"),
        (FROM_ABOVE, FROM_ABOVE - np.float32([0, 0, 0.1]), None),  # nearer by 10 cm
        (HEIGHTS, HEIGHTS * 2, None),  # as high again
        (HEIGHTS, np.where(HEIGHTS > 0.01, -HEIGHTS / 2, HEIGHTS), None),  # pressed in
        (HEIGHTS, HEIGHTS * 0, None),  # for others to refuse
    ],
)
def test_heights_that_cannot_be_or_were_not_learnt_are_refused(
    taught: np.ndarray | None, seen: np.ndarray, reason: str | None
) -> None:
    learnt = None if taught is None else height_range(taught)
    if reason is None:
        assert np.array_equal(read_scan(seen, learnt=learnt), seen)
        return
    with pytest.raises(ImageReadError, match=reason):
        read_scan(seen, learnt=learnt)


def test_of_damaged_scans_nothing_but_the_one_error_comes() -> None:
    tiny.assert_damage_is_refused(read_scan, scan_bytes(np.zeros((16, 32, 3), np.float32), compression="zlib"))
