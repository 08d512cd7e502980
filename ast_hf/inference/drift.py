"""Whether the parts of a line still look like the held-out ones: a conformal test martingale on their scores."""

from __future__ import annotations

import bisect
import math
import random
from dataclasses import dataclass

from ast_hf.inference.calibration import Calibration

# The bets of a simple jumper (Vovk et al. 2021, "Retrain or not retrain"): 1 + bet * (p - 1/2) for a p-value p.
# The signs find scores that rise and scores that fall; the two sizes small changes and large ones.
_BETS = (-2.0, -1.0, 0.0, 1.0, 2.0)


@dataclass(frozen=True)
class DriftAlarm:
    """The parts called good no longer look like the held-out ones."""

    since: str  # name of the first part since which the evidence grew
    evidence: float  # the largest value of the martingale so far, as odds against a line that has not changed

    def __str__(self) -> str:
        odds = f"{self.evidence:.3g}, which a line that has not changed reaches with a probability of at most"
        since = f"Since {self.since} the parts called good no longer look like the held-out ones"
        return f"{since} (evidence {odds} {1 / self.evidence:.2g})."


class DriftMonitor:
    """Watches the scores of parts as they come, and tells when those called good have changed.

    Each score gets its randomised conformal p-value among the held-out scores and all earlier ones; a test martingale
    bets against these being uniform. While held-out and new parts are drawn alike the p-values are independent and
    uniform, so that by Ville's inequality the martingale ever reaches 1 / `level`, in (0, 1), with a probability of at
    most `level`, however many parts come. (Among the held-out scores alone they would not be independent: with 20 of
    those, at a level of 1 %, two of five unchanged lines raised an alarm within 500 parts.)

    Parts above the threshold, or the largest held-out score where it is lower, may be defects and say nothing about the
    line. They are left out on both sides: of scores below one of the held-out scores, those held out and those to come
    are again drawn alike. Where all parts are called anomalous there is hence no alarm, and missed defects count as a
    change of the line.
    """

    def __init__(self, calibration: Calibration, level: float = 0.01) -> None:
        self.alarm: DriftAlarm | None = None  # the strongest evidence so far, where it has reached 1 / level
        self._limit = min(calibration.threshold(), calibration.scores[-1])
        self._scores = [score for score in calibration.scores if score < self._limit]
        self._level, self._random = level, random.Random(0)
        self._shares = [1 / len(_BETS)] * len(_BETS)  # of the capital, by bet
        self._log_capital = self._lowest = 0.0
        self._since: str | None = None

    def update(self, score: float, name: str) -> DriftAlarm | None:
        """Takes in a part by its image score and name; gives the alarm at the one part that raises it, else None."""
        if score >= self._limit:
            return None
        self._since = self._since or name
        before = self.alarm
        # Its randomised conformal p-value among all scores so far, which this one then joins.
        first, end = bisect.bisect_left(self._scores, score), bisect.bisect_right(self._scores, score)
        rank = len(self._scores) - end + self._random.random() * (end - first + 1)
        self._scores.insert(end, score)
        self._bet(rank / len(self._scores))
        if self._log_capital < self._lowest:
            self._lowest, self._since = self._log_capital, None
        evidence = math.exp(min(self._log_capital, 700.0))
        if evidence >= (before.evidence if before else 1 / self._level):
            self.alarm = DriftAlarm(self._since or name, evidence)
        return None if before else self.alarm

    def _bet(self, p_value: float) -> None:
        # Before each bet a part of the capital is spread over all. Were it always the same, the capital would melt on a
        # line that does not change, and a change after 20,000 parts take eight times as long to be seen.
        jump = 1 / (100 + len(self._scores))
        mixed = [(1 - jump) * share + jump / len(_BETS) for share in self._shares]
        won = [share * (1 + bet * (p_value - 0.5)) for share, bet in zip(mixed, _BETS, strict=True)]
        self._log_capital += math.log(sum(won))
        self._shares = [share / sum(won) for share in won]
