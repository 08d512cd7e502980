"""Figures against their definitions, and a report that shows them whatever files are called."""

import json
import math
import os
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from ast_hf.data.labelled import labelled_samples
from ast_hf.data.sample import LabelledSample
from ast_hf.errors import DatasetError
from ast_hf.evaluation import Evaluation, evaluate, summarize, write_report
from ast_hf.inference import Calibration, Prediction, Predictor
from ast_hf.metrics import segmentation_metrics
from tests import tiny

CALIBRATION = Calibration(tuple(range(1, 19)), (1.0,), false_positive_rate=0.25)  # a threshold of 15


class Scores:
    """Stands in for a predictor: a part's score is its file's name."""

    calibration = CALIBRATION

    def stream(self, samples: list[LabelledSample], **options: object) -> list[Prediction]:
        return [
            Prediction(s.name, tiny.picture(0), np.ones((4, 4), np.float32), float(s.image.name)).at_rate(CALIBRATION)
            for s in samples
        ]


def evaluated(*anomalous: str) -> Evaluation:
    """The evaluation of good parts that score 8, 12, 14 and 16, and of others given as "DEFECT/SCORE"."""
    good = [LabelledSample(Path(name)) for name in ("8", "12", "14", "16")]
    others = [LabelledSample(Path(name), label=1, defect=name.partition("/")[0]) for name in anomalous]
    return evaluate(Scores(), [*others, *good])


def test_figures_by_hand() -> None:
    result = evaluated("crack/13", "crack/17", "hole/18", "hole/21", "hole/30")
    assert result.image_auroc == (2 / 4 + 4) / 5
    low, high = result.image_auroc_interval
    assert 0.5 < low < result.image_auroc < high == 1
    assert result == evaluated("crack/13", "crack/17", "hole/18", "hole/21", "hole/30")  # the same resamples
    assert (result.false_positive_rate.count, result.false_positive_rate.total) == (1, 4)
    assert (result.recall.rate, list(result.recall_by_defect)) == (4 / 5, ["crack", "hole"])
    hole = result.recall_by_defect["hole"]
    assert (hole.count, hole.total, hole.high) == (3, 3, 1) and hole.low == pytest.approx(0.025 ** (1 / 3))
    assert [part.score for part in result.good] == [16, 14, 12, 8]
    assert [part.image for part in result.anomalous][:2] == ["crack/13", "crack/17"]
    assert result.pixel_auroc is None and result.au_pro is None
    assert json.loads(json.dumps(result.to_dict()))["recall"]["count"] == 4


@pytest.mark.parametrize("lowest", [1.5, 7, 12.5, 19, 40])
def test_the_rate_to_catch_all_catches_all_and_no_lower_one_does(lowest: float) -> None:
    result = evaluated(f"crack/{lowest}", "crack/50")
    above = [score for score in CALIBRATION.scores if score >= lowest]
    assert (result.held_out_above.count, result.held_out_above.total) == (len(above), 18)
    assert CALIBRATION.threshold(result.rate_to_catch_all) < lowest
    assert CALIBRATION.threshold(max(result.rate_to_catch_all - 0.05, 1e-9)) >= min(lowest, 18)
    shown = math.ceil(1e4 * result.rate_to_catch_all) / 1e4
    assert f"--false-positive-rate {shown}" in summarize(result)


def test_no_threshold_catches_a_part_below_all_held_out_ones() -> None:
    result = evaluated("crack/0.5")
    assert result.rate_to_catch_all == 1 and "no false-positive rate gives" in summarize(result)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three good parts, two defective ones with masks, and a damaged file."""
    tiny.folder_of_pictures(tmp_path / "good", 3)
    tiny.folder_of_pictures(tmp_path / "dark", 2, start=5)
    for path in sorted((tmp_path / "dark").iterdir()):
        mask = np.zeros((60, 80), np.uint8)
        mask[10:30, 20:40] = 255
        tiny.Image.fromarray(mask).save(path.with_name(f"{path.stem}_mask.png"))
    (tmp_path / "good" / "damaged.png").write_bytes(b"no picture")
    return tmp_path


def test_figures_of_pixels_and_of_files_that_cannot_be_read(folder: Path) -> None:
    detector = tiny.detector()
    samples = labelled_samples(detector.config, folder)
    result = evaluate(Predictor(detector), samples)
    readable = [sample for sample in samples if "damaged" not in sample.name]
    maps = [detector.predict(sample.image).anomaly_map for sample in readable]
    expected = segmentation_metrics(maps, [sample.mask((60, 80)) for sample in readable])
    assert result.pixel_auroc == pytest.approx(expected.pixel_auroc, abs=1e-3)
    assert result.au_pro == pytest.approx(expected.au_pro[0.3], abs=1e-3)
    assert len(result.unreadable) == 1 and "damaged.png" in result.unreadable[0]
    with pytest.raises(DatasetError, match="None of the 2 parts is good"):
        evaluate(Predictor(detector), [sample for sample in samples if sample.label])
    detector.calibration = None
    with pytest.raises(DatasetError, match="calibration_fraction above 0"):
        evaluate(Predictor(detector), samples)


class Page(HTMLParser):
    """The tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attributes)))

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", ["<script>alert(1)<x onload='\"&", "a\x1b[31m\n", os.fsdecode(b"\xff\xfe")], ids=ascii)
def test_a_report_shows_the_figures_and_runs_nothing_of_a_name(folder: Path, name: str) -> None:
    try:
        (folder / "dark").rename(folder / name)
    except OSError:
        pytest.skip("no such name on this system")
    (folder / name / "005.png").rename(folder / name / f"{name}.png")
    (folder / name / "005_mask.png").rename(folder / name / f"{name}_mask.png")
    predictor = Predictor(tiny.detector())
    samples = labelled_samples(predictor.config, folder)
    result = evaluate(predictor, samples)
    write_report(folder / "report.html", result, predictor, samples, f"model on {name}")
    html = (folder / "report.html").read_text("utf-8")
    page = Page(html)
    assert {tag for tag, _ in page.tags}.isdisjoint({"script", "x", "link", "iframe"}) and "http" not in html
    assert not [key for _, attributes in page.tags for key in attributes if key.startswith("on")]
    images = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert len(images) == 2 * 5 and all(str(source).startswith("data:image/jpeg;base64,") for source in images)
    assert f"{100 * result.image_auroc:.1f} %" in page.text and "damaged.png" in page.text
    assert name.encode("utf-8", "replace").decode().strip() in page.text
    assert summarize(result).replace("\n", "").isprintable()


def test_parts_that_have_gone_are_left_out_of_the_report(folder: Path) -> None:
    predictor = Predictor(tiny.detector())
    samples = labelled_samples(predictor.config, folder)
    result = evaluate(predictor, samples)
    (folder / "good" / "000.png").unlink()
    write_report(folder / "report.html", result, predictor, samples, "title")
    assert (folder / "report.html").read_text().count("<img") == 2 * 4
