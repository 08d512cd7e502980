"""Reading organised point clouds from anyone: one error class, no surprises."""

import numpy as np

from ast_hf.data.reading import DEFAULT_LIMITS, ImageFile, ImageLimits, decoding, read_bytes, read_tiff
from ast_hf.errors import ImageReadError

# Metres: what the sensors of inspection stations see and parts fit in, and what no part jumps by between two points.
_MAX_DISTANCE, _MAX_DEPTH, _FAR = 10.0, 2.0, 0.5
_MOST_MARKERS = 2  # at either end


def read_scan(
    source: ImageFile | np.ndarray, *, learnt: tuple[float, float] | None = None, limits: ImageLimits = DEFAULT_LIMITS
) -> np.ndarray:
    """Reads an organised point cloud, such as MVTec 3D-AD's xyz TIFFs.

    Args:
        source: A TIFF (path, bytes or binary stream) of one page, or an array: floating point, (H, W, 3) for x, y, z
            or (H, W) for z alone, in metres. Points that were not measured are marked by 0, by a value that is not
            finite, or by a constant far from all others, such as -9999 or 65535, which becomes 0.
        learnt: Lowest and highest z (metres) of the scans that a detector learnt from.

    Returns float32, (H, W, 3) or (H, W). Raises an `ImageReadError` where `source` is missing, damaged, out of limits,
    or not such a cloud, or its z is far from `learnt` or cannot be in metres.
    """
    with decoding(source) as name:
        if isinstance(source, np.ndarray):
            points = source
        else:
            data = read_bytes(source, name, limits)
            if data[:2] not in (b"II", b"MM"):
                reason = "this is not a TIFF; other scans can be passed as an array (H, W, 3) in metres."
                raise ImageReadError(name, reason)
            points = read_tiff(data, name, 3 * limits.max_points)
        _check_scan(points, name, limits)
        with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf: not measured
            points = _without_markers(np.ascontiguousarray(points, dtype=np.float32))
        _check_heights(points, learnt, name)
        return points


def height_range(points: np.ndarray) -> tuple[float, float] | None:
    """The z that 98 % of the measured points of a scan lie between, or None where nothing was measured."""
    z = _measured(points)
    if not z.size:
        return None
    low, high = np.percentile(z, (1, 99)).tolist()
    return low, high


def heights(points: np.ndarray) -> np.ndarray:
    """z (H, W) of a scan (H, W, 3) or (H, W)."""
    return points[..., 2] if points.ndim == 3 else points


def _measured(points: np.ndarray) -> np.ndarray:
    z = heights(points)
    return z[np.isfinite(z) & (z != 0)]


def _without_markers(points: np.ndarray) -> np.ndarray:
    """The scan with 0 for every point whose z is the lowest or the highest and far from all others."""
    z, markers = _measured(points), []
    for extreme in [np.min, np.max] * _MOST_MARKERS:
        if not z.size or z.max() - z.min() <= _FAR:  # as in most scans
            break
        value = extreme(z)
        others = z[z != value]
        if np.abs(np.float64(value) - others).min() > _FAR:
            markers.append(value)
            z = others
    if not markers:
        return points
    holes = np.isin(heights(points), markers)
    return np.where(holes if points.ndim == 2 else holes[..., None], np.float32(0), points)


def _check_heights(points: np.ndarray, learnt: tuple[float, float] | None, name: str) -> None:
    if (found := height_range(points)) is None:
        return
    z, (low, high) = _measured(points), found
    if max(-z.min(), z.max()) > _MAX_DISTANCE or high - low > _MAX_DEPTH:
        reason = f"z runs from {z.min():.4g} to {z.max():.4g}, and in metres it would lie within {_MAX_DISTANCE:g} of "
        reason += f"0 and span at most {_MAX_DEPTH:g}; convert it to metres, and give 0 where nothing was measured."
        raise ImageReadError(name, reason)
    if learnt is None:
        return
    lowest, highest = learnt
    # An offset alone does no harm, since heights are seen above the background; a defect may stick out.
    margin = max(highest - lowest, max(abs(lowest), abs(highest)) / 2)
    turned = _overlap((-high, -low), learnt) > _overlap(found, learnt) + (highest - lowest) / 2
    if turned or low < lowest - margin or high > highest + margin:
        reason = f"z runs from {low:.4g} to {high:.4g}, and in the scans that the detector learnt from it ran from "
        reason += f"{lowest:.4g} to {highest:.4g} metres; give the same unit, direction and origin."
        raise ImageReadError(name, reason)


def _overlap(one: tuple[float, float], other: tuple[float, float]) -> float:
    return min(one[1], other[1]) - max(one[0], other[0])


def _check_scan(scan: np.ndarray, name: str, limits: ImageLimits) -> None:
    shape = scan.shape
    if len(shape) not in (2, 3) or shape[2:] not in ((), (3,)):
        raise ImageReadError(name, f"the scan has shape {shape}; give (H, W, 3) for x, y, z or (H, W) for z.")
    if not np.issubdtype(scan.dtype, np.floating):
        raise ImageReadError(name, f"the scan is {scan.dtype}; give metres in floating point.")
    size = f"{shape[1]} x {shape[0]} points"
    if min(shape[:2]) < limits.min_side:
        raise ImageReadError(name, f"the scan is {size}; each side needs at least {limits.min_side}.")
    if shape[0] * shape[1] > limits.max_points:
        raise ImageReadError(name, f"the scan has {size}; at most {limits.max_points} are read.")
