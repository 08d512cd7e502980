"""Reading organised point clouds from anyone: one error class, no surprises."""

from __future__ import annotations

import io
from math import prod
from typing import TYPE_CHECKING

import numpy as np

from ast_hf.data.reading import DEFAULT_LIMITS, ImageFile, ImageLimits, decoding, quiet, read_bytes, source_name
from ast_hf.errors import ImageReadError

if TYPE_CHECKING:
    import tifffile

# TIFF's numbers for none, LZW and the two of deflate.
_COMPRESSIONS = {1, 5, 8, 32946}


def read_scan(source: ImageFile | np.ndarray, *, limits: ImageLimits = DEFAULT_LIMITS) -> np.ndarray:
    """Reads an organised point cloud, such as MVTec 3D-AD's xyz TIFFs.

    Args:
        source: A TIFF (path, bytes or binary stream) of one page, or an array: floating point, (H, W, 3) for x, y, z
            or (H, W) for z alone, in metres. Zeros and non-finite values mark points that were not measured; they
            are kept.
        limits: What is too large or too small.

    Returns:
        float32, (H, W, 3) or (H, W).

    Raises:
        ImageReadError: `source` is missing, damaged, out of limits, or not such a cloud.
    """
    name = source_name(source)
    with decoding(name):
        if isinstance(source, np.ndarray):
            _check_scan(source.shape, source.dtype, name, limits)
            points = source
        else:
            points = _read_tiff(read_bytes(source, name, limits), name, limits)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf: not measured
            return np.ascontiguousarray(points, dtype=np.float32)


def _read_tiff(data: bytes, name: str, limits: ImageLimits) -> np.ndarray:
    import tifffile

    if data[:2] not in (b"II", b"MM"):
        raise ImageReadError(name, "this is not a TIFF; other scans can be passed as an array (H, W, 3) in metres.")
    with quiet("tifffile"), tifffile.TiffFile(io.BytesIO(data)) as tiff:
        if len(tiff.pages) != 1:
            raise ImageReadError(name, f"the TIFF has {len(tiff.pages)} pages; a scan has one.")
        page = tiff.pages.first
        _check_scan(page.shape, page.dtype, name, limits)
        _check_storage(page, name, limits)
        return page.asarray(maxworkers=1)


def _check_storage(page: tifffile.TiffPage, name: str, limits: ImageLimits) -> None:
    # A tile is decoded whole, however little of it the page shows.
    if prod(page.chunks) > 3 * limits.max_points:
        raise ImageReadError(name, "the TIFF declares tiles far larger than a scan; save it in strips.")
    if page.compression not in _COMPRESSIONS:
        raise ImageReadError(name, f"the TIFF is compressed with {page.compression!r}; use none, LZW or deflate.")


def _check_scan(shape: tuple[int, ...], dtype: np.dtype | None, name: str, limits: ImageLimits) -> None:
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise ImageReadError(name, f"the scan has shape {shape}; give (H, W, 3) for x, y, z or (H, W) for z.")
    if dtype is None or not np.issubdtype(dtype, np.floating):
        raise ImageReadError(name, f"the scan is {dtype}; give metres in floating point.")
    height, width = shape[:2]
    if min(height, width) < limits.min_side:
        raise ImageReadError(
            name, f"the scan is {width} x {height} points; each side needs at least {limits.min_side}."
        )
    if height * width > limits.max_points:
        raise ImageReadError(
            name, f"the scan declares {width} x {height} points; at most {limits.max_points} are read."
        )
