"""Updating from the command line."""

from pathlib import Path

import pytest

from ast_hf import from_pretrained
from ast_hf.cli import main
from tests import tiny

RECIPE = ["--no-feature-cache", "--device", "cpu", "--set", "batch_size=4"]


@pytest.mark.parametrize("how", ["--recalibrate-only", "--earlier"])
def test_update_makes_a_new_detector_beside_the_old_one(tmp_path: Path, how: str) -> None:
    earlier, new = (tiny.folder_of_pictures(tmp_path / str(start), 12, start) for start in (0, 12))
    old, updated = tmp_path / "old", tmp_path / "updated"
    train = ["train", str(earlier), "--output", str(old), *RECIPE, "image_size=96", "epochs=1", "min_steps=1"]
    assert main([*train, "local_channels=null"]) == 0
    files = {path.name: path.read_bytes() for path in old.iterdir()}
    command = ["update", str(old), str(new), "--output", str(updated), "--name", "plate", "--steps", "3", *RECIPE, how]
    if how == "--earlier":
        command.append(str(earlier))
    assert main(command) == 0
    assert {path.name: path.read_bytes() for path in old.iterdir()} == files
    assert (tiny.score(updated) == tiny.score(old)) == (how == "--recalibrate-only")
    assert tiny.score("plate") == tiny.score(updated)
    assert from_pretrained(updated).calibration != from_pretrained(old).calibration


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--output", "MODEL/../model"], "old detector's folder"),
        (["--set", "image_size=96"], "image_size: that is part"),
    ],
)
def test_what_would_change_the_old_detector_or_its_pictures_is_refused(
    model: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, options: list[str], message: str
) -> None:
    options = [option.replace("MODEL", model) for option in options]
    assert main(["update", model, str(tmp_path), "--output", str(tmp_path / "new"), *options]) == 2
    assert message in caplog.text
