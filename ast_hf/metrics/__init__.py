"""Image and pixel metrics of anomaly detection, exact, as the datasets' own evaluation code defines them.

All pixels of all test images of one category are pooled, good images included, and equal scores are merged. Scores are
used as they come: nothing here clamps, normalises or resizes. A constant map ranks nothing: its pixel AUROC is 0.5, its
AU-PRO and AU-sPRO are `fpr_limit / 2`. Sizes may differ between images; a map has the size of its mask. Besides maps
this takes a byte a pixel, about 64 bytes a defective pixel, and half a GiB (1 GiB for 64-bit maps) of buffers.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from ast_hf.metrics.ranking import Images, Ranking, RateCurve, as_real, ok_chunks, pair_images, rank, union_masks


def image_auroc(scores: ArrayLike, labels: ArrayLike) -> float:
    """Area under the ROC curve of image scores (N,), higher is more anomalous, ties counting one half.

    In `labels` (N,) 0 is good, anything else is anomalous. Raises a ValueError where the sizes differ, a score is NaN,
    or one of the two classes is missing.
    """
    return _rank_images(scores, labels).curve().area()


def average_precision(scores: ArrayLike, labels: ArrayLike) -> float:
    """The mean precision of image scores over recall, without interpolation. Arguments, errors: see `image_auroc`."""
    return _rank_images(scores, labels).average_precision()


def f1_max(scores: ArrayLike, labels: ArrayLike) -> tuple[float, float]:
    """The highest F1 of any threshold, and the highest threshold that gives it (score >= threshold is anomalous).

    The threshold is chosen on the scores it is measured on, so this is an upper bound and no estimate for new images.
    Arguments and errors: see `image_auroc`.
    """
    ranking = _rank_images(scores, labels)
    f1 = 2.0 * ranking.found / (ranking.found + ranking.negatives_from + len(ranking.order))
    best = int(np.argmax(f1))  # a threshold between two positive scores only adds false positives
    return float(f1[best]), float(ranking.thresholds[best])


def pixel_auroc(anomaly_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> float:
    """Area under the ROC curve of all pixels of all images, ties counting one half.

    In the maps, (H, W) each, higher is more anomalous, infinities allowed; in the masks, (H, W) each, 0 is ok, anything
    else is defective, and a good image has zeros alone. Raises a ValueError where the sequences do not match, a map
    holds NaN, or there is no defective or no ok pixel.
    """
    return _rank_pixels(pair_images(anomaly_maps, masks)).curve().area()


def pro_curve(anomaly_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> RateCurve:
    """Per-region overlap (PRO) against the false positive rate: the mean over defect regions of the share found.

    A region is an 8-connected component of one image's mask. Source: Bergmann et al., "The MVTec Anomaly Detection
    Dataset", IJCV 2021, and MVTec's evaluation code. Arguments and errors: see `pixel_auroc`.
    """
    images = pair_images(anomaly_maps, masks)
    return _rank_pixels(images).curve(_region_weights(images))


def au_pro(anomaly_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike], fpr_limit: float = 0.3) -> float:
    """Area under the PRO curve up to a false positive rate, divided by that rate: in [0, 1], 1.0 for a perfect map.

    The limit is in (0, 1]: 0.3 for MVTec AD, 0.05 for MVTec AD 2. Other arguments and errors: see `pixel_auroc`.
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
    ranking = _rank_pixels(images)
    pro = ranking.curve(_region_weights(images))
    areas = {limit: pro.area(limit) for limit in fpr_limits}
    return SegmentationMetrics(ranking.curve().area(), ranking.average_precision(), areas)


@dataclass(frozen=True, eq=False)
class SaturatedRegion:
    """One defect of MVTec LOCO AD: where it may be marked, and how much of that must be marked to count as all.

    A defect such as a missing part has no one place: marking its saturation area anywhere inside is having found it.
    """

    mask: np.ndarray  # (H, W) non-zero inside the defect, which may be in pieces and overlap others
    saturation_area: float  # pixels, above 0 and at most the mask's area, which makes sPRO the plain PRO

    def __post_init__(self) -> None:
        area = np.count_nonzero(self.mask)
        if not 0 < self.saturation_area <= area:
            bounds = f"above 0 and at most its area of {area} pixels, but it is {self.saturation_area}"
            raise ValueError(f"The saturation area of a defect region must be {bounds}.")


def saturation_area(area: int, threshold: float, relative: bool) -> float:
    """The saturation area of a defect of `area` pixels by the rules of MVTec LOCO AD's `defects_config.json`.

    Its `saturation_threshold` is in pixels of the raw image, or with `relative_saturation` a share of the area: then
    this is `int(threshold * area)`, but at least one pixel, otherwise the smaller of threshold and area. Raises a
    ValueError where one of them is not above 0, or a share above 1.
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
    region is never a false positive. Source: Bergmann et al., "Beyond Dents and Scratches: Logical Constraints in
    Unsupervised Anomaly Detection and Localization", IJCV 2022. MVTec's code takes the curve at adaptively chosen
    thresholds; this one leaves none out. Absolute saturation areas are pixels of the raw images: maps must be as large.

    `regions` are the defects of each image, none for a good one; logical and structural anomalies are each evaluated
    against all good images. Maps and errors: see `pixel_auroc`.
    """
    images = pair_images(anomaly_maps, union_masks(anomaly_maps, [[d.mask for d in defects] for defects in regions]))
    scores, weights = [], []
    for (anomaly_map, _), defects in zip(images, regions, strict=True):
        for defect in defects:
            inside = anomaly_map[defect.mask != 0]
            # Over the n highest scores they sum to min(n / saturation area, 1); ties are merged by the ranking.
            weight, places = np.empty(len(inside)), np.arange(len(inside))
            weight[np.argsort(-inside)] = np.clip(defect.saturation_area - places, 0.0, 1.0) / defect.saturation_area
            scores.append(inside)
            weights.append(weight)
    return rank(np.concatenate(scores), ok_chunks(images)).curve(np.concatenate(weights))


def au_spro(
    anomaly_maps: Sequence[ArrayLike], regions: Sequence[Sequence[SaturatedRegion]], fpr_limit: float = 0.05
) -> float:
    """Area under the sPRO curve up to a false positive rate, divided by that rate: in [0, 1], 1.0 for a perfect map.

    The limit is in (0, 1], usually 0.05 for MVTec LOCO AD; for several take `spro_curve` once and its `area` at each.
    Other arguments and errors: see `spro_curve`.
    """
    return spro_curve(anomaly_maps, regions).area(fpr_limit)


def _rank_images(scores: ArrayLike, labels: ArrayLike) -> Ranking:
    values, anomalous = as_real(scores, "The list of scores"), np.asarray(labels) != 0
    if values.ndim != 1 or values.shape != anomalous.shape:
        raise ValueError(f"Scores and labels must be (N,) alike, but they are {values.shape} and {anomalous.shape}.")
    if anomalous.all() or not anomalous.any():
        missing = "good" if anomalous.all() else "anomalous"
        raise ValueError(f"None of the {len(values)} images is {missing}: give good and anomalous ones.")
    return rank(values[anomalous], [values[~anomalous]])


def _rank_pixels(images: Images) -> Ranking:
    """Ranks all defective against all ok pixels; the positives are in the order in which the masks select them."""
    return rank(np.concatenate([anomaly_map[mask] for anomaly_map, mask in images]), ok_chunks(images))


def _region_weights(images: Images) -> np.ndarray:
    """One over the area of the region around each defective pixel, in the order in which the masks select them."""
    from scipy import ndimage  # a fifth of a second, which those who only list datasets need not wait for

    weights = []
    for _, mask in images:
        rows, columns = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
        if len(rows):
            box = mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]  # labelling the whole image would be slow
            inside = ndimage.label(box, structure=np.ones((3, 3)))[0][box]
            weights.append(1.0 / np.bincount(inside)[inside])
    return np.concatenate(weights)
