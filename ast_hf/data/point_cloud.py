"""An organised point cloud becomes what the networks take: a height map around the part's mean, and a foreground.

The processing is the paper's (section 4.1, "Implementation details") and gives the authors' values, with two
differences where theirs are undefined: non-finite points count as not measured, and where the 2 x 2 points in a
corner were all not measured, the background is taken from the nearest ones that were.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ast_hf.errors import ImageReadError

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True)
class DepthProcessor:
    """Turns z of a scan into depth and foreground."""

    size: int = 192  # side of the square that both are resized to, aspect not kept
    fill_rounds: int = 3  # how often points that were not measured get the mean of their measured neighbours
    background_threshold: float = 7e-3  # what is farther from the background, in the scan's unit (metres), is part
    scale: float = 100.0  # of depth; with metres, 100 gives centimetres

    def __call__(self, points: np.ndarray, *, source: object = "scan") -> "tuple[Tensor, Tensor]":
        """Depth and foreground, float32 (1, size, size) each, of a scan that errors call `source`.

        Depth is the height around the foreground's mean, times `scale`, and 0 in the background; the foreground is 1
        where part is and 0 elsewhere. `points` are (H, W, 3) for x, y, z or (H, W) for z, in metres; 0, NaN and
        infinity mark points not measured. Raises an `ImageReadError` where the array is not a scan, nothing was
        measured, or nothing stands out from the background.
        """
        z = fill_holes(_measured_z(points, source), self.fill_rounds)
        foreground = z != 0
        if (corners := corner_heights(z)) is not None:  # else someone has removed the background already
            foreground &= np.abs(surface(corners, z.shape) - z) > self.background_threshold
        seen = self._resized(foreground) > 0
        if not seen.any():
            reason = f"no point is farther than {self.background_threshold:g} from the background plane; check that a "
            raise ImageReadError(source, f"{reason}part lies in the scan and that it is in metres.")
        mean = z[foreground].mean(dtype=np.float64)
        depth = self._resized(np.where(foreground, (z - mean) * self.scale, 0))
        if not depth.isfinite().all():
            raise ImageReadError(source, "the heights are too large for 32-bit numbers; check that they are in metres.")
        return depth, seen.float()

    def _resized(self, values: np.ndarray) -> "Tensor":
        import torch  # not with the module: those who only list a dataset need none

        with np.errstate(over="ignore"):  # to infinity, which is refused
            tensor = torch.from_numpy(values.astype(np.float32))[None, None]
        return torch.nn.functional.interpolate(tensor, (self.size, self.size), mode="bilinear", align_corners=False)[0]


def fill_holes(z: np.ndarray, rounds: int) -> np.ndarray:
    """Fills zeros of z (H, W) with the mean of their non-zero 8-neighbours, `rounds` times.

    As in the authors' code the first row and the first column are never filled.
    """
    # A margin below and on the right only: the holes looked at have neighbours above and on the left.
    padded = np.pad(z, (0, 1))
    values, width = padded.ravel(), padded.shape[1]
    rows, columns = np.nonzero(z[1:, 1:] == 0)
    holes = (rows + 1) * width + columns + 1
    for _ in range(rounds):
        total, count = np.zeros(len(holes)), np.zeros(len(holes), dtype=np.int64)
        for row in (-width, 0, width):
            for column in (-1, 0, 1):
                near = values[holes + (row + column)]
                total += near
                count += near != 0
        values[holes] = total / np.maximum(count, 1)
        holes = holes[values[holes] == 0]
    return padded[:-1, :-1].copy()


def corner_heights(z: np.ndarray) -> np.ndarray | None:
    """Mean of the non-zero heights in each corner of z (H, W): (2, 2) as they lie, or None where there are none.

    A corner is 2 x 2 points. One without any height grows to twice its side, up to an eighth of the scan, as the part
    lies farther in; what is missing even then is continued from the plane through the other corners.
    """
    corners = np.full((2, 2), np.nan)
    side = 2
    while np.isnan(corners).any() and (side == 2 or side <= min(z.shape) // 8):
        for row, column in np.argwhere(np.isnan(corners)):
            window = z[-side:] if row else z[:side]
            window = window[:, -side:] if column else window[:, :side]
            if window.any():
                corners[row, column] = window.sum(dtype=np.float64) / np.count_nonzero(window)
        side *= 2
    known = ~np.isnan(corners)
    if not known.any():
        return None
    # The plane of least slope around the mean: exact through three corners, and defined for two or one.
    mean, positions = corners[known].mean(), np.indices((2, 2)).transpose(1, 2, 0)
    positions = positions - positions[known].mean(axis=0)
    slope = np.linalg.lstsq(positions[known], corners[known] - mean, rcond=None)[0]
    return np.where(known, corners, mean + positions @ slope)


def surface(corners: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The background of `shape` (H, W): bilinear between the corners (2, 2)."""
    height, width = shape
    (top_left, top_right), (bottom_left, bottom_right) = corners
    left = np.linspace(top_left, bottom_left, height)[:, None]
    right = np.linspace(top_right, bottom_right, height)[:, None]
    return left * np.linspace(1, 0, width) + right * np.linspace(0, 1, width)


def _measured_z(points: np.ndarray, source: object) -> np.ndarray:
    """z as float32 (H, W) with 0 for every point that was not measured."""
    z = points[..., 2] if points.ndim == 3 and points.shape[2] == 3 else points
    if z.ndim != 2 or min(z.shape) < 2 or z.dtype.kind not in "fiu":
        raise ImageReadError(source, f"the scan is {points.shape} of {points.dtype}; give numbers (H, W, 3) or (H, W).")
    with np.errstate(over="ignore"):  # float64 beyond float32 becomes inf: not measured
        z = z.astype(np.float32)
    z[~np.isfinite(z)] = 0
    if not z.any():
        raise ImageReadError(source, "no point of the scan was measured: every z is 0 or not finite; scan again.")
    return z
