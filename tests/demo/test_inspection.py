import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ast_hf import ASTDetector, Prediction
from ast_hf.demo import batch_tab, drawing
from ast_hf.demo.detectors import Detectors
from ast_hf.demo.inspect_tab import Inspection
from ast_hf.demo.uploads import Upload
from ast_hf.inference import Calibration
from tests import tiny

CALIBRATION = Calibration(tuple(0.01 * i for i in range(1, 101)), tuple(0.1 * i for i in range(1, 101)))


def prediction(score: float = 0.9) -> Prediction:
    anomaly_map = np.zeros((60, 80), dtype=np.float32)
    anomaly_map[10:20, 30:50] = 9.0
    return Prediction("part", tiny.picture(0), anomaly_map, score, p_value=CALIBRATION.p_value(score))


def test_a_rate_changes_verdict_heat_map_and_regions_alike(tmp_path: Path) -> None:
    def read(name: str) -> Any:
        return np.asarray(Image.open(tmp_path / f"{name}.png"))

    seen = Inspection("plate", prediction(0.9), CALIBRATION)
    strict, values, _ = seen.draw(0.05, tmp_path)
    assert (strict.is_anomalous, values["regions"]) == (False, [])
    overlay = read("overlay")
    generous, values, files = seen.draw(0.5, tmp_path)
    assert generous.is_anomalous and [list(region["box"]) for region in values["regions"]] == [[30, 10, 50, 20]]
    assert (tmp_path / "result.json").read_text() == json.dumps(values, indent=2) + "\n"
    assert not np.array_equal(read("overlay"), overlay) and not np.array_equal(read("regions"), read("original"))
    assert np.array_equal(read("original"), np.asarray(seen.prediction.image))
    assert (values["width"], values["height"], values["false_positive_rate"]) == (80, 60, 0.5)
    assert set(files) == {"original", "overlay", "regions", "result", "anomaly_map"}
    seen.draw(0.5, tmp_path, opacity=0)
    assert np.array_equal(read("overlay"), read("original"))


def test_the_verdict_is_said_in_words() -> None:
    bad = drawing.verdict(prediction(2.0).at_rate(CALIBRATION, 0.05), CALIBRATION)
    assert "<strong>Defect</strong>" in bad and f"{2 / CALIBRATION.threshold():.2f} times the threshold" in bad
    assert "Of 100 good parts kept out of training none scored as high" in bad
    assert bad.count("<rect") > 5 and "with 95 % confidence less than 8.92 % for this one" in bad
    good = drawing.verdict(prediction(0.5).at_rate(CALIBRATION, 0.05), CALIBRATION)
    assert "<strong>No defect found</strong>" in good and "training 51 scored as high (p\xa0=\xa00.51)" in good
    assert "<script>" not in drawing.progress("<script>")


def test_a_batch_is_drawn_over_the_held_out_parts() -> None:
    alone, both = drawing.distribution(CALIBRATION), drawing.distribution(CALIBRATION, [0.1, 2.0, 3.0])
    assert "100 good parts kept out of training" in alone and "pictures" not in alone
    assert "These 3 pictures, 2 above the threshold" in both and both.count("<rect") == alone.count("<rect") + 3


@pytest.mark.usefixtures("stored")
def test_a_batch_grows_and_a_bad_file_costs_itself_alone(tmp_path: Path) -> None:
    names = ["0.png", "1.png", "=cmd.png", "2.png", "3.png", "4.png"]
    for i in range(5):
        tiny.picture(i, defect=i == 4).save(tmp_path / f"{i}.png")
    (tmp_path / "=cmd.png").write_text("no picture")
    found = [Upload(name, tmp_path / name) for name in names]
    steps = list(batch_tab.score_pictures(Detectors(), "plate", None, found, 0.05, tmp_path))
    assert [len(run.rows) for run in steps] == [4, 6]
    rows, model = steps[-1].rows, ASTDetector.from_pretrained("plate")
    assert [row.values["image"] for row in rows] == names
    expected = [model.predict(tmp_path / f"{i}.png").score for i in range(5)]
    assert [row.values["score"] for row in rows if row.overlay] == pytest.approx(expected, rel=1e-4)
    assert rows[2].overlay is None and rows[2].cells[1].startswith("Not read: this is not a picture")
    assert all(row.overlay.is_file() for row in rows if row.overlay)
    with Path(batch_tab.write_csv(rows, tmp_path / "scores.csv")).open(newline="") as file:
        lines = list(csv.DictReader(file))
    scores = [float(line["score"]) for line in lines[:-1]]
    assert scores == sorted((row.values["score"] for row in rows if row.overlay), reverse=True)
    assert lines[-1]["image"] == "'=cmd.png" and lines[-1]["error"] and not lines[-1]["score"]  # no formula


@pytest.mark.usefixtures("stored")
def test_another_rate_judges_a_batch_as_if_it_had_been_there_from_the_start(tmp_path: Path) -> None:
    (tmp_path / "bad.png").write_text("no picture")
    for i in range(3):
        tiny.picture(i, (800, 600), defect=i == 2).save(tmp_path / f"{i}.png")
    found, detectors = [Upload(path.name, path) for path in sorted(tmp_path.glob("*.png"))], Detectors()
    folders = [tmp_path / name for name in ("strict", "generous", "again")]
    for folder in folders:
        folder.mkdir()
    strict, generous = (
        list(batch_tab.score_pictures(detectors, "plate", None, found, rate, folder))[-1]
        for rate, folder in zip((0.01, 0.5), folders, strict=False)
    )
    detectors.predict = None  # type: ignore[assignment,method-assign]
    again = strict.at_rate(0.5, folders[2])
    values = [[row.values for row in run.rows] for run in (strict, generous, again)]
    assert values[0] != values[1] == values[2]
    for name in ("0000.jpg", "0001.jpg", "0002.jpg"):
        assert (folders[2] / name).read_bytes() == (folders[1] / name).read_bytes()
    status, _, chart, pictures, table, path = again.show(folders[2])
    assert "4 of 4 done, 1 could not be read" in status and "These 3 pictures" in chart
    assert len(pictures) == 3 and len(table) == 4
    assert Path(path).read_text() == Path(batch_tab.write_csv(generous.rows, tmp_path / "scores.csv")).read_text()


def test_a_batch_tells_since_which_picture_the_line_has_changed() -> None:
    scores = [*np.random.default_rng(0).uniform(0, 1, 40), *[0.01] * 40]
    rows = [batch_tab.BatchRow({"image": f"{i}.png", "score": s}, Path("x.png")) for i, s in enumerate(scores)]
    assert batch_tab.find_drift(rows[:40], CALIBRATION) == ""
    since = re.search(r"Since (\d+)\.png the parts called good no longer", batch_tab.find_drift(rows, CALIBRATION))
    assert since and 30 <= int(since[1]) <= 45
