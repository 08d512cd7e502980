"""A threshold and a p-value from good parts alone (split conformal prediction)."""

from __future__ import annotations

import bisect
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ast_hf.config import DEFAULT_FALSE_POSITIVE_RATE
from ast_hf.errors import CheckpointError, ConfigError

CONFIDENCE = 0.95  # that a promised rate is kept
_MAX_SCORES = 1_000_000


@dataclass(frozen=True)
class Calibration:
    """What a detector says about good parts that it was not trained on.

    Its methods take another `false_positive_rate` than the stored one, in (0, 1).

    Raises:
        ConfigError: No scores, a score that is not finite, a rate outside (0, 1), or another precision.
    """

    scores: tuple[float, ...]  # image scores of the held-out good parts; sorted on construction
    peaks: tuple[float, ...]  # the largest value of each of their anomaly maps as shown, upsampled; sorted likewise
    false_positive_rate: float = DEFAULT_FALSE_POSITIVE_RATE  # share of good parts that may be called anomalous
    precision: Literal["fp32", "bf16"] = "fp32"  # arithmetic of the convolutions that the scores were computed in

    def __post_init__(self) -> None:
        for name in ("scores", "peaks"):
            values = getattr(self, name)
            if not 0 < len(values) <= _MAX_SCORES:
                raise ConfigError(f"A calibration needs {name} of at least one held-out good part.")
            for x in values:
                if isinstance(x, bool) or not isinstance(x, (int, float)) or not math.isfinite(x) or x < 0:
                    raise ConfigError(
                        f"The calibration {name} hold {str(x)[:40]}: only finite numbers from 0 up will do."
                    )
            object.__setattr__(self, name, tuple(sorted(map(float, values))))
        check_rate(self.false_positive_rate)
        if self.precision not in ("fp32", "bf16"):
            raise ConfigError(f"The calibration's precision is {str(self.precision)[:40]!r}: it is fp32 or bf16.")

    def threshold(self, false_positive_rate: float | None = None) -> float:
        """The image score above which a part is called anomalous."""
        return upper_bound(self.scores, self._rate(false_positive_rate))

    def map_threshold(self, false_positive_rate: float | None = None) -> float:
        """The map value that a good part exceeds anywhere with that probability: the scale of heat maps."""
        return upper_bound(self.peaks, self._rate(false_positive_rate))

    def promised_rate(self, false_positive_rate: float | None = None) -> float:
        """The false-positive rate that this detector's threshold stays under with 95 % confidence (`CONFIDENCE`).

        `false_positive_rate` holds on average over sets of held-out parts. The k-th smallest of n scores has a share of
        new ones above it that is Beta(n + 1 - k, k), whatever their distribution; this is its quantile, Clopper and
        Pearson's upper limit for n - k of n. Thresholds extrapolated from few scores are given the largest one's.
        """
        count = len(self.scores)
        rank = min(_rank(count, self._rate(false_positive_rate)), count)
        return _exceeded(count, count - rank)

    def describe(self, false_positive_rate: float | None = None) -> str:
        """What the threshold promises, in a sentence."""
        rate = self._rate(false_positive_rate)
        return (
            f"The threshold {self.threshold(rate):.5g} comes from {len(self.scores)} good parts kept out of training: "
            f"a false-positive rate of {100 * rate:.3g} % on average over such sets of parts, and with "
            f"{100 * CONFIDENCE:g} % confidence less than {100 * self.promised_rate(rate):.3g} % for this one."
        )

    def p_value(self, score: float) -> float:
        """Probability that a good part scores at least as high, in (0, 1].

        The conformal p-value (1 + #{held-out scores >= score}) / (n + 1): for good parts drawn like the held-out
        ones P(p <= a) <= a holds without any assumption on the distribution (Vovk et al. 2005).
        """
        at_least = len(self.scores) - bisect.bisect_left(self.scores, score)
        return (1 + at_least) / (len(self.scores) + 1)

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready; thresholds and promised rate are for the reader and are computed again on reading."""
        return {
            "false_positive_rate": self.false_positive_rate,
            "precision": self.precision,
            "promised_rate": self.promised_rate(),
            "threshold": self.threshold(),
            "map_threshold": self.map_threshold(),
            "scores": list(self.scores),
            "peaks": list(self.peaks),
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Calibration:
        """Reads what `to_dict` wrote; raises `CheckpointError` where a field is missing or unusable."""
        try:
            precision = values.get("precision", "fp32")  # what all had before it was written down
            return cls(tuple(values["scores"]), tuple(values["peaks"]), values["false_positive_rate"], precision)
        except (KeyError, TypeError, ConfigError) as error:
            raise CheckpointError(f"The stored calibration cannot be used ({error}).") from error

    def _rate(self, rate: float | None) -> float:
        return self.false_positive_rate if rate is None else check_rate(rate)


def check_rate(rate: float) -> float:
    """The false-positive rate; raises `ConfigError` where it is no number in (0, 1)."""
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate < 1:
        raise ConfigError(f"false_positive_rate is {rate!r}: give a number between 0 and 1, such as 0.05.")
    return rate


def upper_bound(scores: Sequence[float], false_positive_rate: float) -> float:
    """A value that one more score from the same source exceeds with at most the given probability.

    With enough scores (n >= 1/rate - 1) this is the conformal bound, the ceil((n + 1)(1 - rate))-th smallest, which
    assumes nothing about the distribution. With fewer there is no such bound below infinity; then the one-sided
    prediction bound of a log-normal distribution with unknown mean and deviation is used (Student's t quantile).

    The scores, at least one, are not negative and sorted; the rate is in (0, 1).
    """
    n = len(scores)
    rank = _rank(n, false_positive_rate)
    if rank <= n:
        return scores[rank - 1]
    from scipy.stats import t  # a second of import that only small calibration sets need

    logs = [math.log(max(score, 1e-30)) for score in scores]
    mean = sum(logs) / n
    variance = sum((x - mean) ** 2 for x in logs) / max(n - 1, 1)
    quantile = float(t.ppf(1 - false_positive_rate, max(n - 1, 1)))
    return max(math.exp(min(mean + quantile * math.sqrt(variance * (1 + 1 / n)), 700.0)), scores[-1])


def parts_to_promise(rate: float) -> int:
    """The fewest held-out parts whose largest score is a threshold with a `promised_rate` below the rate."""
    return math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-rate) - 1e-9)


def rate_to_promise(rate: float, count: int) -> float:
    """The `false_positive_rate` that promises the rate with so many held-out parts; 0 where they are too few."""
    return bisect.bisect_right(range(count), rate, key=lambda above: _exceeded(count, above)) / (count + 1)


def _rank(count: int, rate: float) -> int:
    """The conformal rank of the threshold among sorted scores, from 1; above `count` where they are too few."""
    # The tolerance keeps 20 * 0.95 = 19.000000000000004 from asking for one rank more than there is.
    return max(math.ceil((count + 1) * (1 - rate) - 1e-9), 1)


def _exceeded(count: int, above: int) -> float:
    """What the share of new scores above one of `count`, itself below `above` of them, stays under with confidence."""
    from scipy.special import betaincinv

    return float(betaincinv(above + 1, count - above, CONFIDENCE))
