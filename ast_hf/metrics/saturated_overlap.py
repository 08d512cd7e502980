"""Saturated per-region overlap (sPRO), the pixel metric of MVTec LOCO AD, where part of a region can be all of it.

A defect such as a missing part has no one place: its mask shows everywhere it may be marked, and marking its saturation
area anywhere inside counts as having found it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ast_hf.metrics.pixels import check_counts, check_shapes, ok_chunks, pair_images
from ast_hf.metrics.ranking import RateCurve, rank


@dataclass(frozen=True, eq=False)
class SaturatedRegion:
    """One defect of MVTec LOCO AD: where it may be marked, and how much of that must be marked to count as all.

    Attributes:
        mask: (H, W) non-zero inside the defect. It need not be connected, and may overlap other defects.
        saturation_area: Pixels, above 0 and at most the mask's area. The area itself makes sPRO the plain PRO.
    """

    mask: np.ndarray
    saturation_area: float

    def __post_init__(self) -> None:
        area = np.count_nonzero(self.mask)
        if not 0 < self.saturation_area <= area:
            raise ValueError(
                f"The saturation area of a defect region must be above 0 and at most its area of {area} pixels, "
                f"but it is {self.saturation_area}."
            )


def saturation_area(area: int, threshold: float, relative: bool) -> float:
    """The saturation area of a defect of `area` pixels by the rules of MVTec LOCO AD's `defects_config.json`.

    Args:
        area: Pixels of the defect's mask.
        threshold: The entry's `saturation_threshold`: pixels of the raw image, or a share of the area if relative.
        relative: The entry's `relative_saturation`.

    Returns:
        `int(threshold * area)` if relative, but at least one pixel, otherwise the smaller of threshold and area.

    Raises:
        ValueError: The area or the threshold is not above 0, or a relative threshold is above 1.
    """
    if area <= 0 or threshold <= 0:
        raise ValueError(f"A defect's area and threshold must be above 0, but they are {area} and {threshold}.")
    if not relative:
        return float(min(threshold, area))
    if threshold > 1:
        raise ValueError(f"A relative saturation threshold is a share of the area, at most 1, but it is {threshold}.")
    return float(max(int(threshold * area), 1))


def spro_curve(anomaly_maps: Sequence[ArrayLike], regions: Sequence[Sequence[SaturatedRegion]]) -> RateCurve:
    """Saturated per-region overlap (sPRO) against the false positive rate, at every distinct score.

    sPRO is the mean over all regions of all images of `min(found pixels / saturation area, 1)`. A pixel inside any
    region is never a false positive. AU-sPRO, usually reported for MVTec LOCO AD, is its `area` up to a rate of 0.05.
    Source: Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in Unsupervised Anomaly Detection and
    Localization", IJCV 2022. MVTec's code takes the curve at adaptively chosen thresholds; this one leaves none out.
    Absolute saturation areas are pixels of the raw images: maps must be as large.

    Args:
        anomaly_maps: (H, W) each, see `pixel_auroc`.
        regions: The defects of each image, an empty list for a good one. Logical and structural anomalies are each
            evaluated against all good images.

    Raises:
        ValueError: As in `pixel_auroc`.
    """
    images = pair_images(anomaly_maps, _union_masks(anomaly_maps, regions))
    scores, weights = [], []
    for (anomaly_map, _), defects in zip(images, regions, strict=True):
        for defect in defects:
            inside = anomaly_map[defect.mask != 0]
            scores.append(inside)
            weights.append(_saturating_weights(inside, defect.saturation_area))
    return rank(np.concatenate(scores), ok_chunks(images)).curve(np.concatenate(weights))


def au_spro(
    anomaly_maps: Sequence[ArrayLike], regions: Sequence[Sequence[SaturatedRegion]], fpr_limit: float = 0.05
) -> float:
    """Area under the sPRO curve up to a false positive rate, divided by that rate: in [0, 1], 1.0 for a perfect map.

    Arguments and errors: see `spro_curve`. The limit is in (0, 1]; MVTec LOCO AD is usually reported at 0.05. For
    several limits take `spro_curve` once and its `area` at each.
    """
    return spro_curve(anomaly_maps, regions).area(fpr_limit)


def _union_masks(anomaly_maps: Sequence[ArrayLike], regions: Sequence[Sequence[SaturatedRegion]]) -> list[np.ndarray]:
    check_counts(anomaly_maps, regions, "lists of regions")
    masks = []
    for index, (anomaly_map, defects) in enumerate(zip(anomaly_maps, regions, strict=True)):
        mask = np.zeros(np.shape(anomaly_map), bool)
        for defect in defects:
            check_shapes(index, mask.shape, defect.mask.shape, "region")
            mask |= defect.mask != 0
        masks.append(mask)
    return masks


def _saturating_weights(scores: np.ndarray, saturation: float) -> np.ndarray:
    """Weights whose sum over the n highest scores is `min(n / saturation, 1)`; ties are merged by the ranking."""
    weights = np.empty(len(scores))
    weights[np.argsort(-scores)] = np.clip(saturation - np.arange(len(scores)), 0.0, 1.0) / saturation
    return weights
