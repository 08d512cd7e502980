"""Image and pixel metrics of anomaly detection, exact, as the datasets' own evaluation code defines them.

All pixels of all test images of one category are pooled, good images included, and equal scores are merged. Scores are
used as they come: nothing here clamps, normalises or resizes. A constant map is defined: it ranks nothing, its curve is
the straight line from (0, 0) to (1, 1), its pixel AUROC is 0.5, and its AU-PRO and AU-sPRO are `fpr_limit / 2`.

Maps and masks are sequences of (H, W) arrays, one each an image. Sizes may differ between images; a map has the size of
its mask. Besides the maps this takes a byte a pixel, about 64 bytes a defective pixel, and half a GiB (1 GiB for 64-bit
maps) of buffers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ast_hf.metrics.pixels import as_real, pair_images, rank_pixels, region_weights
from ast_hf.metrics.ranking import Ranking, RateCurve, rank
from ast_hf.metrics.saturated_overlap import SaturatedRegion, au_spro, saturation_area, spro_curve

__all__ = [
    "RateCurve",
    "SaturatedRegion",
    "SegmentationMetrics",
    "au_pro",
    "au_spro",
    "average_precision",
    "f1_max",
    "image_auroc",
    "pixel_auroc",
    "pro_curve",
    "saturation_area",
    "segmentation_metrics",
    "spro_curve",
]


def image_auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve of image scores, ties counting one half.

    Args:
        scores: (N,) higher is more anomalous; any real range.
        labels: (N,) 0 is good, anything else is anomalous.

    Raises:
        ValueError: Sizes differ, a score is NaN, or one of the two classes is missing.
    """
    return _rank_images(scores, labels).curve().area()


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """Average precision of image scores: the mean precision over recall, without interpolation.

    Arguments and errors are those of `image_auroc`.
    """
    return _rank_images(scores, labels).average_precision()


def f1_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The highest F1 of any threshold, and the highest threshold that gives it (score >= threshold is anomalous).

    The threshold is chosen on the scores it is measured on, so this is an upper bound and no estimate for new images.
    Arguments and errors are those of `image_auroc`.
    """
    return _rank_images(scores, labels).f1_max()


def pixel_auroc(anomaly_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> float:
    """Area under the ROC curve of all pixels of all images, ties counting one half.

    Args:
        anomaly_maps: (H, W) each, higher is more anomalous; any real range, infinities allowed.
        masks: (H, W) each, 0 is ok, anything else is defective; a good image has a mask of zeros.

    Raises:
        ValueError: The sequences do not match, a map holds NaN, or there is no defective or no ok pixel.
    """
    return rank_pixels(pair_images(anomaly_maps, masks)).curve().area()


def pro_curve(anomaly_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> RateCurve:
    """Per-region overlap (PRO) against the false positive rate: the mean over defect regions of the share found.

    A region is an 8-connected component of one image's mask. Source: Bergmann et al., "The MVTec Anomaly Detection
    Dataset", IJCV 2021, and MVTec's evaluation code. Arguments and errors: see `pixel_auroc`.
    """
    images = pair_images(anomaly_maps, masks)
    return rank_pixels(images).curve(region_weights(images))


def au_pro(anomaly_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike], fpr_limit: float = 0.3) -> float:
    """Area under the PRO curve up to a false positive rate, divided by that rate: in [0, 1], 1.0 for a perfect map.

    Args:
        anomaly_maps: (H, W) each, see `pixel_auroc`.
        masks: (H, W) each, see `pixel_auroc`.
        fpr_limit: In (0, 1]. 0.3 is the limit of MVTec AD, 0.05 that of MVTec AD 2.

    Raises:
        ValueError: As in `pixel_auroc`, or the limit is outside (0, 1].
    """
    return pro_curve(anomaly_maps, masks).area(fpr_limit)


@dataclass(frozen=True)
class SegmentationMetrics:
    """The pixel metrics of one category, each in [0, 1]; `au_pro` by its false positive rate limit."""

    pixel_auroc: float
    pixel_average_precision: float
    au_pro: dict[float, float]


def segmentation_metrics(
    anomaly_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike], fpr_limits: Sequence[float] = (0.05, 0.3)
) -> SegmentationMetrics:
    """All pixel metrics from one ranking, which costs about as much as one. Arguments and errors: see `au_pro`."""
    images = pair_images(anomaly_maps, masks)
    ranking = rank_pixels(images)
    auroc = ranking.curve().area()
    pro = ranking.curve(region_weights(images))
    return SegmentationMetrics(auroc, ranking.average_precision(), {limit: pro.area(limit) for limit in fpr_limits})


def _rank_images(scores: ArrayLike, labels: ArrayLike) -> Ranking:
    values, anomalous = as_real(scores, "The list of scores"), np.asarray(labels) != 0
    if values.ndim != 1 or values.shape != anomalous.shape:
        raise ValueError(f"Scores and labels must be (N,) alike, but they are {values.shape} and {anomalous.shape}.")
    if anomalous.all() or not anomalous.any():
        missing = "good" if anomalous.all() else "anomalous"
        raise ValueError(f"None of the {len(values)} images is {missing}: give good and anomalous ones.")
    return rank(values[anomalous], [values[~anomalous]])
