from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import save_file

from ast_hf import from_pretrained
from ast_hf.backbone import FeatureExtractor
from ast_hf.cli import main
from tests import tiny

SETTINGS = [
    "backbone=test_efficientnet", "backbone_layer=blocks.3", "feature_channels=48", "image_size=64", "depth_size=32",
    "position_channels=8", "teacher_channels=8", "student_channels=8", "student_blocks=1", "batch_size=4",
]  # fmt: skip


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector trained by the command line."""
    folder = tmp_path_factory.mktemp("cli")
    weights = folder / "trunk.safetensors"
    trunk = FeatureExtractor("test_efficientnet", "blocks.3", weights=None).trunk
    save_file({k: v.contiguous() for k, v in trunk.state_dict().items()}, weights)
    tiny.folder_of_pictures(folder / "good", 20)
    command = ["train", str(folder / "good"), "--output", str(folder / "model"), "--epochs", "1", "--device", "cpu"]
    assert main([*command, "--backbone-weights", str(weights), "--set", *SETTINGS]) == 0
    return folder / "model"


def test_train_saves_a_calibrated_detector(model_folder: Path) -> None:
    model = from_pretrained(model_folder, device="cpu")
    assert len(model.calibration.scores) == 8
    assert model.config.feature_normalization == "channel"  # from the compact preset


def test_predict_prints_one_row_a_picture(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.folder_of_pictures(tmp_path / "parts", 2)
    tiny.picture(7).save(tmp_path / "parts" / "000.jpg")
    command = ["predict", str(model_folder), str(tmp_path / "parts"), "--output", str(tmp_path / "out"), "--raw-maps"]
    assert main([*command, "--device", "cpu"]) == 0
    printed = capsys.readouterr().out
    rows = [json.loads(line) for line in printed.splitlines()]
    assert [Path(row["image"]).name for row in rows] == ["000.jpg", "000.png", "001.png"]
    expected = from_pretrained(model_folder, device="cpu").predict(tmp_path / "parts" / "001.png")
    assert rows[2]["score"] == pytest.approx(expected.score, rel=1e-5)
    assert rows[2]["threshold"] == expected.threshold
    for row in rows:
        assert Image.open(row["overlay"]).size == (80, 60)
        assert np.load(row["raw_map"]).shape == (60, 80)
    assert len({row["overlay"] for row in rows}) == 3
    assert (tmp_path / "out" / "results.jsonl").read_text() == printed


def test_another_false_positive_rate_moves_the_threshold(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.picture(0).save(tmp_path / "part.png")
    command = ["predict", str(model_folder), str(tmp_path / "part.png"), "--device", "cpu"]
    assert main(command) == 0
    assert main([*command, "--false-positive-rate", "0.4"]) == 0
    strict, lax = (json.loads(line)["threshold"] for line in capsys.readouterr().out.splitlines())
    assert lax < strict
    assert main([*command, "--false-positive-rate", "5"]) == 2


def test_bad_files_are_rows_and_exit_status_1(
    model_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.folder_of_pictures(tmp_path, 2)
    (tmp_path / "001.png").write_bytes((tmp_path / "000.png").read_bytes()[:2000])
    (tmp_path / "empty").mkdir()
    paths = [tmp_path / "000.png", tmp_path / "001.png", tmp_path / "missing.png", tmp_path / "empty"]
    assert main(["predict", str(model_folder), *map(str, paths), "--format", "csv", "--device", "cpu"]) == 1
    rows = {Path(row["image"]).name: row for row in csv.DictReader(io.StringIO(capsys.readouterr().out))}
    assert len(rows) == 4
    assert rows["000.png"]["error"] == ""
    assert json.loads(rows["000.png"]["regions"]) is not None
    assert "damaged" in rows["001.png"]["error"]
    assert "no such file" in rows["missing.png"]["error"]
    assert "no pictures" in rows["empty"]["error"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere", "a.png"], "nowhere is not a folder"),
        (["train", "nowhere", "--output", "x", "--set", "colour=red"], "colour=red"),
        (["train", "nowhere", "--output", "x", "--set", "backbone=test_efficientnet"], "nowhere: there is no"),
    ],
)  # fmt: skip
def test_faults_are_sentences_with_exit_status_2(
    arguments: list[str], message: str, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert message in caplog.text
    assert not capsys.readouterr().out
