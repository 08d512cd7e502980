"""Heat maps on a scale that does not depend on the picture, and regions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from ast_hf.inference.regions import regions
from ast_hf.inference.visualize import heat_map, overlay

SCALE = 0.02
PICTURE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8))
# Map values, in units of the scale.
maps = arrays(np.float32, (6, 9), elements=st.floats(-0.5, 20, width=32))


def colour(value: float) -> np.ndarray:
    return np.asarray(heat_map(np.full((1, 1), value * SCALE), SCALE))[0, 0].astype(int)


@pytest.mark.parametrize(("value", "position"), [(-3, 0), (0.5, 0.25), (1, 0.5), (2, 0.75), (10, 0.95), (1e9, 1)])
def test_colours_are_inferno_at_the_documented_positions(value: float, position: float) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    reference = np.array(matplotlib.colormaps["inferno"](float(position))[:3]) * 255
    assert np.abs(colour(value) - reference).max() <= 3


@given(maps, st.integers(0, 53))
def test_a_pixel_is_drawn_alike_whatever_the_rest_of_the_map(values: np.ndarray, index: int) -> None:
    place = np.unravel_index(index, values.shape)
    other = np.zeros_like(values)
    other[place] = values[place]
    grey = Image.new("RGB", values.shape[::-1], "grey")
    for draw in (heat_map, lambda values, scale: overlay(grey, values, scale)):
        whole, alone = np.asarray(draw(values, 1.0)), np.asarray(draw(other, 1.0))
        assert np.array_equal(whole[place], alone[place])


def test_what_is_normal_stays_as_it_is_and_what_is_anomalous_glows() -> None:
    values = np.random.default_rng(0).uniform(-0.2, 0.5, (40, 60)) * SCALE
    assert np.array_equal(overlay(PICTURE, values, SCALE), PICTURE)
    values[10:20, 30:50] = SCALE
    laid = np.asarray(overlay(PICTURE, values, SCALE, opacity=0.6)).astype(float)
    expected = 0.4 * np.asarray(PICTURE)[10:20, 30:50] + 0.6 * colour(1)
    assert np.abs(laid[10:20, 30:50] - expected).max() < 2
    assert np.array_equal(laid[:10], np.asarray(PICTURE)[:10])


@pytest.mark.parametrize(
    ("values", "scale", "reason"),
    [
        (np.full((40, 60), np.nan), SCALE, "not finite"),
        (np.zeros((1, 40, 60)), SCALE, "shape"),
        (np.zeros((0, 60)), SCALE, "shape"),
        *[(np.zeros((40, 60)), scale, "scale") for scale in (0.0, -1.0, np.nan, np.inf)],
    ],
)
def test_maps_that_cannot_be_drawn_are_refused(values: np.ndarray, scale: float, reason: str) -> None:
    for draw in (heat_map, regions, lambda values, scale: overlay(PICTURE, values, scale)):
        with pytest.raises(ValueError, match=reason):
            draw(values, scale)
    with pytest.raises(ValueError, match=r"\(60, 40\) pixels and the map \(40, 60\)"):
        overlay(PICTURE, np.zeros((60, 40)), SCALE)
