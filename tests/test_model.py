from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ast_hf import ASTDetector, ConfigError, ImageReadError
from ast_hf.calibration import Calibration
from ast_hf.parts import Part
from ast_hf.prediction import one_behind, try_predict_parts
from tests import tiny


def make_model(modality: str = "rgb", calibrated: bool = False) -> ASTDetector:
    torch.manual_seed(0)
    model = ASTDetector(tiny.config(modality))
    if calibrated:
        values = tuple(float(x) for x in np.linspace(0.1, 2.0, 40))
        model.calibration = Calibration(values, values)
    return model


def test_forward_shapes() -> None:
    model = make_model("rgb+depth")
    output = model(torch.rand(2, 3, 64, 64), torch.rand(2, 1, 16, 16), torch.ones(2, 1, 16, 16))
    assert output.anomaly_map.shape == output.log_jac.shape == (2, 4, 4)
    assert output.score.shape == (2,)
    assert output.teacher_z.shape == output.student_z.shape == (2, 48 + 16, 4, 4)
    assert output.foreground.shape == (2, 1, 4, 4)


def test_missing_and_misshapen_inputs_are_named() -> None:
    model = make_model("rgb+depth")
    with pytest.raises(ValueError, match="needs depth"):
        model(torch.rand(1, 3, 64, 64))
    with pytest.raises(ValueError, match=r"pixel_values is \(1, 3, 32, 32\)"):
        model(torch.rand(1, 3, 32, 32), torch.rand(1, 1, 16, 16))


def test_config_that_does_not_fit_the_backbone_says_what_would() -> None:
    with pytest.raises(ConfigError, match="feature_channels=48"):
        ASTDetector(tiny.config(feature_channels=50))
    with pytest.raises(ConfigError, match="depth_size=16"):
        ASTDetector(tiny.config("rgb+depth", depth_size=32))


@pytest.mark.parametrize("modality", ["rgb", "depth", "rgb+depth"])
def test_alone_and_in_a_batch(modality: str) -> None:
    model = make_model(modality)
    images = [tiny.picture(i) for i in range(5)] if model.config.uses_rgb else None
    points = [tiny.scan(i) for i in range(5)] if model.config.uses_depth else None
    together = model.predict(images, points, batch_size=3)
    for i, expected in enumerate(together):
        alone = model.predict(images and images[i], points and points[i])
        assert alone.score == pytest.approx(expected.score, rel=1e-5)
        np.testing.assert_allclose(alone.anomaly_map, expected.anomaly_map, rtol=1e-4, atol=1e-6)


def test_map_comes_back_in_the_pictures_own_frame(tmp_path: Path) -> None:
    """A photo turned by EXIF gives the map of the upright picture, at its size."""
    model, upright = make_model(), tiny.picture(0, (90, 50), defect=True)
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise for display
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "turned.png", exif=exif)
    expected, actual = model.predict(upright), model.predict(tmp_path / "turned.png")
    assert actual.anomaly_map.shape == (50, 90)
    assert np.array_equal(actual.anomaly_map, expected.anomaly_map)


def test_decision_follows_the_threshold() -> None:
    model = make_model(calibrated=True)
    prediction = model.predict(tiny.picture(0))
    assert prediction.threshold == model.calibration.threshold()
    assert prediction.is_anomalous == (prediction.score > prediction.threshold)
    assert prediction.p_value == model.calibration.p_value(prediction.score)
    assert prediction.overlay().size == prediction.image.size
    assert all(region.peak > prediction.map_threshold for region in prediction.regions())


def test_uncalibrated_predictions_do_not_decide() -> None:
    prediction = make_model().predict(tiny.picture(0))
    assert (prediction.threshold, prediction.is_anomalous, prediction.p_value) == (None, None, None)
    with pytest.raises(ValueError, match="not calibrated"):
        prediction.overlay()
    assert prediction.overlay(scale=1.0).size == (80, 60)


def test_bad_parts_are_named_and_the_rest_done(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_bytes(b"")
    model = make_model()
    with pytest.raises(ImageReadError, match=r"bad\.png: .*empty"):
        model.predict([tiny.picture(0), tmp_path / "bad.png"])
    parts = [Part(tiny.picture(0)), Part(tmp_path / "bad.png"), Part(tiny.picture(1))]
    results = list(try_predict_parts(model, parts, batch_size=2))
    assert [isinstance(result, ImageReadError) for result in results] == [False, True, False]
    assert results[2].score == pytest.approx(model.predict(tiny.picture(1)).score, rel=1e-5)


def test_wrong_modality_is_a_sentence() -> None:
    with pytest.raises(ImageReadError, match="pictures alone"):
        make_model().predict(tiny.picture(0), tiny.scan(0))
    with pytest.raises(ImageReadError, match="points="):
        make_model("rgb+depth").predict(tiny.picture(0))
    with pytest.raises(ImageReadError, match="needs a picture"):
        make_model("rgb+depth").predict(None, tiny.scan(0))
    with pytest.raises(ImageReadError, match="differ in size"):
        make_model("rgb+depth").predict(tiny.picture(0), tiny.scan(0, (90, 60)))
    with pytest.raises(ValueError, match="2 pictures came with 1 scans"):
        make_model("rgb+depth").predict([tiny.picture(0)] * 2, [tiny.scan(0)])


def test_importing_is_light() -> None:
    import subprocess
    import sys

    code = "import sys, ast_hf; print([m for m in ('gradio', 'datasets', 'matplotlib', 'sklearn') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "[]"


def test_batches_are_fetched_one_behind() -> None:
    log: list[str] = []

    def made() -> Iterator[int]:
        for number in range(3):
            log.append(f"make {number}")
            yield number

    for number in one_behind(made()):
        log.append(f"fetch {number}")
    assert log == ["make 0", "make 1", "fetch 0", "make 2", "fetch 1", "fetch 2"]
    assert list(one_behind([])) == []
