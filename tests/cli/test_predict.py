"""Scoring from the command line: rows on stdout, sentences on stderr, an exit status, and whole files."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from PIL import Image

from ast_hf import from_pretrained
from ast_hf.cli import main
from ast_hf.inference import Calibration
from ast_hf.results import PictureWriter
from tests import tiny


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


def test_overlays_and_maps_of_earlier_runs_are_no_parts(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    parts = tiny.folder_of_pictures(tmp_path / "parts", 2)
    for _ in range(2):
        command = ["predict", model, str(parts), "--output", str(parts / "results"), "--raw-maps", "tiff"]
        assert main(command) == 0 and len(capsys.readouterr().out.splitlines()) == 2


def test_pictures_of_48_megapixels_take_little_memory(model: str, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    Image.new("RGB", (8000, 6000), "grey").save(tmp_path / "parts" / "0.jpg")
    for number in range(1, 6):
        (tmp_path / "parts" / f"{number}.jpg").hardlink_to(tmp_path / "parts" / "0.jpg")
    # The process' own peak: what the system tells of children holds their parent's too.
    script = "import sys; from ast_hf.cli import main; main(sys.argv[1:]); print(open('/proc/self/status').read())"
    command = [sys.executable, "-c", script, "predict", model, str(tmp_path / "parts"), "--device", "cpu"]
    command += ["--output", str(tmp_path / "out"), "--overlay-size", "300"]
    printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    rows = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    assert {Image.open(row["overlay"]).size for row in rows} == {(300, 225)} and len(rows) == 6
    assert int(printed.partition("VmHWM:")[2].split()[0]) < 2_500_000, "kB"


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
    "stem",
    ["欠" * 83, "a" * 251, "\U0001f600" * 60, "\udcff\udcfe"],
    ids=["Chinese", "long", "four bytes a letter", "no text"],
)
def test_a_name_that_cannot_be_written_is_escaped_or_shortened(
    stem: str, model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tiny.folder_of_pictures(tmp_path / "parts", 2)
    (tmp_path / "parts" / "000.png").rename(tmp_path / "parts" / f"{stem}.png")
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", console)
    output = tmp_path / "out"
    assert main(["predict", model, str(tmp_path / "parts"), "--output", str(output), "--format", "csv"]) == 0
    for text in (console.buffer.getvalue().decode("ascii"), (output / "results.csv").read_text("utf-8")):
        rows = list(csv.DictReader(io.StringIO(text)))
        assert len(rows) == 2 and all(row["score"] for row in rows)
    assert len(list((output / "overlays").glob("*.png"))) == 2


def test_rows_of_a_run_that_is_stopped_are_kept(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def stop(*arguments: Any) -> dict[str, str]:
        if len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2:
            raise KeyboardInterrupt
        return {}

    parts = ["missing.png", *map(str, tiny.folder_of_pictures(tmp_path / "parts", 4).iterdir())]
    monkeypatch.setattr(PictureWriter, "write", stop)
    assert main(["predict", model, *parts, "--output", str(tmp_path / "out")]) == 130
    assert ["score" in json.loads(line) for line in (tmp_path / "out" / "results.jsonl").open()] == [False, True]
    assert "Stopped" in caplog.text


def test_rows_that_nobody_reads_end_quietly(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stdout:
        monkeypatch.setattr("sys.stdout", stdout)
        assert main(["predict", model, str(tiny.folder_of_pictures(tmp_path / "parts", 2))]) == 141
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_closed_stdout_is_one_that_nobody_reads(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", None)
    parts = str(tiny.folder_of_pictures(tmp_path / "parts", 2))
    assert main(["predict", model, parts, "--output", str(tmp_path / "out")]) == 0
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 2


def test_coco_is_one_document_with_polygons_and_16_bit_maps_are_recovered(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    detector, part = tiny.detector(calibrated=False), str(tmp_path / "part.png")
    tiny.picture(0, defect=True).save(part)
    detector.save_pretrained(tmp_path / "model")
    command = ["predict", str(tmp_path / "model"), part, "missing.png", "--device", "cpu", "--format", "coco"]
    assert main(command) == 2 and "not calibrated" in caplog.text
    median = float(np.median(detector.predict(part).anomaly_map))
    detector.calibration = Calibration((1.0,) * 19, (median,) * 19)
    detector.save_pretrained(tmp_path / "model")
    prediction = detector.predict(part)
    (region,) = prediction.regions()
    assert main([*command, "--min-region-area", str(region.area + 1)]) == 1
    assert json.loads(capsys.readouterr().out)["annotations"] == []
    command += ["--min-region-area", str(region.area), "--output", str(tmp_path / "out"), "--raw-maps", "tiff"]
    assert main(command) == 1 and not capsys.readouterr().out
    document = json.loads((tmp_path / "out" / "results.json").read_text())
    (image,), (annotation,), (error,) = document["images"], document["annotations"], document["errors"]
    assert (image["id"], image["file_name"], image["width"], image["height"]) == (1, part, 80, 60)
    assert (annotation["image_id"], annotation["category_id"]) == (1, document["categories"][0]["id"])
    assert (annotation["area"], annotation["score"]) == (region.area, pytest.approx(region.peak, rel=1e-4))
    (left, top, width, height), (polygon,) = annotation["bbox"], annotation["segmentation"]
    assert (left, top, left + width, top + height) == region.box
    assert np.reshape(polygon, (-1, 2)) == pytest.approx(np.array(region.polygon))
    assert error == {"image": "missing.png", "error": error["error"]}
    with tifffile.TiffFile(image["raw_map"]) as file:
        pixels, scale = file.asarray(), json.loads(file.pages[0].description)["scale"]
    assert pixels.dtype == np.uint16 and pixels.max() == 65535
    assert np.abs(pixels * scale - prediction.anomaly_map).max() <= 0.51 * scale


def test_a_line_that_has_changed_is_told_at_the_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    detector = tiny.detector()
    detector.calibration = Calibration(tuple(np.linspace(0.02, 1, 40).tolist()), (1.0,))
    detector.save_pretrained(tmp_path / "model")
    tiny.folder_of_pictures(tmp_path / "parts", 30)
    assert main(["predict", str(tmp_path / "model"), str(tmp_path / "parts"), "--device", "cpu"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 30
    assert f"Since {tmp_path / 'parts' / '000.png'} the parts called good no longer look like" in caplog.text
