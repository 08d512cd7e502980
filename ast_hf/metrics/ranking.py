"""Positive scores ranked against negative ones, exactly and in little memory: what every metric here is read from.

Only the distinct positive scores can bend a curve, and between two of them nothing but the number of negatives matters.
So the few positives are sorted with their indices, and the many negatives by value alone, chunk by chunk, which takes a
fraction of the time and memory of an argsort of all. Each chunk leaves behind two counts a threshold.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike

Images = list[tuple[np.ndarray, np.ndarray]]  # (anomaly map, boolean mask), (H, W) each

PIXELS_A_CHUNK = 1 << 26


@dataclass(frozen=True, eq=False)
class RateCurve:
    """A rate against the false positive rate, both (V,) float64, never falling, from (0, 0) to (1, 1).

    Each distinct score is one threshold. A threshold that positives and negatives share moves both rates at once, which
    makes a slope and not a step.
    """

    false_positive_rate: np.ndarray
    rate: np.ndarray

    def area(self, fpr_limit: float = 1.0) -> float:
        """Area under the curve up to `fpr_limit` by the trapezoidal rule, interpolated there and divided by it.

        A perfect ranking gives 1.0, a constant score `fpr_limit / 2`. Raises a ValueError for a limit outside (0, 1].
        """
        if not 0.0 < fpr_limit <= 1.0:
            raise ValueError(f"The false positive rate limit must be above 0 and at most 1, but it is {fpr_limit}.")
        inside = int(np.searchsorted(self.false_positive_rate, fpr_limit, side="right"))
        x, y = self.false_positive_rate[:inside], self.rate[:inside]
        area = np.dot(np.diff(x), y[1:] + y[:-1])
        if inside < len(self.rate):
            run, rise = self.false_positive_rate[inside] - x[-1], self.rate[inside] - y[-1]
            rest = fpr_limit - x[-1]
            area += rest * (2.0 * y[-1] + rise * rest / run)
        return float(area / (2.0 * fpr_limit))


@dataclass(frozen=True, eq=False)
class Ranking:
    """P positive scores with T distinct values, the thresholds, against negative scores."""

    thresholds: np.ndarray  # (T,) descending
    order: np.ndarray  # (P,) indices that sort the positives in descending order
    found: np.ndarray  # (T,) int64, positives that score as much as the threshold, or more
    negatives: int
    negatives_above: np.ndarray  # (T,) int64, negatives that score more than the threshold
    negatives_from: np.ndarray  # (T,) int64, negatives that score as much as the threshold, or more

    def curve(self, weights: np.ndarray | None = None) -> RateCurve:
        """The share found of the positives' `weights` (P,), non-negative; None weighs all alike (the ROC curve)."""
        found = self.found
        if weights is not None:
            found = np.cumsum(np.add.reduceat(weights[self.order], np.append(0, found[:-1])))
        x, y = np.zeros(2 * len(found) + 2), np.zeros(2 * len(found) + 2)
        x[1:-1:2] = self.negatives_above / self.negatives  # the negatives between two thresholds: a level stretch
        x[2:-1:2] = self.negatives_from / self.negatives  # the threshold itself: a step, sloped by tied negatives
        y[2:-1:2] = found / found[-1]
        y[3:-1:2] = y[2:-3:2]
        x[-1] = y[-1] = 1.0
        return RateCurve(x, y)

    def average_precision(self) -> float:
        """Precision at each threshold, weighted by the recall that the threshold adds (no interpolation)."""
        precision = self.found / (self.found + self.negatives_from)
        return float(np.dot(np.diff(self.found, prepend=0), precision) / len(self.order))


def rank(positives: np.ndarray, negative_chunks: Iterable[np.ndarray]) -> Ranking:
    """Ranks positive (P,) against negative scores; equal scores are merged, so no order among ties can matter.

    The chunks, not all empty, are sorted in place. A larger one costs memory, a smaller one another search for all
    thresholds. No score is NaN.
    """
    order = np.argsort(positives)
    ascending = positives[order]
    first = np.flatnonzero(np.append(True, ascending[1:] != ascending[:-1]))
    thresholds, negatives = ascending[first], 0
    below, up_to = np.zeros(len(thresholds), np.int64), np.zeros(len(thresholds), np.int64)
    for chunk in negative_chunks:
        chunk.sort()
        below += np.searchsorted(chunk, thresholds, side="left")
        up_to += np.searchsorted(chunk, thresholds, side="right")
        negatives += len(chunk)
    found, above, at_least = len(order) - first, negatives - up_to, negatives - below
    return Ranking(thresholds[::-1], order[::-1], found[::-1], negatives, above[::-1], at_least[::-1])


def as_real(values: ArrayLike, name: str) -> np.ndarray:
    """The values as floats of at least 32 bits, without a copy where they are. Raises a ValueError if one is NaN."""
    array = np.asarray(values)
    if array.dtype.kind not in "fiub":
        raise ValueError(f"{name} must hold real numbers, but its type is {array.dtype}.")
    array = array.astype(np.result_type(array.dtype, np.float32), copy=False)
    if array.size and np.isnan(array.min()):  # the minimum is NaN if anything is
        where = tuple(np.argwhere(np.isnan(array))[0].tolist())
        raise ValueError(f"{name} is NaN at {where if len(where) > 1 else where[0]}: a NaN cannot be ranked.")
    return array


def _check_counts(anomaly_maps: Sequence, others: Sequence, name: str) -> None:
    if len(anomaly_maps) != len(others):
        counts = f"{len(anomaly_maps)} anomaly maps but {len(others)} {name}"
        raise ValueError(f"There are {counts}: give one each an image.")


def _check_shapes(index: int, map_shape: tuple[int, ...], other_shape: tuple[int, ...], name: str) -> None:
    if len(map_shape) != 2 or map_shape != other_shape:
        raise ValueError(
            f"Anomaly map {index} has shape {map_shape} but its {name} has shape {other_shape}: both must "
            "be the same (H, W). Resize the map to the mask, not the mask to the map."
        )


def pair_images(anomaly_maps: Sequence[ArrayLike], masks: Sequence[ArrayLike]) -> Images:
    """Checks maps and masks and makes the masks boolean; float maps are not copied."""
    _check_counts(anomaly_maps, masks, "masks")
    images = []
    for index, (anomaly_map, mask) in enumerate(zip(anomaly_maps, masks, strict=True)):
        values, defective = as_real(anomaly_map, f"Anomaly map {index}"), np.asarray(mask) != 0
        _check_shapes(index, values.shape, defective.shape, "mask")
        images.append((values, defective))
    none = "None of the images has"
    if not any(mask.any() for _, mask in images):
        raise ValueError(f"{none} a defective pixel, so nothing can be found: give at least one defective image.")
    if all(mask.all() for _, mask in images):
        raise ValueError(f"{none} an ok pixel, so there is no false positive rate: give masks that leave pixels out.")
    return images


def union_masks(anomaly_maps: Sequence[ArrayLike], regions: Sequence[Sequence[np.ndarray]]) -> list[np.ndarray]:
    """One boolean mask a map of all its regions."""
    _check_counts(anomaly_maps, regions, "lists of regions")
    masks = []
    for index, (anomaly_map, parts) in enumerate(zip(anomaly_maps, regions, strict=True)):
        mask = np.zeros(np.shape(anomaly_map), bool)
        for part in parts:
            _check_shapes(index, mask.shape, part.shape, "region")
            mask |= part != 0
        masks.append(mask)
    return masks


def ok_chunks(images: Images) -> Iterator[np.ndarray]:
    """The scores of all ok pixels, a limited number of whole images at a time."""
    firsts, pixels = [], PIXELS_A_CHUNK
    for index, (_, mask) in enumerate(images):
        if pixels >= PIXELS_A_CHUNK:
            firsts.append(index)
            pixels = 0
        pixels += mask.size
    for first, end in pairwise([*firsts, len(images)]):
        group = images[first:end]
        stops = np.cumsum([mask.size - np.count_nonzero(mask) for _, mask in group])
        scores = np.empty(stops[-1], np.result_type(*(anomaly_map for anomaly_map, _ in group)))
        for (anomaly_map, mask), part in zip(group, np.split(scores, stops[:-1]), strict=True):
            part[:] = anomaly_map[~mask]
        yield scores
