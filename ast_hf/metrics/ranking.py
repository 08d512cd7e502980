"""Positive scores ranked against negative ones, exactly and in little memory: what every metric here is read from.

Only the distinct positive scores can bend a curve, and between two of them nothing but the number of negatives matters.
So the few positives are sorted with their indices, and the many negatives by value alone, chunk by chunk, which takes a
fraction of the time and memory of an argsort of all. Each chunk leaves behind two counts a threshold.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class RateCurve:
    """A rate against the false positive rate, both (V,) float64, never falling, from (0, 0) to (1, 1).

    Each distinct score is one threshold. A threshold that positives and negatives share moves both rates at once, which
    makes a slope and not a step.
    """

    false_positive_rate: np.ndarray
    rate: np.ndarray

    def area(self, fpr_limit: float = 1.0) -> float:
        """Area under the curve up to `fpr_limit` by the trapezoidal rule, divided by the limit.

        The curve is interpolated at the limit. A perfect ranking gives 1.0, a constant score `fpr_limit / 2`.

        Args:
            fpr_limit: The highest false positive rate that counts, in (0, 1].

        Raises:
            ValueError: The limit is outside (0, 1].
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
    """P positive scores with T distinct values against N negative scores; thresholds descend.

    Attributes:
        thresholds: (T,) The distinct positive scores.
        order: (P,) Indices that sort the positives in descending order.
        starts: (T,) Where in `order` each threshold begins.
        negatives: N.
        negatives_above: (T,) int64, negatives that score more than the threshold.
        negatives_from: (T,) int64, negatives that score as much as the threshold, or more.
    """

    thresholds: np.ndarray
    order: np.ndarray
    starts: np.ndarray
    negatives: int
    negatives_above: np.ndarray
    negatives_from: np.ndarray

    def positives_from(self) -> np.ndarray:
        """(T,) int64, positives that score as much as each threshold, or more."""
        return np.append(self.starts[1:], len(self.order))

    def curve(self, weights: np.ndarray | None = None) -> RateCurve:
        """The share of the positives' weight that is found against the false positive rate.

        Args:
            weights: (P,) non-negative; None weighs all positives alike (the ROC curve).
        """
        if weights is None:
            found = self.positives_from()
        else:
            found = np.cumsum(np.add.reduceat(weights[self.order], self.starts))
        x, y = np.zeros(2 * len(found) + 2), np.zeros(2 * len(found) + 2)
        x[1:-1:2] = self.negatives_above / self.negatives  # the negatives between two thresholds: a level stretch
        x[2:-1:2] = self.negatives_from / self.negatives  # the threshold itself: a step, sloped by tied negatives
        y[2:-1:2] = found / found[-1]
        y[3:-1:2] = y[2:-3:2]
        x[-1] = y[-1] = 1.0
        return RateCurve(x, y)

    def average_precision(self) -> float:
        """Precision at each threshold, weighted by the recall that the threshold adds (no interpolation)."""
        found = self.positives_from()
        precision = found / (found + self.negatives_from)
        return float(np.dot(np.diff(found, prepend=0), precision) / len(self.order))

    def f1_max(self) -> tuple[float, float]:
        """The highest F1 of any threshold, and the highest threshold (score >= threshold is positive) that gives it."""
        found = self.positives_from()
        f1 = 2.0 * found / (found + self.negatives_from + len(self.order))
        best = int(np.argmax(f1))  # a threshold between two positive scores only adds false positives
        return float(f1[best]), float(self.thresholds[best])


def rank(positives: np.ndarray, negative_chunks: Iterable[np.ndarray]) -> Ranking:
    """Ranks positive against negative scores; equal scores are merged, so no order among ties can matter.

    Args:
        positives: (P,) floats without NaN, P > 0.
        negative_chunks: 1-D float arrays without NaN, not all empty. They are sorted in place. A larger chunk costs
            memory, a smaller one another search for all thresholds.
    """
    order = np.argsort(positives)
    ascending = positives[order]
    is_first = np.append(True, ascending[1:] != ascending[:-1])
    thresholds = ascending[is_first]
    starts = len(order) - np.append(np.flatnonzero(is_first)[1:], len(order))
    negatives = 0
    below, up_to = np.zeros(len(thresholds), np.int64), np.zeros(len(thresholds), np.int64)
    for chunk in negative_chunks:
        chunk.sort()
        below += np.searchsorted(chunk, thresholds, side="left")
        up_to += np.searchsorted(chunk, thresholds, side="right")
        negatives += len(chunk)
    above, from_threshold = negatives - up_to, negatives - below
    return Ranking(thresholds[::-1], order[::-1], starts[::-1], negatives, above[::-1], from_threshold[::-1])
