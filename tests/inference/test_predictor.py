"""Predictions: of one part or many, in the picture's own frame, and without a trace in the detector."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ast_hf import ASTDetector, ConfigError, ImageReadError
from ast_hf.config import Precision
from ast_hf.data import Sample
from ast_hf.errors import RuntimeUnavailableError
from ast_hf.inference import Calibration, Predictor
from ast_hf.nn.precision import resolve_precision
from tests import tiny


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-5), ("auto", 1e-2)])
@pytest.mark.parametrize("modality", ["rgb", "depth", "rgb+depth"])
def test_alone_and_in_a_batch(modality: str, precision: Precision, tolerance: float) -> None:
    predictor = Predictor(tiny.detector(modality, calibrated=False), precision=precision)
    samples = tiny.samples(predictor.config, 5)
    for sample, expected in zip(samples, predictor.stream(samples, batch_size=3), strict=True):
        alone = predictor.predict(sample.image, sample.points)
        assert alone.score == pytest.approx(expected.score, rel=tolerance)
        size = np.abs(expected.anomaly_map).max()
        np.testing.assert_allclose(alone.anomaly_map, expected.anomaly_map, atol=tolerance * size)


@pytest.mark.parametrize("built_before", [False, True])
def test_thirty_predictions_in_the_middle_of_training_change_nothing(built_before: bool, tmp_path: Path) -> None:
    detector = tiny.detector()
    detector.save_pretrained(tmp_path / "before")
    predictor, expected = Predictor(detector), detector.predict(tiny.picture(0)).score
    detector.train()
    modes = {name: module.training for name, module in detector.named_modules()}
    predict = predictor.predict if built_before else detector.predict
    assert [predict(tiny.picture(0)).score for _ in range(30)] == [expected] * 30
    assert {name: module.training for name, module in detector.named_modules()} == modes
    detector.save_pretrained(tmp_path / "after")
    for path in (tmp_path / "before").iterdir():
        assert path.read_bytes() == (tmp_path / "after" / path.name).read_bytes(), path.name


def test_map_comes_back_in_the_pictures_own_frame(tmp_path: Path) -> None:
    """A photo turned by EXIF gives the map of the upright picture, at its size."""
    detector, upright, exif = tiny.detector(), tiny.picture(0, (90, 50), defect=True), Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise for display
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    expected, actual = detector.predict(upright), detector.predict(tmp_path / "turned.png")
    assert actual.anomaly_map.shape == (50, 90)
    assert np.array_equal(actual.anomaly_map, expected.anomaly_map)


def test_a_defect_shows_where_it_is() -> None:
    """A map turned, mirrored or shifted would show it elsewhere."""
    predictor, plain = Predictor(tiny.detector(position_channels=0)), Image.new("RGB", (128, 64), "grey")
    for left, top in ((0, 0), (96, 0), (0, 48), (96, 48)):
        marked = plain.copy()
        marked.paste("white", (left, top, left + 32, top + 16))
        change = np.abs(predictor.predict(marked).anomaly_map - predictor.predict(plain).anomaly_map)
        y, x = np.unravel_index(change.argmax(), change.shape)
        assert abs(x - left - 16) <= 40 and abs(y - top - 8) <= 20


def test_verdict_and_regions_follow_the_thresholds() -> None:
    detector = tiny.detector()
    prediction = detector.predict(tiny.picture(0))
    assert prediction.threshold == detector.calibration.threshold()
    assert prediction.map_threshold == detector.calibration.map_threshold()
    for part, anomalous, p_value in ((1, False, 1.0), (0.5, True, 1 / 41)):
        scores, peaks = ((part * value,) * 40 for value in (prediction.score, float(prediction.anomaly_map.max())))
        judged = prediction.at_rate(Calibration(scores, peaks))
        assert (judged.is_anomalous, bool(judged.regions()), judged.p_value) == (anomalous, anomalous, p_value)
        assert judged.overlay().size == judged.image.size == (80, 60)


def test_large_pictures_are_drawn_small_and_told_of_in_their_own_pixels() -> None:
    detector, part = tiny.detector(), Sample(tiny.picture(0, (400, 300), defect=True))
    (full,), (small,) = (Predictor(detector).stream([part], overlay_size=size) for size in (None, 100))
    assert small.image.size == (100, 75) and small.size == full.image.size == (400, 300)
    assert small.score == full.score and np.array_equal(small.anomaly_map, full.anomaly_map)
    scale = float(np.quantile(full.anomaly_map, 0.9))
    assert small.overlay(scale).size == (100, 75)
    for ours, theirs in zip(small.regions(scale), full.regions(scale), strict=True):
        assert np.abs(np.subtract(ours.box, theirs.box)).max() <= 4, "a pixel of the small picture"
        assert ours.area == pytest.approx(theirs.area, rel=0.05)


def test_uncalibrated_predictions_do_not_decide() -> None:
    prediction = tiny.detector(calibrated=False).predict(tiny.picture(0))
    assert (prediction.threshold, prediction.is_anomalous, prediction.p_value) == (None, None, None)
    with pytest.raises(ValueError, match="not calibrated"):
        prediction.overlay()


def test_bad_parts_are_named_and_the_rest_done(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    detector, pictures = tiny.detector(), [tiny.picture(0), tmp_path / "bad.png", tiny.picture(1)]
    with pytest.raises(ImageReadError, match=r"bad\.png: .*empty"):
        detector.predict(pictures)
    _, bad, last = Predictor(detector).stream(map(Sample, pictures), batch_size=2)
    assert isinstance(bad, ImageReadError)
    assert last.score == pytest.approx(detector.predict(tiny.picture(1)).score, rel=1e-5)
    with pytest.raises(ValueError, match="2 pictures came with 1 scans"):
        tiny.detector("rgb+depth").predict([tiny.picture(0)] * 2, [tiny.scan(0)])


def test_a_threshold_is_for_scores_of_its_own_arithmetic() -> None:
    detector = tiny.detector()
    auto = resolve_precision(detector.device, "auto")
    for found_in, asked, expected in (("fp32", "auto", "fp32"), ("fp32", "bf16", "bf16"), ("bf16", "auto", auto)):
        detector.calibration = Calibration((1.0,), (1.0,), precision=found_in)
        assert Predictor(detector, precision=asked).precision == expected


@pytest.mark.parametrize("name", ["batch_size", "overlay_size"])
@pytest.mark.parametrize("size", [0, -1])
def test_no_size_is_smaller_than_one(name: str, size: int) -> None:
    with pytest.raises(ConfigError, match=f"{name} is {size}: give 1 or more"):
        Predictor(tiny.detector()).stream([], **{name: size})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda detector: detector.half(), r"weights are torch\.float16.*call its float\(\)"),
        (lambda detector: detector.to(torch.float64), r"weights are torch\.float64"),
        (lambda detector: detector.to("meta"), "on the device meta"),
    ],
)
def test_weights_that_cannot_predict_are_refused(change: Callable[[ASTDetector], ASTDetector], message: str) -> None:
    with pytest.raises(RuntimeUnavailableError, match=message):
        change(tiny.detector()).predict(tiny.picture(0))
