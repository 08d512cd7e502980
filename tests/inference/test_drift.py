"""Whether a line has changed: seldom a false alarm, and none that is missed for long."""

from collections.abc import Callable

import numpy as np
import pytest

from ast_hf.inference import Calibration
from ast_hf.inference.drift import DriftMonitor


def monitor(held_out: np.ndarray, level: float = 0.01) -> DriftMonitor:
    return DriftMonitor(Calibration(tuple(held_out.tolist()), (1.0,)), level)


def lognormal(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.lognormal(sigma=0.3, size=count)


def with_ties(generator: np.random.Generator, count: int) -> np.ndarray:
    return generator.integers(1, 6, count).astype(float)


@pytest.mark.parametrize("draw", [lognormal, with_ties])
@pytest.mark.parametrize("count", [8, 20, 100])
def test_a_line_that_has_not_changed_seldom_raises_an_alarm(
    draw: Callable[[np.random.Generator, int], np.ndarray], count: int
) -> None:
    generator, alarms = np.random.default_rng(count), 0
    for _ in range(100):
        drift = monitor(draw(generator, count), level=0.05)
        for score in draw(generator, 300).tolist():
            drift.update(score, "part")
        alarms += drift.alarm is not None
    assert alarms <= 10  # of 5 expected at most; against the held-out scores alone there are 60


@pytest.mark.parametrize("factor", [1.5, 0.8])
def test_a_change_is_found_once_with_its_beginning_and_evidence(factor: float) -> None:
    generator = np.random.default_rng(0)
    drift = monitor(lognormal(generator, 100))
    scores = np.concatenate([lognormal(generator, 150), factor * lognormal(generator, 150)])
    alarms = [alarm for i, score in enumerate(scores.tolist()) if (alarm := drift.update(score, str(i)))]
    assert len(alarms) == 1 and alarms[0].evidence >= 100
    assert drift.alarm is not None and drift.alarm.evidence > alarms[0].evidence
    assert 130 <= int(drift.alarm.since) <= 180
    assert f"Since {drift.alarm.since} the parts called good" in str(drift.alarm)


def test_parts_called_anomalous_say_nothing() -> None:
    generator = np.random.default_rng(0)
    held_out, new = lognormal(generator, 50), lognormal(generator, 400)
    plain, mixed = monitor(held_out), monitor(held_out)
    for score in new.tolist():
        for _ in range(3):
            assert mixed.update(100.0, "defect") is None
        assert (plain.update(score, "part") is None) == (mixed.update(score, "part") is None)
    assert plain.alarm == mixed.alarm
