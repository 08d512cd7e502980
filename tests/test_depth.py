"""Height maps and foregrounds against the authors' results, and where theirs are undefined."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.ndimage import binary_dilation
from torch import Tensor

from ast_hf.depth import DepthProcessor, corner_heights, dilate_foreground, fill_holes, foreground_on_map, surface
from ast_hf.errors import ConfigError, ImageReadError


@pytest.fixture
def expected(golden: Callable[[str], dict[str, Tensor]]) -> dict[str, Tensor]:
    return golden("depth_preprocessing")


@pytest.fixture
def tilted() -> np.ndarray:
    """A box of 4 cm on a tilted table, 40 x 60 points."""
    rows, columns = np.mgrid[:40, :60]
    z = 0.5 + 1e-3 * rows + 5e-4 * columns
    z[12:28, 20:40] -= 0.04
    return z.astype(np.float32)


# The authors' results


def test_filling_gives_the_authors_values(expected: dict[str, Tensor]) -> None:
    torch.testing.assert_close(
        torch.from_numpy(fill_holes(expected["z_raw"].numpy(), 3)), expected["z_filled"], rtol=1e-6, atol=0
    )


def test_depth_and_foreground_are_the_authors(expected: dict[str, Tensor]) -> None:
    depth, foreground = DepthProcessor(size=24)(expected["z_raw"].numpy())
    assert torch.equal(foreground, expected["foreground_resized_24"])
    # The authors subtract in float32 before multiplying by 100: 1e-6 of the height itself, 0.6 m, would be 6e-5 here.
    torch.testing.assert_close(depth, expected["depth_resized_24"], rtol=1e-6, atol=2e-5)


def test_before_resizing_they_are_the_authors_too(expected: dict[str, Tensor]) -> None:
    z = expected["z_raw"].numpy()
    depth, foreground = DepthProcessor(size=z.shape[0])(z)
    assert torch.equal(foreground[0], expected["foreground"])
    torch.testing.assert_close(depth[0], expected["depth_centred"], rtol=1e-6, atol=2e-5)


def test_the_mask_on_the_map_is_the_authors(expected: dict[str, Tensor]) -> None:
    foreground = expected["foreground_resized_24"][None]
    assert torch.equal(dilate_foreground(foreground, 8)[0], expected["foreground_dilated_8"])
    torch.testing.assert_close(foreground_on_map(foreground, 8, (3, 3))[0], expected["foreground_map_3"])


# Steps


@given(
    arrays(np.bool_, st.tuples(st.integers(9, 16), st.integers(9, 16))),
    st.integers(1, 9),
)
def test_dilation_is_scipys(foreground: np.ndarray, size: int) -> None:
    dilated = dilate_foreground(torch.from_numpy(foreground).float()[None, None], size)
    assert np.array_equal(dilated[0, 0], binary_dilation(foreground, np.ones((size, size))))


@given(
    arrays(np.float32, (7, 9), elements=st.sampled_from([0.0, -0.25, 0.05, 0.5])),
    st.integers(0, 3),
)
def test_filling_is_the_mean_of_measured_neighbours(z: np.ndarray, rounds: int) -> None:
    expected = z.copy()
    for _ in range(rounds):
        before = expected.copy()
        for row, column in np.argwhere(before == 0):
            window = before[row - 1 : row + 2, column - 1 : column + 2] if row and column else np.zeros(1)
            if window.any():
                expected[row, column] = window.sum(dtype=np.float64) / np.count_nonzero(window)
    given_z = z.copy()
    assert np.array_equal(fill_holes(z, rounds), expected)
    assert np.array_equal(z, given_z)


@pytest.mark.parametrize("missing", [[], [(0, 0)], [(1, 1)], [(0, 1), (1, 0)], [(0, 0), (0, 1), (1, 0)]])
def test_corners_that_were_not_measured_are_continued(missing: list[tuple[int, int]]) -> None:
    corners = np.array([[0.5, 0.6], [0.7, 0.8]])
    z = surface(corners, (48, 48))
    for row, column in missing:
        z[24 * row : 24 * row + 24, 24 * column : 24 * column + 24] = 0
    heights = corner_heights(z)
    assert heights is not None
    known = np.ones((2, 2), bool)
    known[tuple(np.array(missing, int).reshape(-1, 2).T)] = False
    assert np.abs(heights - corners)[known].max() < 0.01
    if len(missing) <= 1:  # a plane goes through three corners
        assert np.abs(heights - corners).max() < 0.01
    assert np.all((heights > 0.4) & (heights < 0.9))


@pytest.mark.parametrize(("hole", "expected"), [(1, 0.5), (3, 0.5), (20, 0.3)])
def test_the_nearest_points_are_preferred_to_the_plane(hole: int, expected: float) -> None:
    z = surface(np.array([[0.5, 0.6], [0.7, 1.0]]), (48, 48))  # the plane through the other three gives 0.3
    z[:hole, :hole] = 0
    heights = corner_heights(z)
    assert heights is not None
    assert heights[0, 0] == pytest.approx(expected, abs=0.04)


@pytest.mark.parametrize("hole", [2, 3, 5])
def test_a_hole_in_a_corner_is_bridged_with_the_nearest_points(hole: int, tilted: np.ndarray) -> None:
    whole, _ = DepthProcessor(size=40, fill_rounds=0)(tilted)
    for rows in (slice(hole), slice(-hole, None)):
        for columns in (slice(hole), slice(-hole, None)):
            z = tilted.copy()
            z[rows, columns] = np.nan
            depth, foreground = DepthProcessor(size=40, fill_rounds=0)(z)
            assert foreground[0, :8].sum() == foreground[0, -8:].sum() == 0
            torch.testing.assert_close(depth, whole)


# The whole


def test_shapes_values_and_units(tilted: np.ndarray) -> None:
    processor = DepthProcessor()
    depth, foreground = processor(tilted)
    assert depth.shape == foreground.shape == (1, 192, 192)
    assert depth.dtype == foreground.dtype == torch.float32
    assert set(foreground.unique().tolist()) == {0.0, 1.0}
    assert depth[foreground == 0].abs().max() == 0
    # The box is tilted like the table: 15 rows of 1 mm and 19 columns of 0.5 mm, in centimetres around the mean.
    assert depth.max() == pytest.approx((15 * 0.1 + 19 * 0.05) / 2, abs=0.05)
    assert depth[foreground == 1].mean().abs() < 0.05
    halved, _ = DepthProcessor(scale=50)(tilted)
    torch.testing.assert_close(halved * 2, depth)


def test_z_is_the_third_coordinate(tilted: np.ndarray) -> None:
    points = np.dstack([tilted * 3, tilted - 7, tilted])
    for one, other in zip(DepthProcessor()(points), DepthProcessor()(tilted), strict=True):
        assert torch.equal(one, other)


def test_non_finite_points_count_as_not_measured(tilted: np.ndarray) -> None:
    zeros = tilted.copy()
    zeros[::3, ::4] = 0
    holes = zeros.copy()
    holes[zeros == 0] = np.resize([np.nan, np.inf, -np.inf], (zeros == 0).sum())
    for one, other in zip(DepthProcessor()(holes), DepthProcessor()(zeros), strict=True):
        assert torch.equal(one, other)


def test_where_the_background_was_removed_everything_measured_is_part(tilted: np.ndarray) -> None:
    z = np.zeros_like(tilted)
    z[12:28, 20:40] = tilted[12:28, 20:40]
    depth, foreground = DepthProcessor(size=40, fill_rounds=0)(z)
    assert foreground.mean() == pytest.approx((16 / 40) * (20 / 60), abs=0.05)
    assert torch.isfinite(depth).all()


@pytest.mark.parametrize("value", [0.0, np.nan, np.inf])
def test_a_scan_of_nothing_is_refused(value: float) -> None:
    with pytest.raises(ImageReadError, match=r"part\.tiff: no point of the scan was measured"):
        DepthProcessor()(np.full((20, 20, 3), value, np.float32), source="part.tiff")


def test_an_empty_table_is_refused() -> None:
    table = np.full((20, 20), 0.5)
    speck = table.copy()
    speck[4, 4] = 0.4  # which the resizing skips
    for z in (table, speck):
        with pytest.raises(ImageReadError, match=r"no point is farther than 0\.007"):
            DepthProcessor(size=4)(z)


def test_heights_beyond_32_bits_are_refused(tilted: np.ndarray) -> None:
    with pytest.raises(ImageReadError, match="too large"):
        DepthProcessor()(np.where(tilted < 0.5, 1e38, tilted))


@pytest.mark.parametrize("points", [np.zeros(9), np.zeros((9, 9, 2)), np.zeros((1, 9)), np.full((9, 9), "z")])
def test_what_is_no_scan_is_refused(points: np.ndarray) -> None:
    with pytest.raises(ImageReadError, match="the scan is"):
        DepthProcessor()(points)


@pytest.mark.parametrize(
    "changes", [{"size": 0}, {"fill_rounds": -1}, {"background_threshold": 0.0}, {"background_threshold": np.nan}]
)
def test_settings_out_of_range_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        DepthProcessor(**changes)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("error")
@given(arrays(np.float64, st.tuples(st.integers(2, 20), st.integers(2, 20)), elements=st.floats(width=64)))
def test_of_any_scan_come_finite_values_or_the_one_error(z: np.ndarray) -> None:
    try:
        depth, foreground = DepthProcessor(size=8)(z)
    except ImageReadError:
        return
    assert torch.isfinite(depth).all()
    assert foreground.any()
