from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from ast_hf import ASTDetector, Prediction
from ast_hf.calibration import Calibration
from ast_hf.demo import drawing
from ast_hf.demo.inspection import Inspection, draw, inspect, save_cloud, save_map
from ast_hf.demo.models import Detectors
from ast_hf.demo.teach import Step
from ast_hf.demo.uploads import DemoError
from tests import tiny

CALIBRATION = Calibration(tuple(0.01 * i for i in range(1, 101)), tuple(0.1 * i for i in range(1, 101)))
rates = st.floats(0.005, 0.5)


def prediction(score: float = 0.9) -> Prediction:
    anomaly_map = np.zeros((60, 80), dtype=np.float32)
    anomaly_map[10:20, 30:50] = 9.0
    return Prediction("part", tiny.picture(0), anomaly_map, score, p_value=CALIBRATION.p_value(score))


@pytest.mark.usefixtures("stored")
def test_a_part_is_inspected_as_its_detector_does(tmp_path: Path) -> None:
    tiny.picture(3).save(tmp_path / "part.png")
    tifffile.imwrite(tmp_path / "part.tiff", tiny.scan(3), photometric="rgb")
    paths = str(tmp_path / "part.png"), str(tmp_path / "part.tiff")
    seen = inspect(Detectors(), "box", "box", *paths)
    expected = ASTDetector.from_pretrained("box").predict(*paths)
    assert seen.prediction.score == expected.score
    assert np.array_equal(np.load(save_map(seen, tmp_path)), expected.anomaly_map)
    strict, generous = (save_cloud(seen, rate, tmp_path).read_bytes() for rate in (0.01, 0.5))  # type: ignore[union-attr]
    assert len(strict) == len(generous)
    with pytest.raises(DemoError, match="no picture yet"):
        inspect(Detectors(), "box", "box", None, None)


@given(rates, rates, st.floats(0, 3))
def test_a_higher_rate_never_calls_fewer_parts_defective(low: float, high: float, score: float) -> None:
    low, high = sorted((low, high))
    strict, generous = (prediction(score).at_rate(CALIBRATION, rate) for rate in (low, high))
    assert strict.threshold >= generous.threshold  # type: ignore[operator]
    assert strict.map_threshold >= generous.map_threshold  # type: ignore[operator]
    assert generous.is_anomalous or not strict.is_anomalous


def test_a_rate_changes_verdict_heat_map_and_regions_alike(tmp_path: Path) -> None:
    seen = Inspection("plate", prediction(0.9), CALIBRATION)
    strict, values = draw(seen, 0.05, tmp_path)
    assert (strict.is_anomalous, values["regions"]) == (False, [])
    assert json.loads((tmp_path / "result.json").read_text()) == values
    overlay = Image.open(tmp_path / "overlay.png").copy()
    generous, values = draw(seen, 0.5, tmp_path)
    assert generous.is_anomalous and [region["box"] for region in values["regions"]] == [[30, 10, 50, 20]]
    assert np.asarray(Image.open(tmp_path / "overlay.png")).tolist() != np.asarray(overlay).tolist()
    assert np.array_equal(np.asarray(Image.open(tmp_path / "original.png")), np.asarray(seen.prediction.image))
    assert (values["width"], values["height"], values["false_positive_rate"]) == (80, 60, 0.5)
    assert save_cloud(seen, 0.5, tmp_path) is None


@given(st.floats(0, 1e6), st.floats(0, 1e6))
def test_positions_keep_the_order_and_stay_on_the_gauge(a: float, b: float) -> None:
    low, high = sorted((a, b))
    assert 0 <= drawing.position(low) <= drawing.position(high) <= 1
    assert drawing.position(1) == 0.5


def test_the_verdict_is_said_in_words() -> None:
    bad = drawing.verdict(prediction(2.0).at_rate(CALIBRATION, 0.05), CALIBRATION)
    assert "<strong>Defect</strong>" in bad and f"{2 / CALIBRATION.threshold():.2f} times the threshold" in bad
    assert "Of 100 good parts kept out of training none scored as high" in bad
    assert bad.count("<rect") > 5
    good = drawing.verdict(prediction(0.5).at_rate(CALIBRATION, 0.05), CALIBRATION)
    assert "<strong>No defect found</strong>" in good and "training 51 scored as high (p\xa0=\xa00.51)" in good


@given(st.lists(st.floats(-1e6, 1e6), max_size=30))
def test_curves_stay_in_their_frame(losses: list[float]) -> None:
    html = drawing.curves([Step("teacher", i + 1, len(losses), loss) for i, loss in enumerate(losses)])
    points = html.split('points="')[1].split('"')[0].split()
    assert len(points) == len(losses)
    assert all(-1e-6 <= float(value) <= 1 + 1e-6 for point in points for value in point.split(","))


def test_what_strangers_wrote_is_no_html() -> None:
    assert "<script>" not in drawing.progress("<script>") + drawing.table(["a"], [["<script>"]])
