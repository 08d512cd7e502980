"""Good parts that came later: learnt, or calibrated with alone; the detector they are added to stays as it was."""

from dataclasses import replace

import pytest
import torch
from PIL.Image import Image

from ast_hf import ASTDetector, ConfigError, TrainingRecipe, train
from ast_hf.inference import Calibration
from ast_hf.training.trainer import hold_out
from ast_hf.training.update import join, recalibrate, update
from tests import tiny

RECIPE = TrainingRecipe(epochs=8, learning_rate=3e-3, precision="fp32")
EARLIER = [tiny.picture(seed) for seed in range(24)]
BRIGHT = [tiny.picture(seed).point(lambda value: value * 1.6) for seed in range(100, 124)]
OPTIONS = {"seed": 3, "cache_folder": False}


@pytest.fixture(scope="module")
def detector() -> ASTDetector:
    config = tiny.config(feature_normalization="channel", student_channels=16)
    trained = train(config, EARLIER, RECIPE, "cpu", backbone_weights=None, **OPTIONS)
    trained.metrics = {"preset": "tiny"}
    return trained


def held_out(pictures: list[Image]) -> list[Image]:
    return [pictures[row] for row in hold_out(len(pictures), RECIPE, 3)[1]]


def scores(detector: ASTDetector, pictures: list[Image]) -> list[float]:
    return sorted(prediction.score for prediction in detector.predict(pictures))


def test_new_parts_are_learnt_and_beside_the_earlier_ones_these_are_not_forgotten(detector: ASTDetector) -> None:
    before, calibration = {k: v.clone() for k, v in detector.state_dict().items()}, detector.calibration
    alone, both = (update(detector, BRIGHT, RECIPE, earlier=known, **OPTIONS) for known in (None, EARLIER))
    was, forgot, knows = (sum(scores(d, held_out(EARLIER))) for d in (detector, alone, both))
    assert knows < 1.1 * was < 1.5 * was < forgot
    assert max(sum(scores(d, BRIGHT)) for d in (alone, both)) < sum(scores(detector, BRIGHT)) / 10
    assert alone.calibration.scores == pytest.approx(scores(alone, held_out(BRIGHT)), rel=1e-3)
    assert all(torch.equal(v, before[k]) for k, v in detector.state_dict().items())
    assert detector.calibration is calibration and detector.metrics and both.metrics is None
    assert torch.equal(both.input_mean, detector.input_mean)


def test_earlier_and_new_parts_calibrate_with_the_new_weights(detector: ASTDetector) -> None:
    both = update(detector, EARLIER[:12], RECIPE, earlier=EARLIER, steps=5, **OPTIONS)
    expected = scores(both, held_out(EARLIER) + held_out(EARLIER[:12]))
    assert both.calibration.scores == pytest.approx(expected, rel=1e-3) != detector.calibration.scores


@pytest.mark.parametrize("calibrated", [True, False])
def test_recalibrating_keeps_the_networks_and_the_stored_scores(calibrated: bool) -> None:
    detector, new = tiny.detector(calibrated=calibrated), [tiny.picture(seed) for seed in range(3)]
    updated = recalibrate(detector, new, cache_folder=False)
    assert all(torch.equal(v, updated.state_dict()[k]) for k, v in detector.state_dict().items())
    stored = tiny.CALIBRATION.scores if calibrated else ()
    expected = sorted([*stored, *scores(detector, new)])
    assert updated.calibration.scores == pytest.approx(expected, rel=1e-2)
    assert detector.calibration == (tiny.CALIBRATION if calibrated else None)


@pytest.mark.parametrize(("shift", "count"), [(0.0, 60), (-0.5, 60), (0.5, 20)])
def test_new_parts_decide_alone_where_they_score_higher(shift: float, count: int) -> None:
    earlier = Calibration(*[tuple(1 + i / 40 for i in range(40))] * 2, false_positive_rate=0.1)
    new = Calibration(*[tuple(1 + shift + i / 20 for i in range(20))] * 2, false_positive_rate=0.1)
    joined = join(earlier, new)
    assert len(joined.scores) == len(joined.peaks) == count
    assert sum(score > joined.threshold() for score in new.scores) <= 2  # a tenth of them
    assert joined.false_positive_rate == 0.1


@pytest.mark.parametrize("change", ["seed", "parts", "recipe"])
def test_earlier_parts_that_the_detector_was_not_trained_on_like_that_are_refused(
    detector: ASTDetector, change: str
) -> None:
    recipe = replace(RECIPE, calibration_fraction=0.4) if change == "recipe" else RECIPE
    earlier = BRIGHT if change == "parts" else EARLIER
    options = {**OPTIONS, "seed": 4} if change == "seed" else OPTIONS
    with pytest.raises(ConfigError, match=r"do not score .* its recipe and its seed"):
        update(detector, EARLIER[:12], recipe, earlier=earlier, **options)
