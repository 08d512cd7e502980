"""Connected places of a map, and their outlines."""

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from skimage.draw import polygon2mask

from ast_hf.inference import Prediction
from ast_hf.inference.regions import regions


def test_regions_are_connected_and_the_strongest_comes_first() -> None:
    values = np.zeros((20, 30))
    values[2:5, 3:7] = 2
    values[5, 7] = 2.5  # joined over a corner
    values[10:12, 20:29] = 3
    values[15, 15] = 1  # at the scale, not above
    boxes = [((20, 10, 29, 12), 18, 3.0), ((3, 2, 8, 6), 13, 2.5)]
    assert [(region.box, region.area, region.peak) for region in regions(values, 1.0)] == boxes


@pytest.mark.parametrize("seed", range(20))
def test_a_polygon_is_around_the_pixels_of_its_region(seed: int) -> None:
    generator = np.random.default_rng(seed)
    above, larger = generator.random((12, 17)) < generator.uniform(0.05, 0.6), 1 + seed % 3
    labels, count = ndimage.label(above, np.ones((3, 3)))
    found = regions(above.astype(float), 0.5)
    assert len(found) == count
    for region in found:
        scaled = region.scaled((17, 12), (17 * larger, 12 * larger))
        assert np.array(scaled.polygon) == pytest.approx(np.array(region.polygon) * larger, abs=0.02)
        x, y = np.array(region.polygon).T
        assert (x.min(), y.min(), x.max(), y.max()) == region.box
        left, top, right, bottom = region.box
        (label,) = set(labels[top:bottom, left:right][region.mask])
        inside = polygon2mask(above.shape, np.stack([y, x], axis=1) - 0.5)
        assert np.array_equal(inside, ndimage.binary_fill_holes(labels == label))


def test_small_regions_are_left_out_by_their_area_in_the_picture_itself() -> None:
    cells = np.zeros((30, 40), np.float32)
    cells[5:15, 5:15], cells[20:23, 30:33] = 3, 3
    prediction = Prediction("part", Image.new("RGB", (40, 30)), cells, 1.0, map_threshold=1.0, full_size=(400, 300))
    areas = [region.area for region in prediction.regions()]
    assert len(areas) == 2 and min(areas) > 500
    assert [region.area for region in prediction.regions(min_area=min(areas) + 1)] == [max(areas)]
