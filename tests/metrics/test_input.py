from __future__ import annotations

import numpy as np
import pytest

from ast_hf.metrics import (
    SaturatedRegion,
    au_pro,
    average_precision,
    f1_max,
    image_auroc,
    pixel_auroc,
    segmentation_metrics,
    spro_curve,
)

ONE_MAP, ONE_MASK = np.array([[1.0, 0.0]]), np.array([[1, 0]])


def test_masks_are_defective_wherever_they_are_not_zero() -> None:
    rng = np.random.default_rng(0)
    maps, mask = [rng.random((17, 23))], rng.random((17, 23)) < 0.3
    values = rng.integers(1, 256, size=mask.shape)
    binary = segmentation_metrics(maps, [mask])
    assert binary == segmentation_metrics(maps, [(values * mask).astype(np.uint8)])
    assert binary == segmentation_metrics(maps, [(values * mask / 255).astype(np.float32)])


def test_scores_are_ranked_in_their_own_precision() -> None:
    close, mask = np.array([[1.0 + 1e-12, 1.0]]), np.array([[1, 0]])
    assert pixel_auroc([close], [mask]) == 1.0
    assert pixel_auroc([close.astype(np.float32)], [mask]) == 0.5
    assert pixel_auroc([close[:, :1], np.ones((1, 1), np.float32)], [mask[:, :1], mask[:, 1:]]) == 1.0
    assert pixel_auroc([np.array([[200, 100]], np.uint8)], [mask]) == 1.0
    assert pixel_auroc([np.array([[2, 1]], np.float16)], [mask]) == 1.0


def test_infinities_zeros_of_both_signs_and_stacked_arrays() -> None:
    maps, masks = np.array([[[np.inf, -np.inf, 0.0, -0.0]]]), np.array([[[1, 0, 1, 0]]])
    assert pixel_auroc(maps, masks) == pytest.approx(3.5 / 4)
    assert au_pro(maps, masks, 1.0) == pytest.approx(3.5 / 4)


@pytest.mark.parametrize("metric", [pixel_auroc, au_pro, segmentation_metrics])
@pytest.mark.parametrize(
    ("maps", "masks", "message"),
    [
        ([ONE_MAP, ONE_MAP.T], [ONE_MASK, ONE_MASK], r"Anomaly map 1 has shape \(2, 1\) but its mask has .*\(1, 2\)"),
        ([ONE_MAP[None]], [ONE_MASK[None]], r"Anomaly map 0 has shape \(1, 1, 2\)"),
        ([ONE_MAP, ONE_MAP], [ONE_MASK], "2 anomaly maps but 1 masks"),
        ([ONE_MAP, np.array([[0.0, np.nan]])], [ONE_MASK] * 2, r"Anomaly map 1 is NaN at \(0, 1\)"),
        ([ONE_MAP > 0, ONE_MAP * 1j], [ONE_MASK] * 2, "Anomaly map 1 must hold real numbers, but its type is complex"),
        ([ONE_MAP] * 2, [ONE_MASK * 0] * 2, "None of the images has a defective pixel"),
        ([ONE_MAP] * 2, [ONE_MASK * 0 + 1] * 2, "None of the images has an ok pixel"),
    ],
)
def test_unusable_maps_are_named(metric, maps: list, masks: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(maps, masks)


@pytest.mark.parametrize(
    ("maps", "regions", "message"),
    [
        ([ONE_MAP], [[SaturatedRegion(ONE_MASK.T, 1)]], r"Anomaly map 0 .* but its region has shape \(2, 1\)"),
        ([ONE_MAP], [[]], "None of the images has a defective pixel"),
        ([ONE_MAP], [[SaturatedRegion(ONE_MASK + 1, 1)]], "None of the images has an ok pixel"),
    ],
)
def test_unusable_regions_are_named(maps: list, regions: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        spro_curve(maps, regions)


def test_what_lies_outside_its_bounds_is_refused() -> None:
    for limit in (0.0, -0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="false positive rate limit must be above 0 and at most 1"):
            au_pro([ONE_MAP], [ONE_MASK], limit)
    for saturation in (0, -1, 1.5, float("nan")):
        with pytest.raises(ValueError, match="at most its area of 1 pixels"):
            SaturatedRegion(ONE_MASK, saturation)


@pytest.mark.parametrize("metric", [image_auroc, average_precision, f1_max])
@pytest.mark.parametrize(
    ("scores", "labels", "message"),
    [
        ([0.1, 0.2], [0, 0], "None of the 2 images is anomalous"),
        ([0.1, 0.2], [True, True], "None of the 2 images is good"),
        ([[0.1], [0.2]], [[0], [1]], r"\(N,\) alike"),
        ([0.1, float("nan")], [0, 1], "list of scores is NaN at 1"),
        ([], [], "None of the 0 images"),
        (["a", "b"], [0, 1], "must hold real numbers"),
    ],
)
def test_unusable_image_scores_are_named(metric, scores: list, labels: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        metric(scores, labels)
