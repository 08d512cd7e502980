from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ast_hf import CheckpointError, ConfigError
from ast_hf.calibration import Calibration, upper_bound

scores = st.lists(st.floats(1e-6, 1e6), min_size=1, max_size=40)


def test_conformal_rank_by_hand() -> None:
    values = tuple(float(i) for i in range(1, 20))  # 19 scores: (19 + 1) * 0.95 = 19th smallest
    assert Calibration(values, values, 0.05).threshold() == 19.0
    assert Calibration(values, values, 0.10).threshold() == 18.0
    assert Calibration(values, values, 0.05).p_value(19.0) == 2 / 20
    assert Calibration(values, values, 0.05).p_value(19.5) == 1 / 20
    assert Calibration(values, values, 0.05).p_value(0.0) == 1.0


def test_small_sets_extrapolate_by_the_prediction_bound() -> None:
    values = tuple(math.exp(x) for x in (-1.0, 0.0, 1.0))
    # Logs have mean 0 and deviation 1; Student's t with 2 degrees of freedom at 0.95 is 2.919986.
    assert upper_bound(values, 0.05) == pytest.approx(math.exp(2.919986 * math.sqrt(1 + 1 / 3)), rel=1e-5)
    assert upper_bound((2.0,), 0.05) >= 2.0


@given(scores, st.floats(0.01, 0.5), st.floats(0.01, 0.5))
def test_a_lower_rate_never_lowers_the_threshold(values: list[float], a: float, b: float) -> None:
    calibration = Calibration(tuple(values), tuple(values))
    assert calibration.threshold(min(a, b)) >= calibration.threshold(max(a, b))


@given(scores, st.floats(0, 1e6), st.floats(0, 1e6))
def test_p_value_falls_with_the_score(values: list[float], a: float, b: float) -> None:
    calibration = Calibration(tuple(values), tuple(values))
    assert 0 < calibration.p_value(max(a, b)) <= calibration.p_value(min(a, b)) <= 1


@given(st.integers(0, 200))
def test_threshold_and_p_value_agree(seed: int) -> None:
    generator = np.random.default_rng(seed)
    values = tuple(generator.lognormal(size=60).tolist())
    calibration = Calibration(values, values, 0.05)
    for score in generator.lognormal(size=20):
        assert (score > calibration.threshold()) == (calibration.p_value(score) < 0.05)


@pytest.mark.parametrize("count", [10, 40, 200])
def test_false_positive_rate_holds_on_new_scores(count: int) -> None:
    generator = np.random.default_rng(0)
    rates = []
    for _ in range(400):
        values = generator.lognormal(sigma=0.5, size=count + 100)
        bound = upper_bound(sorted(values[:count].tolist()), 0.05)
        rates.append((values[count:] > bound).mean())
    assert np.mean(rates) == pytest.approx(0.05, abs=0.012)


def test_json_round_trip_and_damage() -> None:
    calibration = Calibration((0.3, 0.1), (3.0, 1.0), 0.02)
    values = json.loads(json.dumps(calibration.to_dict()))
    assert Calibration.from_dict(values) == calibration
    assert values["scores"] == [0.1, 0.3]
    for change in ({"scores": []}, {"scores": ["a"]}, {"peaks": [float("nan")]}, {"false_positive_rate": 0}):
        with pytest.raises(CheckpointError, match="stored calibration"):
            Calibration.from_dict({**values, **change})
    del values["peaks"]
    with pytest.raises(CheckpointError):
        Calibration.from_dict(values)


@pytest.mark.parametrize("rate", [0, 1, -0.1, float("nan"), True, "5 %"])
def test_rates_outside_0_and_1_are_refused(rate: object) -> None:
    with pytest.raises(ConfigError, match="false_positive_rate"):
        Calibration((1.0,), (1.0,), rate)


@pytest.mark.parametrize("rate", [0, 1, -0.1, float("nan"), True])
def test_a_rate_that_is_none_is_refused_and_not_replaced(rate: float) -> None:
    calibration = Calibration((1.0, 2.0), (1.0, 2.0), 0.1)
    with pytest.raises(ConfigError, match="false_positive_rate"):
        calibration.threshold(rate)
    with pytest.raises(ConfigError, match="false_positive_rate"):
        calibration.map_threshold(rate)
