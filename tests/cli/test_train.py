"""Training from the command line."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from ast_hf import ASTDetector, from_pretrained
from ast_hf.cli import main
from ast_hf.files import home
from ast_hf.hub import store
from tests import tiny


def test_train_saves_a_calibrated_detector_under_a_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    good = tiny.folder_of_pictures(tmp_path / "good", 20)
    command = ["train", str(good), "--output", str(tmp_path / "model"), "--name", "plate", "--no-feature-cache"]
    command += ["--epochs", "1", "--device", "cpu", "--set", "image_size=96", "student_channels=8", "batch_size=4"]
    assert main(command) == 0
    assert not (home() / "features").exists()
    detector = from_pretrained(tmp_path / "model", device="cpu")
    assert len(detector.calibration.scores) == 6
    assert "less than 39.3 % for this one" in caplog.text  # 1 - 0.05 ** (1 / 6)
    assert "takes 53 more such parts and --false-positive-rate 0.0167." in caplog.text
    assert detector.config.feature_normalization == "channel"  # from the compact preset
    assert main(["predict", "plate", str(good / "000.png"), "--device", "cpu"]) == 0
    assert json.loads(capsys.readouterr().out)["score"] == detector.predict(good / "000.png").score
    with pytest.raises(SystemExit, match="0"):
        main(["train", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "~/.cache/ast_hf/features, at most 4 GiB" in text and "--no-feature-cache" in text


def test_a_detector_that_its_folder_no_longer_takes_is_kept_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def train(*arguments: Any, **options: Any) -> ASTDetector:
        """Meanwhile something came into the way of the checkpoint."""
        (tmp_path / "model" / "config.json").mkdir(parents=True)
        return tiny.detector()

    monkeypatch.setattr("ast_hf.training.train", train)
    store(tiny.detector(seed=1), "plate")
    assert main(["train", "good", "--output", str(tmp_path / "model"), "--name", "plate"]) == 2
    assert "There is a detector plate, which this one will take the place of." in caplog.text
    where = re.search(r"model could not be written \(.*\): all of it is in (.+)\.$", caplog.text.strip())
    assert where and tiny.score(where[1]) == tiny.score(tiny.detector())
