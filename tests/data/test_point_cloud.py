"""Height maps and foregrounds against the authors' results, and where theirs are undefined."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation

from ast_hf.data.point_cloud import DepthProcessor, corner_heights, fill_holes, surface
from ast_hf.errors import ImageReadError
from ast_hf.nn.network import dilate
from tests import tiny
from tests.conftest import Golden


@pytest.fixture
def tilted() -> np.ndarray:
    """A box of 4 cm on a tilted table, 40 x 60 points."""
    rows, columns = np.mgrid[:40, :60]
    z = 0.5 + 1e-3 * rows + 5e-4 * columns
    z[12:28, 20:40] -= 0.04
    return z.astype(np.float32)


def test_filling_depth_and_foreground_are_the_authors(golden: Golden) -> None:
    expected, _ = golden("depth_preprocessing")
    z = expected["z_raw"].numpy()
    torch.testing.assert_close(torch.from_numpy(fill_holes(z, 3)), expected["z_filled"], rtol=1e-6, atol=0)
    depth, foreground = DepthProcessor(size=24)(z)
    assert torch.equal(foreground, expected["foreground_resized_24"])
    # The authors subtract in float32 before multiplying by 100: 1e-6 of the height itself, 0.6 m, would be 6e-5 here.
    torch.testing.assert_close(depth, expected["depth_resized_24"], rtol=1e-6, atol=2e-5)
    depth, foreground = DepthProcessor(size=z.shape[0])(z)
    assert torch.equal(foreground[0], expected["foreground"])
    torch.testing.assert_close(depth[0], expected["depth_centred"], rtol=1e-6, atol=2e-5)


def test_the_mask_on_the_map_is_the_authors(golden: Golden) -> None:
    expected, _ = golden("depth_preprocessing")
    foreground = expected["foreground_resized_24"][None]
    assert torch.equal(dilate(foreground, 8)[0], expected["foreground_dilated_8"])
    network = tiny.detector("depth", depth_size=24, depth_unshuffle=8, foreground_dilation=8)
    torch.testing.assert_close(network.map_mask(foreground)[0], expected["foreground_map_3"])


@given(arrays(np.bool_, st.tuples(st.integers(9, 16), st.integers(9, 16))), st.integers(1, 9))
def test_dilation_is_scipys(foreground: np.ndarray, size: int) -> None:
    dilated = dilate(torch.from_numpy(foreground).float()[None, None], size)
    assert np.array_equal(dilated[0, 0], binary_dilation(foreground, np.ones((size, size))))


# The plane through the other three corners gives 0.3 where the nearest points give 0.5.
@pytest.mark.parametrize(("hole", "height"), [(0, 0.5), (1, 0.5), (3, 0.5), (20, 0.3)])
def test_a_corner_that_was_not_measured_is_taken_from_the_nearest_points(hole: int, height: float) -> None:
    z = surface(np.array([[0.5, 0.6], [0.7, 1.0]]), (48, 48))
    z[:hole, :hole] = 0
    assert corner_heights(z) == pytest.approx(np.array([[height, 0.6], [0.7, 1.0]]), abs=0.04)


def test_shapes_values_and_units(tilted: np.ndarray) -> None:
    depth, foreground = DepthProcessor()(tilted)
    assert depth.shape == foreground.shape == (1, 192, 192)
    assert depth.dtype == foreground.dtype == torch.float32
    assert set(foreground.unique().tolist()) == {0.0, 1.0}
    assert depth[foreground == 0].abs().max() == 0
    # The box is tilted like the table: 15 rows of 1 mm and 19 columns of 0.5 mm, in centimetres around the mean.
    assert depth.max() == pytest.approx((15 * 0.1 + 19 * 0.05) / 2, abs=0.05)
    assert depth[foreground == 1].mean().abs() < 0.05
    from_points = DepthProcessor(scale=50)(np.dstack([tilted * 3, tilted - 7, tilted]))
    torch.testing.assert_close(from_points[0] * 2, depth)  # z is the third coordinate


def test_non_finite_points_count_as_not_measured(tilted: np.ndarray) -> None:
    zeros, holes = tilted.copy(), tilted.copy()
    zeros[::3, ::4], holes[::3, ::4] = 0, np.nan
    assert all(map(torch.equal, DepthProcessor()(holes), DepthProcessor()(zeros)))


@pytest.mark.parametrize(
    ("points", "reason"),
    [
        (np.zeros((20, 20, 3)), r"part\.tiff: no point of the scan was measured"),
        (np.full((20, 20), np.nan), "no point of the scan was measured"),
        (np.full((20, 20), 0.5), r"no point is farther than 0\.007"),
        (np.where(np.eye(20) > 0, 1e38, 0.5), "too large"),
        *[(points, "the scan is") for points in (np.zeros(9), np.zeros((9, 9, 2)), np.full((9, 9), "z"))],
    ],
)
def test_scans_without_a_part_are_refused(points: np.ndarray, reason: str) -> None:
    with pytest.raises(ImageReadError, match=reason):
        DepthProcessor(size=10)(points, source="part.tiff")


@pytest.mark.filterwarnings("error")
@given(arrays(np.float64, st.tuples(st.integers(2, 20), st.integers(2, 20)), elements=st.floats(width=64)))
def test_of_any_scan_come_finite_values_or_the_one_error(z: np.ndarray) -> None:
    try:
        depth, foreground = DepthProcessor(size=8)(z)
    except ImageReadError:
        return
    assert torch.isfinite(depth).all() and foreground.any()
