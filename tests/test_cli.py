"""The command line: rows on stdout, sentences on stderr, an exit status, and whole files."""

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image

from ast_hf import from_pretrained
from ast_hf.cli import main
from ast_hf.files import home
from tests import tiny
from tests.hub_server import Hub


@pytest.fixture
def model(tmp_path: Path) -> str:
    """A detector's folder."""
    tiny.detector().save_pretrained(tmp_path / "model")
    return str(tmp_path / "model")


def test_train_saves_a_calibrated_detector_under_a_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tiny.folder_of_pictures(tmp_path / "good", 20)
    command = ["train", str(good), "--output", str(tmp_path / "model"), "--name", "plate", "--no-feature-cache"]
    command += ["--epochs", "1", "--device", "cpu", "--set", "image_size=96", "student_channels=8", "batch_size=4"]
    assert main(command) == 0
    assert not (home() / "features").exists()
    detector = from_pretrained(tmp_path / "model", device="cpu")
    assert len(detector.calibration.scores) == 6
    assert detector.config.feature_normalization == "channel"  # from the compact preset
    assert main(["predict", "plate", str(good / "000.png"), "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == detector.predict(good / "000.png").score
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "~/.cache/ast_hf/features, at most 4 GiB" in text and "--no-feature-cache" in text


@pytest.mark.parametrize("runtime", [[], ["--runtime", "openvino"], ["--accelerate"]], ids=" ".join)
def test_predict_prints_one_row_a_picture(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], runtime: list[str]
) -> None:
    if runtime:
        pytest.importorskip("openvino")
    folder = tiny.folder_of_pictures(tmp_path / "parts", 2)
    tiny.picture(7).save(folder / "000.jpg")
    command = ["predict", model, str(folder), "--output", str(tmp_path / "out"), "--raw-maps", *runtime]
    assert main([*command, "--device", "cpu", "--false-positive-rate", "0.4"]) == 0
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["000.jpg", "000.png", "001.png"]
    assert rows[2]["score"] == pytest.approx(from_pretrained(model).predict(folder / "001.png").score, rel=1e-4)
    assert rows[2]["threshold"] == tiny.CALIBRATION.threshold(0.4) != tiny.CALIBRATION.threshold()
    assert Image.open(rows[2]["overlay"]).size == (80, 60) and np.load(rows[2]["raw_map"]).shape == (60, 80)
    assert (tmp_path / "out" / "results.jsonl").read_text() == printed


def test_bad_files_are_rows_without_formulas_and_exit_status_1(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.folder_of_pictures(tmp_path, 2))
    Path("001.png").write_bytes(Path("000.png").read_bytes()[:2000])
    Path("000.png").rename("=1+1.png")
    Path("empty").mkdir()
    reasons = {"=1+1.png": "", "001.png": "damaged", "@missing.png": "no such file", "empty": "no pictures"}
    assert main(["predict", model, *reasons, "--format", "csv", "--device", "cpu"]) == 1
    rows = {row["image"].removeprefix("'"): row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert rows.keys() == reasons.keys() and all(reason in rows[name]["error"] for name, reason in reasons.items())
    assert {name for name, row in rows.items() if row["image"] != name} == {"@missing.png", "=1+1.png"}
    assert json.loads(rows["=1+1.png"]["regions"]) is not None and not rows["=1+1.png"]["error"]


def test_the_scan_of_a_single_picture_is_found_or_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny.detector("rgb+depth").save_pretrained(tmp_path / "model")
    pictures = sorted(tiny.folder_of_pictures(tmp_path / "rgb", 3).iterdir())
    (tmp_path / "xyz").mkdir()
    for name in ("000.tiff", "001.tif"):
        tifffile.imwrite(tmp_path / "xyz" / name, tiny.scan(0), photometric="rgb")
    assert main(["predict", str(tmp_path / "model"), *map(str, pictures), "--device", "cpu"]) == 1
    rows = {row["image"]: row for row in map(json.loads, capsys.readouterr().out.splitlines())}
    assert ["score" in rows[str(picture)] for picture in pictures] == [True, True, False]
    missing = f"its scan is missing: there is no {tmp_path / 'xyz' / '002'}.tiff or .tif"
    assert rows[str(pictures[2])]["error"] == missing


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere", "a.png"], "nowhere is not a folder"),
        (["predict", "demo-tire", "a.png", "--raw-maps"], "--raw-maps needs --output"),
        (["predict", "demo-tire", "a.png", "--false-positive-rate", "5"], "false_positive_rate is 5"),
        (["train", "nowhere", "--output", "x", "--set", "colour=red"], "colour=red"),
        (["train", "nowhere", "--output", "x", "--set", "backbone=test_efficientnet"], "nowhere: there is no"),
        (["export", "nowhere", "--output", "x.onnx"], "nowhere is not a folder"),
    ],
)
def test_faults_are_sentences_with_exit_status_2(
    arguments: list[str], message: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in caplog.text and not capsys.readouterr().out


@pytest.mark.parametrize(("more", "name"), [([], "model"), (["--name", "plate", "--private"], "plate")])
def test_push_uploads_a_detector(
    hub: Hub, model: str, more: list[str], name: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert main(["push", model, "--org", "org", *more]) == 0
    assert f"Pushed to {hub.endpoint}/org/{name}/commit/" in caplog.text
    assert hub.repos[f"org/{name}"].private == ("--private" in more)
    assert tiny.score(f"org/{name}") == tiny.score(model)
    assert main(["push", model, "--org", "strangers"]) == 2 and "refuses strangers/model" in caplog.text
