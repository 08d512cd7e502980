"""What cannot be done is a sentence on stderr and exit status 2."""

from pathlib import Path

import pytest

from ast_hf.cli import main


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["predict", "nowhere", "a.png"], "nowhere is not a folder"),
        (["predict", "demo-tire", "a.png", "--raw-maps"], "--raw-maps needs --output"),
        (["predict", "demo-tire", "a.png", "--false-positive-rate", "5"], "false_positive_rate is 5"),
        (["train", "nowhere", "--output", "x", "--set", "colour=red"], "colour=red"),
        (["train", "nowhere", "--output", "x", "--set", "backbone=test_efficientnet"], "nowhere: there is no"),
        (["export", "nowhere", "--output", "x.onnx"], "nowhere is not a folder"),
        # Before anything is read, let alone trained:
        (["train", "nowhere", "--output", "file"], "to file (it is a file): give another folder"),
        (["train", "nowhere", "--output", "file/x"], "to file/x (Not a directory)"),
        (["train", "nowhere", "--output", "x", "--name", "a b"], "'a b' cannot name a detector"),
        (["train", "nowhere", "--output", "x", "--epochs", "0"], "give a number from 1"),
        (["predict", "nowhere", "a.png", "--output", "file"], "to file (it is a file)"),
        (["convert", "nowhere", "nowhere", "--output", "file"], "to file (it is a file)"),
        (["export", "nowhere", "--output", "file/x.onnx"], "to file (it is a file)"),
        (["predict", "nowhere", "a.png", "--device", "gpu"], "The device gpu cannot be used"),
        (["predict", "demo-tire", "a.png", "--format", "csv", "--batch-size", "0"], "batch_size is 0"),
    ],
)
def test_faults_are_sentences_with_exit_status_2(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").touch()
    assert main(arguments) == 2
    assert message in caplog.text and not capsys.readouterr().out
