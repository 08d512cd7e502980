from __future__ import annotations

import numpy as np
import pytest

from ast_hf.metrics import (
    SaturatedRegion,
    au_pro,
    pixel_auroc,
    saturation_area,
    segmentation_metrics,
    spro_curve,
)

LIMITS = (0.01, 0.05, 0.1, 0.3, 1.0)


def masks_of_different_sizes() -> list[np.ndarray]:
    """Three regions in the first mask, two in the second, none in the third, odd shapes."""
    masks = [np.zeros((17, 31), np.uint8), np.zeros((1, 53), np.uint8), np.zeros((29, 7), np.uint8)]
    masks[0][2:9, 3:6] = masks[0][11:14, 20:31] = masks[1][0, 4:9] = masks[1][0, 40:] = 255
    masks[0][0, 30] = 1
    return masks


def test_perfect_maps_give_exactly_one() -> None:
    masks = masks_of_different_sizes()
    maps = [(mask != 0).astype(np.float32) for mask in masks]
    regions = [[SaturatedRegion(mask, 0.3 * np.count_nonzero(mask))] if mask.any() else [] for mask in masks]
    found = segmentation_metrics(maps, masks, LIMITS)
    assert found.pixel_auroc == 1.0 and found.pixel_average_precision == 1.0
    assert set(found.au_pro.values()) == {1.0}
    assert all(spro_curve(maps, regions).area(limit) == 1.0 for limit in LIMITS)
    assert pixel_auroc([-m for m in maps], masks) == 0.0


def test_constant_maps_give_half_the_limit() -> None:
    masks = masks_of_different_sizes()
    maps = [np.full(mask.shape, 7.25) for mask in masks]
    regions = [[SaturatedRegion(mask, 3)] if mask.any() else [] for mask in masks]
    for limit in LIMITS:
        assert au_pro(maps, masks, limit) == pytest.approx(limit / 2, abs=1e-12)
        assert spro_curve(maps, regions).area(limit) == pytest.approx(limit / 2, abs=1e-12)
    assert pixel_auroc(maps, masks) == 0.5


def test_the_curve_is_interpolated_at_the_limit() -> None:
    # Best first: defect 3, then a tie of one of four ok pixels with the other defect pixel, then the other ok pixels.
    maps, masks = [np.array([[3.0, 2.0, 2.0, 1.0, 1.0, 0.0]])], [np.array([[1, 1, 0, 0, 0, 0]])]
    # (0, 0), (0, 1/2), (1/4, 1), (3/4, 1), (1, 1)
    assert au_pro(maps, masks, 0.125) == pytest.approx((0.5 + 0.75) / 2)
    assert au_pro(maps, masks, 0.25) == pytest.approx(0.75)
    assert au_pro(maps, masks, 0.5) == pytest.approx(0.875)
    assert pixel_auroc(maps, masks) == pytest.approx(1 - 0.5 / 8)


def test_regions_touch_at_corners_but_never_across_images() -> None:
    diagonal = np.array([[1, 0, 0], [0, 1, 0], [0, 0, 0]])  # one region of two pixels, of which one is found
    single = np.array([[0, 0, 0], [0, 0, 0], [0, 0, 1]])  # another region, found
    maps = [np.array([[9, 1, 1], [1, 0, 1], [1, 1, 1]]), np.array([[1, 1, 1], [1, 1, 1], [1, 1, 9]])]
    assert au_pro(maps, [diagonal, single], 0.5) == pytest.approx(0.75)  # pixels alone would give 2/3


def test_good_images_count_as_false_positives() -> None:
    maps, masks = [np.array([[2.0, 0.0]])], [np.array([[1, 0]])]
    assert au_pro(maps, masks, 0.3) == 1.0
    assert au_pro([*maps, np.full((1, 9), 5.0)], [*masks, np.zeros((1, 9))], 0.3) == 0.0


def test_saturation_makes_part_of_a_defect_enough() -> None:
    maps = [np.array([[9.0, 8.0, 1.0, 1.0, 2.0, 0.0]])]
    mask = np.array([[1, 1, 1, 1, 0, 0]], bool)
    # Two of four pixels come before any ok pixel, the other two after one of the two ok pixels.
    assert spro_curve(maps, [[SaturatedRegion(mask, 4)]]).area(0.5) == pytest.approx(0.5)
    assert spro_curve(maps, [[SaturatedRegion(mask, 2.5)]]).area(0.5) == pytest.approx(0.8)
    assert spro_curve(maps, [[SaturatedRegion(mask, 2)]]).area(0.5) == 1.0
    assert spro_curve(maps, [[SaturatedRegion(mask, 0.5)]]).area(1.0) == 1.0


def test_each_defect_counts_alike_and_pixels_of_none_are_ok() -> None:
    maps = [np.array([[9.0, 9.0, 1.0, 1.0, 5.0, 0.0]]), np.array([[0.0, 0.0]])]
    found = SaturatedRegion(np.array([[1, 1, 0, 0, 0, 0]]), 2)
    missed = SaturatedRegion(np.array([[0, 0, 1, 1, 0, 0]]), 1)
    both = SaturatedRegion(np.array([[255, 255, 255, 255, 0, 0]]), 4)  # covers the pixels of the others once more
    # Four ok pixels; the one that scores 5 is the first quarter of false positives.
    assert spro_curve(maps, [[found, missed], []]).area(0.25) == pytest.approx(1 / 2)
    assert spro_curve(maps, [[found, missed, both], []]).area(0.25) == pytest.approx((1 + 0 + 0.5) / 3)
    assert spro_curve(maps, [[found, missed], []]).area(0.5) == pytest.approx((1 / 2 + 1) / 2)
    assert spro_curve(maps, [[found], []]).area(0.5) == 1.0  # the pixels that were the other defect are ok


def test_saturation_area() -> None:
    absolute = {(100, 40): 40, (100, 400): 100, (100, 12.5): 12.5}
    relative = {(99, 0.5): 49, (100, 1.0): 100, (1, 0.5): 1}
    assert {key: saturation_area(*key, relative=False) for key in absolute} == absolute
    assert {key: saturation_area(*key, relative=True) for key in relative} == relative
    for area, threshold, is_relative in ((0, 5, False), (9, 0, True), (9, 1.5, True)):
        with pytest.raises(ValueError, match=r"above 0|at most 1"):
            saturation_area(area, threshold, is_relative)
