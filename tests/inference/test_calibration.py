"""Thresholds and p-values: by hand, and as a promise about new good parts."""

import json
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binom

from ast_hf import CheckpointError, ConfigError
from ast_hf.inference.calibration import Calibration, parts_to_promise, rate_to_promise, upper_bound


def test_conformal_rank_by_hand() -> None:
    values = tuple(float(i) for i in range(1, 20))  # 19 scores: (19 + 1) * 0.95 = 19th smallest
    calibration = Calibration(values, values, 0.05)
    assert (calibration.threshold(), calibration.threshold(0.10), calibration.map_threshold(0.5)) == (19.0, 18.0, 10.0)
    assert [calibration.p_value(score) for score in (19.0, 19.5, 0.0)] == [2 / 20, 1 / 20, 1.0]


def test_small_sets_extrapolate_by_the_prediction_bound() -> None:
    values = tuple(math.exp(x) for x in (-1.0, 0.0, 1.0))
    # Logs have mean 0 and deviation 1; Student's t with 2 degrees of freedom at 0.95 is 2.919986.
    assert upper_bound(values, 0.05) == pytest.approx(math.exp(2.919986 * math.sqrt(1 + 1 / 3)), rel=1e-5)
    assert upper_bound((2.0,), 0.05) >= 2.0


@given(st.lists(st.floats(1e-6, 1e6), min_size=19, max_size=60), st.lists(st.floats(0, 1e6)), st.floats(0.01, 0.5))
def test_threshold_and_p_value_agree(held_out: list[float], new: list[float], lower: float) -> None:
    calibration = Calibration(tuple(held_out), tuple(held_out), 0.05)
    for score in new:
        assert (score > calibration.threshold()) == (calibration.p_value(score) <= 0.05)
    assert calibration.threshold(lower) >= calibration.threshold(0.5)


@pytest.mark.parametrize("count", [10, 40, 200])
def test_false_positive_rate_holds_on_new_scores(count: int) -> None:
    generator, rates = np.random.default_rng(0), []
    for _ in range(400):
        values = generator.lognormal(sigma=0.5, size=count + 100)
        rates.append((values[count:] > upper_bound(sorted(values[:count].tolist()), 0.05)).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=0.012)


@pytest.mark.parametrize(("count", "rate", "promised"), [(8, 0.05, 0.312), (19, 0.05, 0.146), (59, 1 / 60, 0.0495)])
def test_the_promise_is_the_upper_limit_of_clopper_and_pearson(count: int, rate: float, promised: float) -> None:
    values = tuple(range(1, count + 1))
    calibration = Calibration(values, values, rate)
    assert calibration.promised_rate() == pytest.approx(promised, rel=3e-3)  # with the largest: 1 - 0.05 ** (1 / count)
    assert f"{count} good parts" in calibration.describe() and f"{100 * promised:.3g} %" in calibration.describe()
    for above in range(1, min(count, 5)):
        promised = calibration.promised_rate((above + 1) / (count + 1))
        assert binom.cdf(above, count, promised) == pytest.approx(0.05, rel=1e-6)


def test_the_promise_is_kept_by_95_of_100_detectors() -> None:
    generator, kept = np.random.default_rng(0), []
    for _ in range(2000):
        calibration = Calibration(tuple(generator.uniform(size=59)), (1.0,), 0.05)
        kept.append(1 - calibration.threshold() < calibration.promised_rate())
    assert np.mean(kept) == pytest.approx(0.95, abs=0.015)


@given(st.integers(1, 400), st.floats(0.01, 0.5))
def test_what_it_takes_to_promise_a_rate(count: int, rate: float) -> None:
    assert parts_to_promise(0.05) == 59
    values = tuple(range(1, count + 1))
    lower, enough = rate_to_promise(rate, count), count >= parts_to_promise(rate)
    assert (lower > 0) == enough
    if enough:
        calibration = Calibration(values, values, lower)
        assert calibration.promised_rate() <= rate < calibration.promised_rate(lower + 1 / (count + 1))


def test_json_round_trip() -> None:
    calibration = Calibration((0.3, 0.1), (3.0, 1.0), 0.02, "bf16")
    values = json.loads(json.dumps(calibration.to_dict()))
    assert Calibration.from_dict(values) == calibration
    del values["precision"]  # what all had before it was written down
    assert Calibration.from_dict(values).precision == "fp32"


@pytest.mark.parametrize(
    "change",
    [{"scores": []}, {"scores": ["a"]}, {"peaks": [math.nan]}, {"peaks": None}, {"precision": "fp8"}]
    + [{"false_positive_rate": rate} for rate in (0, 1, -0.1, math.nan, True, "5 %")],
)
def test_damage_and_rates_outside_0_and_1_are_refused(change: dict[str, Any]) -> None:
    calibration = Calibration((1.0, 2.0), (1.0, 2.0))
    with pytest.raises(CheckpointError, match="stored calibration"):
        Calibration.from_dict({**calibration.to_dict(), **change})
    for rate in change.get("false_positive_rate", 0), 2:
        with pytest.raises(ConfigError, match="false_positive_rate"):
            calibration.map_threshold(rate)
